from __future__ import annotations

import math
from itertools import pairwise

import pytest

from tests.figures.helpers import NASTY, SVG, having, parse, texts, titles
from workbench.export import to_html, to_pdf, to_png
from workbench.figures.colours import SIGNED, SKY
from workbench.figures.contribution_map import contribution_map

VALUES = {"a0.h0": 0.5, "a0.h1": -2.0, "a1.h0": 1.0, "a1.h1": 0.0, "m0": 0.25, "m1": math.nan}


def rect_of(root: object, name: str) -> dict[str, str]:
    (cell,) = [e for e in having(root, "wb-cell-head") if e.get("data-id") == name]  # type: ignore[arg-type]
    return next(e.attrib for e in cell if e.tag == f"{SVG}rect")


def test_every_node_has_a_cell_in_its_row_and_column_coloured_by_its_value() -> None:
    root = parse(contribution_map(VALUES, 2, 2, unit="logits"))
    cells = having(root, "wb-cell-head")
    assert sorted(cell.attrib["data-id"] for cell in cells) == sorted(VALUES)
    assert [cell.attrib["data-kind"] for cell in cells].count("mlp") == 2
    place = {name: rect_of(root, name) for name in VALUES}
    assert float(place["a1.h0"]["y"]) < float(place["a0.h0"]["y"])  # layer 0 at the bottom
    assert place["a0.h0"]["x"] == place["a1.h0"]["x"]
    assert place["a0.h0"]["y"] == place["a0.h1"]["y"] == place["m0"]["y"]
    heads_end = float(place["a0.h1"]["x"]) + float(place["a0.h1"]["width"])
    assert float(place["m0"]["x"]) > heads_end + 4  # set apart
    assert place["a0.h1"]["fill"] == SIGNED[0]
    assert place["a1.h1"]["fill"] == SIGNED[len(SIGNED) // 2]
    assert {"a0.h1: −2 logits", "a1.h0: 1 logits"} <= set(titles(root))


def test_what_has_no_value_is_grey_and_said_so() -> None:
    values = {name: value for name, value in VALUES.items() if name != "a1.h0"}
    figure = contribution_map(values, 2, 2, unit="logits", absent="comes after the target")
    root = parse(figure)
    assert rect_of(root, "m1")["fill"] == rect_of(root, "a1.h0")["fill"] not in SIGNED
    assert {"m1: comes after the target", "a1.h0: comes after the target"} <= set(titles(root))
    assert "Grey: comes after the target." in figure.caption
    assert "Grey" not in contribution_map(VALUES | {"m1": 1.0}, 2, 2, unit="logits").caption
    assert set(figure.data["values"]) == set(values) - {"m1"}


def test_the_scale_is_symmetric_and_has_numbers_and_a_unit() -> None:
    written = texts(parse(contribution_map(VALUES, 2, 2, unit="nats")))
    assert {"−2", "0", "2", "nats"} <= set(written)


def test_an_mlp_beyond_all_heads_does_not_whiten_them() -> None:
    figure = contribution_map(VALUES | {"m1": 40.0}, 2, 2, unit="nats")
    root = parse(figure)
    assert rect_of(root, "a0.h1")["fill"] == SIGNED[0]
    assert rect_of(root, "m1")["fill"] == SIGNED[-1]
    assert {"≤ −2", "≥ 2", "40"} <= set(texts(root))
    assert "beyond it: m1." in figure.caption
    faint = parse(contribution_map({"a0.h0": 0.001, "m0": -40.0}, unit="nats"))
    assert {"−40", "40"} <= set(texts(faint))


def test_a_model_without_mlps_has_no_column_for_them() -> None:
    root = parse(contribution_map({"a0.h0": 1.0, "a1.h1": 2.0}, 2, 2, unit="logits"))
    assert "MLP" not in texts(root)
    assert {cell.get("data-kind") for cell in having(root, "wb-cell-head")} == {"head"}


def test_the_title_is_the_finding() -> None:
    draw = contribution_map
    assert draw(VALUES, 2, 2, unit="logits", whole=3.5).title == "Head 1.0 gives most: 1 of 3.5 logits"
    assert draw(VALUES | {"m1": 4.0}, 2, 2, unit="share", whole=1).title == "MLP 1 gives most: 4 share"
    assert draw({"a0.h0": -1.0}, 2, 2, unit="logits").title == "Head 0.0 works against it most: −1 logits"
    assert draw({"a0.h0": 0.0}, 2, 2, unit="logits").title == "None of 1 node gives anything"


def test_the_means_at_the_right_are_those_of_the_heads() -> None:
    said = titles(parse(contribution_map(VALUES, 2, 2, unit="logits")))
    assert {"layer 0, mean of its heads: −0.75 logits", "layer 1, mean of its heads: 0.5 logits"} <= set(said)


def test_the_selected_are_outlined_and_names_from_an_address_do_no_harm() -> None:
    figure = contribution_map(VALUES, 2, 2, unit="logits", selected=["a0.h1", "a9.h9", *NASTY])
    outlines = [e for e in parse(figure).iter(f"{SVG}rect") if e.get("stroke") == SKY]
    assert len(outlines) == 1
    assert outlines[0].attrib["x"] == rect_of(parse(figure), "a0.h1")["x"]


@pytest.mark.parametrize("name", ["a2.h0", "a0.h2", "m2", "input", "a0"])
def test_a_name_that_is_no_node_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is no node of a model with 2 layers of 2 heads"):
        contribution_map({name: 1.0}, 2, 2, unit="logits")


def test_layers_and_heads_follow_from_the_names_where_nobody_says() -> None:
    figure = contribution_map({"a1.h2": 1.0, "m3": -1.0}, unit="logits")
    assert (figure.data["layers"], figure.data["heads"]) == (4, 3)
    only = contribution_map({"m0": 1.0, "m1": 2.0}, unit="logits")
    assert len(having(parse(only), "wb-cell-head")) == 2


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        contribution_map({"a0.h0": math.nan}, 2, 2, unit="logits")


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 2), (12, 12), (30, 9), (64, 32)])
def test_cells_of_any_model_are_apart_and_inside_the_picture(layers: int, heads: int) -> None:
    values = {f"a{layer}.h{head}": float(head - layer) for layer in range(layers) for head in range(heads)}
    figure = contribution_map(values | {f"m{layer}": 1.0 for layer in range(layers)}, layers, heads, unit=NASTY[0])
    root = parse(figure)
    boxes = [rect_of_cell(cell) for cell in having(root, "wb-cell-head")]
    assert len({(x, y) for x, y, _, _ in boxes}) == layers * (heads + 1)
    width = min(step for step in (b[0] - a[0] for a, b in pairwise(boxes)) if step > 0)
    assert width >= min(box[2] for box in boxes) - 0.02
    assert max(x + w for x, _, w, _ in boxes) < float(root.attrib["width"])
    assert max(y + h for _, y, _, h in boxes) < float(root.attrib["height"])


def rect_of_cell(cell: object) -> tuple[float, float, float, float]:
    box = next(e.attrib for e in cell if e.tag == f"{SVG}rect")  # type: ignore[attr-defined]
    return float(box["x"]), float(box["y"]), float(box["width"]), float(box["height"])


def test_it_is_written_as_every_picture() -> None:
    figure = contribution_map(VALUES, 2, 2, unit="logits", title="<script>", caption="</svg>")
    assert to_png(figure).startswith(b"\x89PNG")
    assert to_pdf(figure).startswith(b"%PDF")
    assert "<script>alert" not in to_html(figure)
