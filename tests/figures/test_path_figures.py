"""Figures of paths and lenses: what is drawn stands where its numbers say, and any token is text."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.figures.helpers import NASTY, SVG, having, parse, texts, titles
from workbench.circuits.graph import Graph
from workbench.export import to_pdf, to_png
from workbench.figures import (
    before_after,
    length_positions,
    lens_grid,
    path_chains,
    path_flow,
    path_kinds,
    path_lengths,
    signed_bars,
)
from workbench.figures.colours import SIGNED
from workbench.figures.places import places
from workbench.lens import LogitLens
from workbench.paths import Ensemble, FoundPath, TopPaths


def ensemble(values: list[float], biases: list[float] | None = None, **changes: Any) -> Ensemble:
    n = len(values)
    row = torch.tensor([values], dtype=torch.float64)
    found = Ensemble(
        model="small",
        target="logit of Mary",
        unit="logits",
        by="length",
        keep=n - 1,
        depth=n - 1,
        at=[2],
        labels=[str(i) for i in range(n)],
        by_prompt=row,
        bias_by_prompt=None if biases is None else torch.tensor([biases], dtype=torch.float64),
        readout_bias=torch.zeros(1, dtype=torch.float64),
        kinds_by_prompt=None,
        by_position_by_prompt=row[:, :, None] * torch.tensor([0.5, -1.0, 1.0]),
        value=row.sum(1),
        counts=[math.comb(n - 1, i) for i in range(n)],
    )
    return replace(found, **changes)


def box(element: Element) -> tuple[float, float, float, float]:
    x, y, w, h = (float(element.attrib[key]) for key in ("x", "y", "width", "height"))
    return x, y, w, h


def bars(root: Element, label: str) -> list[Element]:
    """The bars of a length, without the ground that takes the pointer."""
    (group,) = [e for e in having(root, "wb-cell-head") if e.get("data-id") == label]
    return [e for e in group.iter(f"{SVG}rect") if e.get("class") != "wb-shape"]


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=12))
@settings(max_examples=30, deadline=None)
def test_bars_are_as_long_as_their_values_and_start_at_zero(values: list[float]) -> None:
    root = parse(path_lengths(ensemble(values)))
    drawn = [box(bars(root, str(i))[0]) for i in range(len(values))]
    largest = max(range(len(values)), key=lambda i: abs(values[i]))
    if abs(values[largest]) < 1:
        return
    unit = drawn[largest][3] / abs(values[largest])
    zero = drawn[largest][1] + (drawn[largest][3] if values[largest] >= 0 else 0.0)
    for value, (_, y, _, height) in zip(values, drawn, strict=True):
        assert height == pytest.approx(max(abs(value) * unit, 0.6), abs=0.05)
        assert (y + height if value >= 0 else y) == pytest.approx(zero, abs=0.65)


def test_the_running_sum_ends_at_the_models_own_value() -> None:
    root = parse(path_lengths(ensemble([0.5, 2.0, -1.0, 1.5])))
    (whole,) = having(root, "wb-whole")
    (series,) = having(root, "wb-series")
    heights = [float(dot.attrib["cy"]) for dot in series.iter(f"{SVG}circle")]
    assert heights[-1] == pytest.approx(float(whole.attrib["y1"]), abs=0.02)
    assert heights[1] < heights[2] > heights[3]
    assert "lengths up to 1: 2.5 logit, 83.3 % of the whole" in titles(root)


@pytest.mark.parametrize(
    ("values", "labels", "words"),
    [
        ([0.0, 0.1, 1.0, 3.0, 0.5, 0.1], None, "Paths of 2 to 3 sublayers carry 85 % of the logit"),
        ([0.0, 5.0, 0.1], None, "Paths of 1 sublayer carry 98 % of the logit"),
        ([0.0, 0.2, 5.0], ["0", "1", "2+"], "Paths of 2 sublayers or more carry 96 % of the logit"),
        ([0.0, 40.0, -38.0], None, "Lengths cancel: parts of 78 in all, for a logit of 2"),
        ([1.0, -1.0, 0.0], None, "Lengths cancel: parts of 2 in all, for a logit of 0"),
    ],
)
def test_the_title_is_the_shortest_run_of_lengths_or_what_cancels(
    values: list[float], labels: list[str] | None, words: str
) -> None:
    changes = {} if labels is None else {"labels": labels}
    assert path_lengths(ensemble(values, **changes)).title == words


def test_biases_stand_beside_what_begins_at_the_embedding() -> None:
    ens = ensemble([1.0, 3.0], [0.0, 2.0], readout_bias=torch.tensor([0.25], dtype=torch.float64))
    root = parse(path_lengths(ens))
    start, bias = (box(bar)[3] for bar in bars(root, "1"))
    assert bias == pytest.approx(2 * start, abs=0.05)
    direct, readout = (box(bar)[3] for bar in bars(root, "0"))
    assert direct == pytest.approx(3 * readout, abs=0.05)
    assert any("the direct path 0.75, the readout's bias 0.25" in title for title in titles(root))
    assert len(bars(parse(path_lengths(ensemble([1.0, 3.0], [0.0, 0.0]))), "1")) == 1


def test_counts_that_pass_every_float_are_drawn() -> None:
    figure = path_lengths(ensemble([1.0, 2.0], counts=[1, 26**400]))
    (line,) = having(parse(figure), "wb-counts")
    assert re.fullmatch(r"M[\d. ]+L[\d. ]+", line.attrib["d"])
    assert figure.data["counts"][1] == str(26**400)
    assert any("· 10⁵⁶⁵ paths" in title for title in titles(parse(figure)))
    assert to_png(figure)


def test_kinds_are_a_table_of_those_there_are() -> None:
    table = torch.tensor([[[0.0, 1.0, 2.0], [-4.0, 3.0, 0.0], [0.5, 0.0, 0.0]]], dtype=torch.float64)
    ens = ensemble([0.0, -3.0, 5.5, 2.0], keep=2, depth=4, labels=["0", "1", "2", "3+"], kinds_by_prompt=table)
    figure = path_kinds(ens, selected=(1, 0))
    cells = {e.attrib["data-id"] for e in having(parse(figure), "wb-cell-head")}
    assert cells == {"0,0", "0,1", "0,2", "1,0", "1,1", "2,0"}
    assert figure.title == "Paths of 1 attention and 1 MLP carry most: 3 logit of 4.5"
    assert "Longer paths carry 2 together." in figure.caption
    with pytest.raises(ValueError, match="by='kind'"):
        path_kinds(ensemble([1.0]))


def test_positions_are_across_and_lengths_upwards() -> None:
    root = parse(length_positions(ensemble([1.0, 2.0]), ["When", " Mary", " went"]))
    cells = {e.attrib["data-id"]: box(next(e.iter(f"{SVG}rect"))) for e in having(root, "wb-cell-head")}
    assert cells["1,0"][1] < cells["0,0"][1]
    assert cells["0,0"][0] < cells["0,1"][0] < cells["0,2"][0]
    assert "length 1 at position 1 (·Mary): −2 logit" in titles(root)


def test_positions_of_any_token_are_text() -> None:
    ens = ensemble([1.0, -2.0])
    table = torch.ones(1, 2, len(NASTY), dtype=torch.float64)
    figure = length_positions(replace(ens, by_position_by_prompt=table), NASTY)
    assert not list(parse(figure).iter(f"{SVG}script"))
    assert to_png(figure)
    assert to_pdf(figure)
    with pytest.raises(ValueError, match="one answer"):
        length_positions(replace(ens, by_position_by_prompt=None), ["a"])


def top(*found: tuple[str, float], value: float = 4.0) -> TopPaths:
    listed = [FoundPath(tuple(word.split()), torch.tensor([carried])) for word, carried in found]
    return TopPaths("small", "logit of Mary − John", "logits", listed, torch.tensor([value]), 4, 9, True, 0.0)


PATHS = top(
    ("embed m0 a3.h1", 2.0),
    ("embed m0 a3.h1 m3", -1.0),
    ("embed a1.h0 a3.h1", 0.5),
    ("bias a1.h0 m3", 0.25),
    ("bias a1 m3", -0.125),
    ("bias", 0.1),
    ("embed", 0.05),
)


def test_a_flow_leads_along_every_path_and_is_as_wide_as_its_share() -> None:
    root = parse(path_flow(PATHS, layers=4, heads=3))
    widths = {}
    for i, found in enumerate(PATHS.paths):
        steps = [e for e in having(root, "wb-edge") if e.get("data-id") == f"path {i}"]
        stops = [name for name in found.word if "." in name or name.startswith("m")]
        start = [] if found.word[0] == "bias" else ["embed"]
        walked = [(e.get("data-source"), e.get("data-target")) for e in steps]
        assert sorted(walked) == sorted(pairwise([*start, *stops, "logits"]))  # type: ignore[type-var]
        assert all(("stroke-dasharray" in e.attrib) == (found.mean < 0) for e in steps)
        if steps:
            widths[i] = float(steps[0].attrib["stroke-width"])
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.02)
    assert widths[2] == pytest.approx(widths[0] / 4, abs=0.02)


def test_nodes_stand_where_the_circuit_graph_has_them() -> None:
    where = places(Graph(4, 3), ["m0", "a3.h1", "m3", "a1.h0"])
    root = parse(path_flow(PATHS, layers=4, heads=3))
    nodes = {e.attrib["data-id"]: e for e in having(root, "wb-node")}
    for name in ("a3.h1", "a1.h0"):
        (circle,) = list(nodes[name].iter(f"{SVG}circle"))
        assert (float(circle.attrib["cx"]), float(circle.attrib["cy"])) == pytest.approx(where.at(name), abs=0.01)
    square = next(nodes["m0"].iter(f"{SVG}rect"))
    assert box(square)[0] + box(square)[2] / 2 == pytest.approx(where.at("m0")[0], abs=0.01)
    assert {name for name in nodes if name.startswith(("bias", "readout"))} == {
        "bias a1.h0",
        "bias a1",
        "readout bias",
    }


def test_curves_of_one_bundle_lie_side_by_side() -> None:
    root = parse(path_flow(PATHS, layers=4, heads=3))
    starts = {}
    for e in having(root, "wb-edge"):
        if (e.get("data-source"), e.get("data-target")) == ("m0", "a3.h1"):
            x = float(re.match(r"M([\d.]+)", e.attrib["d"])[1])  # type: ignore[index]
            starts[e.attrib["data-id"]] = (x, float(e.attrib["stroke-width"]))
    (x0, w0), (x1, w1) = starts["path 0"], starts["path 1"]
    assert x1 - x0 == pytest.approx((w0 + w1) / 2, abs=0.15)


def test_the_flow_says_what_the_paths_carry_and_hover_says_each() -> None:
    figure = path_flow(PATHS, shown=3)
    assert figure.title == "3 paths carry 38 % of the logit difference; 3 pass head 3.1"
    assert "embed → m0 → a3.h1: 2 logit difference (50 %)" in titles(parse(figure))
    with pytest.raises(ValueError, match="No path was found"):
        path_flow(top())
    with pytest.raises(ValueError, match="shown=0"):
        path_flow(PATHS, shown=0)
    with pytest.raises(ValueError, match="no prompt 1"):
        path_flow(PATHS, example=1)


def test_chains_are_aligned_by_layer_and_bars_by_value() -> None:
    root = parse(path_chains(PATHS, selected="path 1"))
    across: dict[str, set[float]] = {}
    for node in having(root, "wb-node"):
        (label,) = list(node.iter(f"{SVG}text"))
        across.setdefault(node.attrib["data-id"], set()).add(float(label.attrib["x"]))
    assert all(len(xs) == 1 for xs in across.values())
    (m0,), (a1,), (a3,), (m3,) = (across[name] for name in ("m0", "a1.h0", "a3.h1", "m3"))
    assert m0 < a1 < a3 < m3
    rows = {e.attrib["data-id"]: e for e in having(root, "wb-cell-head")}
    lengths = {name: box(list(row.iter(f"{SVG}rect"))[1])[2] for name, row in rows.items()}
    assert lengths["path 1"] == pytest.approx(lengths["path 0"] / 2, abs=0.02)
    for figure in (path_chains(PATHS), path_flow(PATHS)):
        assert to_png(figure)
        assert to_pdf(figure)


def lens(words: list[str] | None = None) -> LogitLens:
    words = words or ["<b>", " Mary", "a very long token indeed", " x"]
    place, pos, k = 3, 2, 2
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(place, 1, pos, k, generator=generator).sort(-1, descending=True).values / 2
    ids = torch.tensor([[[[0, 1], [2, 3]]], [[[3, 0], [1, 2]]], [[[2, 1], [1, 0]]]]) % len(words)
    ranks = torch.tensor([[[[400], [20]]], [[[3], [1]]], [[[2], [1]]]])
    return LogitLens(
        model="small",
        title="logit lens",
        places=("embed", "m0", "m1"),
        names=(("When", words[0]),),
        positions=(0, 1),
        top=ids,
        top_words=dict(enumerate(words)),
        top_probs=probs,
        targets=torch.ones(1, pos, 1, dtype=torch.long) % len(words),
        logits=torch.zeros(place, 1, pos, 1),
        probs=torch.rand(place, 1, pos, 1, generator=generator),
        ranks=ranks,
        entropy=torch.tensor([[[2.0, 1.0]], [[1.5, 0.5]], [[1.0, 0.25]]]),
        kl=torch.tensor([[[3.0, 2.0]], [[1.0, 1.0]], [[0.0, 0.0]]]),
        complete=True,
    )


def test_a_lens_has_the_first_word_of_each_cell_with_the_last_layer_on_top() -> None:
    figure = lens_grid(lens(), selected=("m0", 1))
    cells = {e.attrib["data-id"]: e for e in having(parse(figure), "wb-cell-head")}
    assert set(cells) == {f"{place},{p}" for place in ("embed", "m0", "m1") for p in (0, 1)}
    shown = {name: texts(cell)[0] for name, cell in cells.items()}
    assert shown["embed,0"] == "<b>"
    assert shown["m1,1"] == "·Mary"
    assert shown["embed,1"].endswith("…")
    assert "a·very·long·token·indeed" in titles(cells["embed,1"])[0]
    tops = {name: box(next(cell.iter(f"{SVG}rect")))[1] for name, cell in cells.items()}
    assert tops["m1,0"] < tops["m0,0"] < tops["embed,0"]
    named = {e.text: float(e.attrib["y"]) for e in parse(figure).iter(f"{SVG}text")}
    assert all(0 < named[place] - tops[f"{place},0"] < 16 for place in ("embed", "m0", "m1"))
    assert figure.title == "“·Mary” is the answer at the last position from m0 on"


def test_every_colour_of_a_lens_is_of_its_own_number() -> None:
    read = lens()
    for show, table in (("entropy", read.entropy), ("kl", read.kl), ("rank", read.ranks[..., 0])):
        figure = lens_grid(read, show=show)  # type: ignore[arg-type]
        assert figure.data["values"] == [[float(x) for x in row[0]] for row in table]
        assert to_png(figure)
    assert lens_grid(read, show="rank").title == "“·Mary” comes first at the last position from m0 on"
    assert (
        lens_grid(read, show="entropy").title == "Entropy at the last position goes from 1 nats at embed to 0.25 at m1"
    )
    # Dark is the first rank: both cells of rank 1 are alike and darker than the others.
    root = parse(lens_grid(read, show="rank"))
    fills = {e.attrib["data-id"]: next(e.iter(f"{SVG}rect")).attrib["fill"] for e in having(root, "wb-cell-head")}
    assert fills["m0,1"] == fills["m1,1"]
    assert len({fills["embed,0"], fills["m0,0"], fills["m1,1"]}) == 3
    with pytest.raises(ValueError, match="'show' is one of"):
        lens_grid(read, show="loss")  # type: ignore[arg-type]


def test_words_of_a_lens_are_text_whatever_they_hold() -> None:
    for word in NASTY:
        figure = lens_grid(lens([word, word]))
        assert not list(parse(figure).iter(f"{SVG}script"))
        assert to_png(figure)


def test_bars_keep_what_they_leave_out_in_one_row() -> None:
    values = [(f"m{i}", float(i - 5)) for i in range(11)]
    figure = signed_bars(values, unit="logit", shown=4, whole=1.0)
    rows = {e.attrib["data-id"]: e for e in having(parse(figure), "wb-cell-head")}
    assert list(rows)[:4] == ["m0", "m10", "m1", "m9"]
    assert "7 others: 0 logit" in titles(rows["7 others"])
    assert figure.title == "m0 works against it most: −5 logit"
    nasty = signed_bars([(name, 1.0) for name in NASTY], unit="logit")
    assert not list(parse(nasty).iter(f"{SVG}script"))
    assert to_pdf(nasty)
    with pytest.raises(ValueError, match="No value"):
        signed_bars([("a", math.nan)], unit="logit")


def test_before_and_after_say_what_is_certain() -> None:
    rows = [("cut a1", 2.0, 1.5, -0.6, -0.4), ("cut m3", 2.0, 2.2, 0.1, 0.3), ("cut m2", 2.0, 1.9, -0.3, 0.1)]
    figure = before_after(rows, unit="nats")
    assert figure.title == "1 better, 1 worse, 1 without a clear change"
    drawn = {e.attrib["data-id"]: list(e.iter(f"{SVG}circle")) for e in having(parse(figure), "wb-cell-head")}
    for name, before, after, *_ in rows:
        first, second = (float(circle.attrib["cx"]) for circle in drawn[name])
        assert (second > first) == (after > before)
    gaps = [float(b.attrib["cx"]) - float(a.attrib["cx"]) for a, b in drawn.values()]
    assert gaps[0] == pytest.approx(-2.5 * gaps[1], abs=0.05)
    fills = {name: circles[1].attrib["fill"] for name, circles in drawn.items()}
    assert (fills["cut a1"], fills["cut m3"]) == (SIGNED[-1], SIGNED[0])
    assert "--wb-muted" in fills["cut m2"]
    flipped = before_after(rows, unit="accuracy", better="higher")
    assert flipped.title == "1 better, 1 worse, 1 without a clear change"
    again = {e.attrib["data-id"]: list(e.iter(f"{SVG}circle"))[1] for e in having(parse(flipped), "wb-cell-head")}
    assert again["cut m3"].attrib["fill"] == fills["cut a1"]
    assert to_png(before_after([("only", 1.0, 1.0, math.nan, math.nan)], unit="nats"))
    with pytest.raises(ValueError, match="nothing to compare"):
        before_after([], unit="nats")
