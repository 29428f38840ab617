from __future__ import annotations

import re

import pytest
import torch

from tests.figures.helpers import having, parse, titles
from workbench.figures import Picture
from workbench.figures.colours import SKY
from workbench.figures.patch_heads import patch_heads


def square(prefix: tuple[str, ...] = ("cls",), side: int = 8) -> Picture:
    return Picture(torch.rand(1, side, side, generator=torch.Generator().manual_seed(0)), (4, 4), prefix)


def patterns(layers: int, heads: int, n: int = 17) -> torch.Tensor:
    return torch.randn(layers, heads, n, n, generator=torch.Generator().manual_seed(1)).softmax(-1)


def test_every_head_can_be_clicked_and_stands_where_the_maps_have_it() -> None:
    figure = patch_heads(square(), patterns(3, 4), selected=["a2.h1"])
    cells = {mark.attrib["data-id"]: mark for mark in having(parse(figure), "wb-cell-head")}
    assert set(cells) == {f"a{layer}.h{head}" for layer in range(3) for head in range(4)}

    def place(name: str) -> tuple[float, float]:
        (shape,) = having(cells[name], "wb-shape")
        return float(shape.attrib["x"]), float(shape.attrib["y"])

    assert place("a0.h0")[1] > place("a1.h0")[1] > place("a2.h0")[1]  # layer 0 at the bottom
    assert place("a0.h0")[0] < place("a0.h1")[0]
    outlined = [name for name in cells if having(cells[name], "wb-shape")[0].attrib["stroke"] == SKY]
    assert outlined == ["a2.h1"]


def test_hover_says_where_the_query_looks() -> None:
    weights = torch.full((1, 2, 17, 17), 0.01)
    weights[0, 1, 3, 1 + 6] = 0.84
    figure = patch_heads(square(), weights, query=3)
    assert "a0.h1: most on patch (1, 2), 84 %" in titles(parse(figure))
    assert figure.data["attention"][0][1][7] == pytest.approx(0.84)
    assert "patch (0, 2)" in figure.title


def test_the_strongest_weight_anywhere_is_drawn_strongest_and_a_muted_class_token_does_not_count() -> None:
    weights = torch.full((2, 1, 17, 17), 0.001)
    weights[0, 0, :, 0] = 0.9
    weights[1, 0, :, 5] = 0.3

    def strongest(mute: bool) -> float:
        svg = patch_heads(square(), weights, mute_prefix=mute).svg
        panels = svg.split('data-id="a1.h0"')[1].split('data-id="')[0]
        return max(float(x) for x in re.findall(r'fill-opacity="([\d.]+)"', panels))

    assert strongest(True) == pytest.approx(0.85, abs=0.01)
    assert strongest(False) == pytest.approx(0.85 * 0.3 / 0.9, abs=0.01)


def test_the_title_counts_heads_that_rest_on_the_class_token() -> None:
    weights = torch.full((1, 3, 17, 17), 1 / 17)
    weights[0, 0, :, 0] = 0.9
    assert "1 rest on cls" in patch_heads(square(), weights).title
    weights = torch.full((2, 3, 16, 16), 0.01)
    weights[1, 2, 4, 9] = 0.85
    assert "head 1.2 on patch (2, 1), 85 %" in patch_heads(square(()), weights, query=4).title


@pytest.mark.parametrize(
    ("weights", "query", "said"),
    [(patterns(2, 2, 16), 0, "17 queries and keys"), (patterns(2, 2)[0], 0, "shape"), (patterns(1, 1), 17, "0 to 16")],
)
def test_what_does_not_fit_is_refused(weights: torch.Tensor, query: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        patch_heads(square(), weights, query=query)
