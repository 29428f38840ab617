from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.figures.helpers import NASTY, having, parse, texts, titles
from workbench.circuits import Graph, PositionScores
from workbench.export import to_pdf, to_png
from workbench.figures.colours import SIGNED
from workbench.figures.positions import CELL, MOST_POSITIONS, position_map

GRAPH = Graph(2, 2)
TOKENS = ["<s>", " Mary", " and", " John"]


def scores(places: int = 4, **about: Any) -> PositionScores:
    values = torch.zeros(places, *GRAPH.mask.shape)
    for at, edge, value in (
        (1, "input->a0.h1<v>", 0.5),
        (3, "input->a0.h1<v>", 0.25),
        (3, "a0.h1->logits", -1.0),
        (3, "input->m0", 0.25),
    ):
        values[(at, *GRAPH.edge(edge))] = value
    return PositionScores(GRAPH, values, **about)


def test_a_cell_for_each_edge_and_position_coloured_by_its_score() -> None:
    figure = position_map(scores(), TOKENS, n=3)
    root = parse(figure)
    cells = having(root, "wb-at")
    assert len(cells) == 3 * 4
    rects = [next(e for e in cell if e.tag.endswith("rect")) for cell in cells]
    assert rects[3].attrib["fill"] == SIGNED[0]  # the strongest edge first, at the last position, works against it
    assert rects[0].attrib["fill"] == SIGNED[len(SIGNED) // 2]  # no score is white
    assert {rect.attrib["x"] for rect in rects[:4]} == {rect.attrib["x"] for rect in rects[4:8]}
    assert float(rects[4].attrib["y"]) - float(rects[0].attrib["y"]) == CELL
    assert figure.data["edges"] == ["a0.h1→logits", "input→a0.h1<v>", "input→m0"]
    assert figure.data["values"][1] == [0, 0.5, 0, 0.25]
    assert "input→a0.h1<v> at position 1 (·Mary): 0.5" in titles(root)


def test_where_no_answer_is_read_the_logits_have_no_cell() -> None:
    root = parse(position_map(scores(answered=(3,)), TOKENS, n=3))
    assert len(having(root, "wb-at")) == 2 * 4 + 1
    assert [title for title in titles(root) if "logits" in title] == ["a0.h1→logits at position 3 (·John): −1"]


def test_negative_cells_have_a_dash_and_the_scale_its_numbers() -> None:
    root = parse(position_map(scores(), TOKENS, n=3, unit="nats"))
    dashed = [cell for cell in having(root, "wb-at") if any(e.tag.endswith("line") for e in cell)]
    assert len(dashed) == 1
    assert {"−1", "0", "1", "nats"} <= set(texts(root))


def test_the_title_is_the_finding_and_the_caption_says_how_much_is_drawn() -> None:
    figure = position_map(scores(), TOKENS, n=3, caption="micro, ioi.")
    assert figure.title == "75 % of what the strongest 3 edges do happens at ·John (position 3)"
    assert figure.caption.startswith(
        f"micro, ioi. The 3 edges with the largest score at any position, of {GRAPH.n_edges}"
    )
    stopped = position_map(scores(n_examples=2, complete=False), TOKENS)
    assert "stopped after 2 prompts" in stopped.caption
    nothing = PositionScores(GRAPH, torch.zeros(4, *GRAPH.mask.shape))
    assert position_map(nothing, TOKENS).title == "No edge has a score at any position"


def test_of_many_positions_the_strongest_are_drawn_in_order() -> None:
    figure = position_map(scores(60), [f"t{i}" for i in range(60)], n=2)
    assert len(having(parse(figure), "wb-at")) == 2 * MOST_POSITIONS
    places = figure.data["positions"]
    assert places == sorted(places)
    assert {1, 3} <= set(places)
    assert "The 48 positions of 60" in figure.caption


def test_tokens_are_text_and_files_can_be_made() -> None:
    figure = position_map(scores(len(NASTY)), NASTY)
    assert len(having(parse(figure), "wb-place")) == len(NASTY)
    assert "<script" not in figure.svg
    drawn = position_map(scores(), TOKENS)
    assert to_png(drawn).startswith(b"\x89PNG")
    assert to_pdf(drawn).startswith(b"%PDF")


def test_bad_requests_are_explained() -> None:
    with pytest.raises(ValueError, match="4 positions and 3 tokens were given"):
        position_map(scores(), TOKENS[:3])
    with pytest.raises(ValueError, match="At least one edge"):
        position_map(scores(), TOKENS, n=0)
