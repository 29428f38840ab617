from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tests.figures.helpers import SVG, having, parse, texts, titles
from workbench.figures import head_map
from workbench.figures.colours import CIVIDIS, SKY

VALUES = torch.tensor([[0.5, 2.0, 1.0], [math.nan, 0.25, 0.0]])


def cell(root: object, name: str) -> dict[str, str]:
    (found,) = [e for e in having(root, "wb-cell-head") if e.get("data-id") == name]  # type: ignore[arg-type]
    return next(e.attrib for e in found if e.tag == f"{SVG}rect")


def test_every_head_has_a_cell_in_its_place_from_dark_to_light() -> None:
    root = parse(head_map(VALUES, unit="nats"))
    place = {name: cell(root, name) for name in (f"a{i}.h{j}" for i in range(2) for j in range(3))}
    assert float(place["a1.h0"]["y"]) < float(place["a0.h0"]["y"])  # layer 0 at the bottom
    assert float(place["a0.h0"]["x"]) < float(place["a0.h1"]["x"]) == float(place["a1.h1"]["x"])
    assert place["a0.h1"]["fill"] == CIVIDIS[-1]
    assert place["a1.h2"]["fill"] == CIVIDIS[0]
    assert {"a0.h1: 2 nats", "a1.h0: no value"} <= set(titles(root))
    assert place["a1.h0"]["fill"] not in CIVIDIS


def test_the_scale_has_its_ends_and_unit_and_says_what_lies_beyond() -> None:
    assert {"0", "1", "2", "nats"} <= set(texts(parse(head_map(VALUES, unit="nats"))))
    figure = head_map(VALUES, unit="share", low=0.25, high=1.0)
    assert {"≤ 0.25", "≥ 1", "share"} <= set(texts(parse(figure)))
    root = parse(figure)
    assert cell(root, "a0.h1")["fill"] == cell(root, "a0.h2")["fill"] == CIVIDIS[-1]
    below = parse(head_map(torch.tensor([[-1.0, 1.0]]), unit="scores"))
    assert {"−1", "0", "1"} <= set(texts(below))


def test_the_means_are_those_of_the_layers() -> None:
    said = titles(parse(head_map(VALUES, unit="nats")))
    assert "layer 0, mean of its heads: 1.17 nats" in said
    assert "layer 1, mean of its heads: 0.125 nats" in said
    assert not any("mean" in title for title in titles(parse(head_map(VALUES[:1], unit="nats"))))


def test_the_title_is_the_finding_and_grey_is_said() -> None:
    figure = head_map(VALUES, unit="nats")
    assert figure.title == "From 0 in head 1.2 to 2 nats in head 0.1"
    assert "Grey: no value." in figure.caption
    assert "Grey" not in head_map(VALUES[:1], unit="nats").caption
    assert head_map(torch.ones(2, 2), unit="nats").title == "All heads have 1 nats"
    assert figure.data["values"] == [[0.5, 2.0, 1.0], [None, 0.25, 0.0]]


def test_selected_heads_are_outlined_and_strange_names_are_not() -> None:
    root = parse(head_map(VALUES, unit="nats", selected=["a0.h1", "a9.h9", "m0"]))
    outlines = [e for e in root.iter(f"{SVG}rect") if e.get("stroke") == SKY]
    assert [(e.get("x"), e.get("y")) for e in outlines] == [(cell(root, "a0.h1")["x"], cell(root, "a0.h1")["y"])]


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (30, 9), (80, 64)])
def test_labels_do_not_touch_and_all_is_inside(layers: int, heads: int) -> None:
    root = parse(head_map(torch.rand(layers, heads), unit="share of attention"))
    rows = [e for e in root.iter(f"{SVG}text") if e.get("text-anchor") == "end"]
    heights = sorted(float(e.attrib["y"]) for e in rows)
    assert all(b - a >= 10 for a, b in pairwise(heights))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for rect in root.iter(f"{SVG}rect"):
        assert float(rect.get("x", 0)) + float(rect.attrib["width"]) <= width
        assert float(rect.get("y", 0)) + float(rect.attrib["height"]) <= height


@pytest.mark.parametrize(
    ("values", "scale", "words"),
    [
        (torch.rand(3), {}, "layer, head"),
        (torch.full((2, 2), math.nan), {}, "nothing to draw"),
        (torch.rand(2, 2), {"low": 1.0, "high": 0.5}, "from a low to a high"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(values: torch.Tensor, scale: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        head_map(values, unit="nats", **scale)
