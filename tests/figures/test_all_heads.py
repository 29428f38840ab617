from __future__ import annotations

import re

import pytest
import torch

from tests.figures.helpers import NASTY, SVG, having, parse, texts, titles
from workbench.export import to_pdf, to_png
from workbench.figures import all_heads
from workbench.figures.colours import SHARE, SKY, scale


def patterns(layers: int, heads: int, n: int) -> torch.Tensor:
    torch.manual_seed(0)
    scores = torch.randn(layers, heads, n, n).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
    return scores.softmax(-1)


def words(n: int) -> list[str]:
    return [f" w{i}" for i in range(n)]


def test_every_head_of_every_layer_can_be_opened_layer_0_at_the_bottom() -> None:
    root = parse(all_heads(patterns(3, 2, 5), words(5), selected=["a2.h1"]))
    cells = {e.attrib["data-id"]: e for e in having(root, "wb-cell-head")}
    assert sorted(cells) == [f"a{i}.h{j}" for i in range(3) for j in range(2)]
    frames = {name: having(cell, "wb-shape")[0].attrib for name, cell in cells.items()}
    assert float(frames["a2.h0"]["y"]) < float(frames["a0.h0"]["y"])
    assert float(frames["a0.h0"]["x"]) < float(frames["a0.h1"]["x"])
    assert [name for name, frame in frames.items() if frame["stroke"] == SKY] == ["a2.h1"]
    assert {"0", "1", "2", "layer", "head", "share of attention"} <= set(texts(root))


def drawn(cell: object) -> dict[tuple[int, int], str]:
    """Row and column of each drawn cell, with its colour."""
    found = {}
    for path in cell.iter(f"{SVG}path"):  # type: ignore[attr-defined]
        for column, row, length in re.findall(r"M(\d+) (\d+)h(\d+)", path.attrib["d"]):
            found |= {(int(row), int(column) + i): path.attrib["stroke"] for i in range(int(length))}
    return found


def test_cells_have_the_colour_of_their_weight_and_the_future_is_blank() -> None:
    p = patterns(1, 2, 4)
    for head, cell in enumerate(having(parse(all_heads(p, words(4))), "wb-cell-head")):
        colours = drawn(cell)
        assert set(colours) == {(i, j) for i in range(4) for j in range(i + 1)}
        for (i, j), colour in colours.items():
            assert colour == scale(SHARE, round(24 * float(p[0, head, i, j])) / 24)
    both = having(parse(all_heads(p, words(4), causal=False)), "wb-cell-head")[0]
    assert len(drawn(both)) == 16


def test_many_heads_of_a_longer_text_are_drawn_in_blocks_and_stay_small() -> None:
    figure = all_heads(patterns(30, 9, 96), words(96))
    assert len(having(parse(figure), "wb-cell-head")) == 270
    assert len(figure.svg) < 1_500_000
    assert "blocks" in figure.caption


def test_the_title_counts_heads_that_rest_on_the_first_token() -> None:
    p = torch.zeros(2, 2, 4, 4)
    p[..., 0] = 1
    p[1, 1] = torch.eye(4)
    assert all_heads(p, words(4)).title.startswith("3 of 4 heads rest on the first token")
    assert all_heads(p[1:, 1:], words(4)).title == "What 1 head attend to"
    assert "a0.h0: 100 % of attention rests on the first token" in titles(parse(all_heads(p, words(4))))


def test_tokens_are_text_and_the_picture_can_be_a_file() -> None:
    figure = all_heads(patterns(1, 1, len(NASTY)), NASTY)
    assert not list(parse(figure).iter(f"{SVG}script"))
    assert to_png(figure)
    assert to_pdf(figure)


@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 2, 4, 3), (1, 2, 5, 4), (0, 2, 4, 4)])
def test_patterns_that_do_not_fit_are_one_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Patterns of all heads|nothing to draw"):
        all_heads(torch.rand(shape), words(4))
