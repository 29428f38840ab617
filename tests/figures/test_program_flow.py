"""The data flow of a learned program as a picture."""

from __future__ import annotations

import pytest

from tests.figures.helpers import NASTY, having, parse, texts, titles
from workbench.circuits.known.programs import TASKS, bundled
from workbench.figures import Figure, program_flow
from workbench.known_view import program_picture

INPUTS = ("tokens", "positions", "ones")
MODULES = ("attn_0_0", "attn_0_1", "num_attn_0_0", "mlp_0_0", "num_mlp_0_0", "attn_1_0", "mlp_1_0")
EDGES = ["tokens->attn_0_1", "positions->attn_0_1", "attn_0_1->mlp_0_0", "mlp_0_0->attn_1_0", "tokens->num_attn_0_0"]
EDGES += ["attn_1_0->output", "num_attn_0_0->output"]


def drawn(figure: Figure) -> dict[str, tuple[str, float, float]]:
    """Shape and centre of each module that is drawn."""
    found = {}
    for group in having(parse(figure), "wb-node"):
        shape = next(e for e in group if "wb-shape" in e.get("class", ""))
        kind, get = shape.tag.rpartition("}")[2], lambda name, e=shape: float(e.attrib[name])
        if kind == "circle":
            found[group.attrib["data-id"]] = (kind, get("cx"), get("cy"))
        else:
            found[group.attrib["data-id"]] = (kind, get("x") + get("width") / 2, get("y") + get("height") / 2)
    return found


def test_every_edge_is_drawn_once_and_what_no_edge_touches_is_a_dot() -> None:
    root = parse(program_flow(INPUTS, MODULES, EDGES))
    assert sorted(e.attrib["data-id"] for e in having(root, "wb-edge")) == sorted(EDGES)
    live = {"tokens", "positions", "attn_0_1", "num_attn_0_0", "mlp_0_0", "attn_1_0", "output"}
    assert {e.attrib["data-id"] for e in having(root, "wb-node")} == live
    assert len(having(root, "wb-dead")) == len(INPUTS) + len(MODULES) + 1 - len(live)
    assert "num_mlp_0_0: no answer depends on it" in titles(root)


def test_computation_runs_upwards_and_rows_are_layers() -> None:
    at = drawn(program_flow(INPUTS, MODULES, EDGES))
    height = {name: y for name, (_, _, y) in at.items()}
    assert height["tokens"] == height["positions"]
    assert height["attn_0_1"] == height["num_attn_0_0"]
    order = ["tokens", "attn_0_1", "mlp_0_0", "attn_1_0", "output"]
    assert [height[name] for name in order] == sorted((height[name] for name in order), reverse=True)
    assert len({(x, y) for _, x, y in at.values()}) == len(at)


def test_kinds_are_told_apart_by_shape_and_fill() -> None:
    figure = program_flow(INPUTS, MODULES, [*EDGES, "num_attn_0_0->num_mlp_0_0", "num_mlp_0_0->output"])
    shapes = {name: kind for name, (kind, _, _) in drawn(figure).items()}
    assert (shapes["attn_0_1"], shapes["mlp_0_0"], shapes["num_mlp_0_0"]) == ("circle", "rect", "rect")
    hollow = {
        group.attrib["data-id"]
        for group in having(parse(figure), "wb-node")
        if any("wb-shape" in e.get("class", "") and "stroke" in e.attrib for e in group)
    }
    assert hollow == {"num_attn_0_0", "num_mlp_0_0"}


def test_edges_differ_by_who_reads_in_colour_and_in_dashes() -> None:
    root = parse(program_flow(INPUTS, MODULES, EDGES))
    look = {e.attrib["data-id"]: (e.attrib["stroke"], e.get("stroke-dasharray")) for e in having(root, "wb-edge")}
    kinds = [look["tokens->attn_0_1"], look["attn_0_1->mlp_0_0"], look["attn_1_0->output"]]
    assert len({colour for colour, _ in kinds}) == len({dash for _, dash in kinds}) == 3
    assert look["mlp_0_0->attn_1_0"] == look["tokens->attn_0_1"]
    assert {"read by a head", "read by a lookup", "read by the answer"} <= set(texts(root))


def test_the_title_counts_what_the_answers_depend_on() -> None:
    assert program_flow(INPUTS, MODULES, EDGES).title == "4 of 7 modules and 7 edges make the answers"
    assert program_flow(INPUTS, MODULES, EDGES, title="Mine", caption="Said.").title == "Mine"


@pytest.mark.parametrize(
    ("edges", "modules", "said"),
    [
        (["tokens->attn_9_9"], MODULES, "'attn_9_9' in the edge 'tokens->attn_9_9' is no variable"),
        (["tokens"], MODULES, "is no variable"),
        ([], ("head_1",), "'head_1' is not named as a module"),
    ],
)
def test_what_is_no_module_is_refused(edges: list[str], modules: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        program_flow(INPUTS, modules, edges)


@pytest.mark.parametrize("name", NASTY)
def test_names_and_captions_are_text(name: str) -> None:
    root = parse(program_flow((name or "x", "y"), ("attn_0_0",), ["y->attn_0_0"], caption=name))
    assert not any(e.tag.endswith("script") for e in root.iter())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.key)
def test_every_learned_program_is_drawn_whole(task: object) -> None:
    program = bundled(task)  # type: ignore[arg-type]
    figure = program_picture(program).figure
    assert figure is not None
    at = drawn(figure)
    assert set(at) == {*program.card["live"], "output"}
    assert {e["id"] for e in figure.data["edges"]} == program.true_edges
    sizes = program.task.sizes
    n = sizes.layers * (sizes.heads + sizes.counts + sizes.mlps + sizes.number_mlps)
    assert len(figure.data["nodes"]) == 3 + n + 1
    places = [(x, y) for _, x, y in at.values()]
    assert min(abs(a[0] - b[0]) + abs(a[1] - b[1]) for i, a in enumerate(places) for b in places[:i]) > 20
