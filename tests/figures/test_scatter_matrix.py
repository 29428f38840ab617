from __future__ import annotations

import math

import pytest
import torch

from tests.figures.helpers import NASTY, SVG, having, parse, texts, titles
from workbench.export import to_pdf, to_png
from workbench.figures import matrix, scatter
from workbench.figures.colours import CIVIDIS, SIGNED

HEADS = [f"a{layer}.h{head}" for layer in range(3) for head in range(2)]
WORDS = {"x_title": "first axis", "y_title": "second axis", "title": "Three kinds"}


def test_every_point_can_be_clicked_and_stands_in_its_place() -> None:
    places = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    root = parse(scatter(places, names=HEADS[:3], groups=None, **WORDS))
    dots = having(root, "wb-node")
    assert [dot.get("data-id") for dot in dots] == HEADS[:3]
    circles = [next(dot.iter(f"{SVG}circle")).attrib for dot in dots]
    x, y = ([float(circle[key]) for circle in circles] for key in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.02)
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.02)
    assert y[0] > y[2]  # upwards
    assert "a0.h1: 1, 2" in titles(root)


def test_groups_differ_in_shape_and_colour_and_have_a_name() -> None:
    root = parse(scatter(torch.rand(6, 2), names=HEADS, groups=[0, 0, 1, 1, 2, -1], group_names=["sink"], **WORDS))
    looks = []
    for dot in having(root, "wb-node"):
        mark = having(dot, "wb-shape")[0]
        commands = "" if mark.tag == f"{SVG}circle" else "".join(c for c in mark.attrib["d"] if c.isalpha())
        looks.append((mark.attrib["fill"], commands))
    assert looks[0] == looks[1] != looks[2]
    assert len({colour for colour, _ in looks}) == 4
    assert len({commands for _, commands in looks[:5]}) == 3
    assert {"sink", "group 1", "group 2", "no group"} <= set(texts(root))


def test_points_without_a_place_are_left_out_and_names_are_text() -> None:
    places = torch.rand(len(NASTY), 2)
    places[0, 0] = math.nan
    figure = scatter(places, names=NASTY, groups=None, **WORDS)
    root = parse(figure)
    assert len(having(root, "wb-node")) == len(NASTY) - 1
    assert not list(root.iter(f"{SVG}script"))
    assert to_png(figure)
    assert to_pdf(figure)


def test_labels_of_points_do_not_touch() -> None:
    torch.manual_seed(0)
    root = parse(scatter(torch.randn(40, 2), names=[f"a{i}.h{i}" for i in range(40)], groups=None, **WORDS))
    labels = [e for e in root.iter(f"{SVG}text") if (e.text or "").startswith("a")]
    assert len(labels) > 15
    places = [(float(e.attrib["x"]), float(e.attrib["y"])) for e in labels]
    assert not [1 for i, a in enumerate(places) for b in places[:i] if abs(a[0] - b[0]) < 20 and abs(a[1] - b[1]) < 9]


@pytest.mark.parametrize(
    ("points", "groups", "words"),
    [
        (torch.rand(6), None, "n, 2"),
        (torch.rand(5, 2), None, "name and a group"),
        (torch.rand(6, 2), [1], "name and a group"),
        (torch.full((6, 2), math.nan), None, "nothing to draw"),
    ],
)
def test_points_that_cannot_be_drawn_are_one_sentence(
    points: torch.Tensor, groups: list[int] | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        scatter(points, names=HEADS, groups=groups, **WORDS)


def test_a_small_matrix_has_a_cell_for_every_pair_and_both_signs_their_scale() -> None:
    values = torch.arange(36.0).view(6, 6)
    root = parse(matrix(values, names=HEADS, unit="similarity", title="Alike"))
    cells = having(root, "wb-cell")
    assert [cell.get("data-id") for cell in cells] == [f"{i},{j}" for i in range(6) for j in range(6)]
    assert cells[0].attrib["fill"] == CIVIDIS[0]
    assert cells[-1].attrib["fill"] == CIVIDIS[-1]
    assert "a0.h0, a0.h1: 1 similarity" in titles(root)
    values[0, 0], values[0, 1] = -70, math.nan
    root = parse(matrix(values, names=HEADS, unit="correlation", title="Alike"))
    assert having(root, "wb-cell")[0].attrib["fill"] == SIGNED[0]
    assert {"−70", "0", "70", "correlation"} <= set(texts(root))
    assert having(root, "wb-cell")[1].attrib["fill"] not in SIGNED


def test_a_large_matrix_marks_layers_and_stays_small() -> None:
    names = [f"a{layer}.h{head}" for layer in range(30) for head in range(9)]
    torch.manual_seed(0)
    values = torch.rand(270, 270)
    values[5, 7] = 3
    figure = matrix(values, names=names, unit="similarity", title="Alike", low=0, high=1)
    root = parse(figure)
    assert len(figure.svg) < 1_000_000
    assert {str(layer) for layer in range(30)} <= set(texts(root))
    rows = having(root, "wb-cell-head")
    assert [row.get("data-id") for row in rows] == names
    assert "a0.h5: highest with a0.h7, 3" in titles(root)
    assert "≥ 1" in texts(root)
    # 29 borders each way
    lines = [e for e in root.iter(f"{SVG}line") if "--wb-ground" in e.get("stroke", "")]
    assert len(lines) == 58


def test_a_matrix_that_is_none_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"\[6, 6\]"):
        matrix(torch.rand(6, 5), names=HEADS, unit="similarity", title="Alike")
    with pytest.raises(ValueError, match="nothing to draw"):
        matrix(torch.full((6, 6), math.nan), names=HEADS, unit="similarity", title="Alike")
