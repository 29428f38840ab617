from __future__ import annotations

import pytest
import torch

from tests.figures.helpers import NASTY, having, parse, texts, titles
from workbench.figures import attention_pattern, head_grid, show_token
from workbench.figures.svg import readable


def causal(n: int, heads: int = 1, seed: int = 0) -> torch.Tensor:
    scores = torch.randn(heads, n, n, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(~torch.ones(n, n).tril().bool(), -torch.inf).softmax(-1)


def words(n: int) -> list[str]:
    return [f" w{i}" for i in range(n)]


def test_a_cell_for_each_possible_pair_and_none_above_the_diagonal() -> None:
    root = parse(attention_pattern(causal(5)[0], words(5)))
    assert {e.attrib["data-id"] for e in having(root, "wb-cell")} == {
        f"{q},{k}" for q in range(5) for k in range(q + 1)
    }
    full = parse(attention_pattern(causal(5)[0], words(5), causal=False))
    assert len(having(full, "wb-cell")) == 25


def test_queries_run_down_and_keys_across() -> None:
    root = parse(attention_pattern(causal(6)[0], words(6)))
    place = {e.attrib["data-id"]: (float(e.attrib["x"]), float(e.attrib["y"])) for e in having(root, "wb-cell")}
    assert place["5,0"][1] > place["1,0"][1]
    assert place["5,4"][0] > place["5,1"][0]


def test_zero_is_white_one_is_darkest_and_more_is_darker() -> None:
    pattern = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0, 0.8]])
    fill = {
        e.attrib["data-id"]: e.attrib["fill"] for e in having(parse(attention_pattern(pattern, words(3))), "wb-cell")
    }
    assert fill["2,1"] == "#FFFFFF"
    green = [int(fill[cell][3:5], 16) for cell in ("2,1", "2,0", "1,0", "2,2", "0,0")]
    assert green == sorted(green, reverse=True)
    assert len(set(green)) == 5


def test_hover_gives_both_tokens_whole_and_the_share() -> None:
    pattern = torch.tensor([[1.0, 0], [0.4321, 0.5679]])
    long = "internationalisation"
    root = parse(attention_pattern(pattern, [long, " b"]))
    assert f"·b → {long}: 0.432" in titles(root)
    assert show_token(long) in texts(root)
    assert long not in texts(root)


def test_muting_the_first_token_rescales_the_rest_and_is_said_in_the_caption() -> None:
    pattern = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0.8, 0.1, 0.1]])
    plain, muted = (attention_pattern(pattern, words(3), mute_first=m) for m in (False, True))
    fill = {e.attrib["data-id"]: e.attrib["fill"] for e in having(parse(muted), "wb-cell")}
    assert fill["0,0"] == fill["2,0"]
    assert fill["1,1"] != next(
        e.attrib["fill"] for e in having(parse(plain), "wb-cell") if e.attrib["data-id"] == "1,1"
    )
    assert "muted" in muted.caption
    assert "muted" not in plain.caption
    assert {"0.1", "0.05"} <= set(texts(parse(muted)))  # the scale's numbers


@pytest.mark.parametrize("n", [65, 128, 200, 1000])
def test_long_texts_are_summed_in_blocks_whose_rows_still_sum_to_one(n: int) -> None:
    figure = attention_pattern(causal(n)[0], words(n))
    root = parse(figure)
    cells = having(root, "wb-cell")
    block = figure.data["block"]
    side = -(-n // block)
    assert side <= 64
    assert len(cells) == side * (side + 1) // 2
    last = [e for e in cells if e.attrib["data-id"].startswith(f"{side - 1},")]
    shares = [float(title.rpartition(": ")[2].replace("−", "-")) for e in last for title in titles(e)]
    assert sum(shares) == pytest.approx(1, abs=0.02)
    assert f"blocks of {block} tokens" in figure.caption


def test_fewer_queries_than_keys_are_the_last_ones() -> None:
    pattern = causal(6)[0][-2:]
    root = parse(attention_pattern(pattern, words(6)))
    assert {e.attrib["data-id"] for e in having(root, "wb-cell")} == {
        *(f"0,{k}" for k in range(5)),
        *(f"1,{k}" for k in range(6)),
    }
    assert any(title.startswith("·w4 → ·w0") for title in titles(root))


def test_untrusted_tokens_are_text() -> None:
    n = len(NASTY)
    root = parse(attention_pattern(causal(n)[0], NASTY))
    assert {e.tag.rpartition("}")[2] for e in root.iter()} == {"svg", "desc", "style", "rect", "text", "g", "title"}
    for token in NASTY:
        whole = readable(token)
        assert any(whole in title for title in titles(root)), token
        assert show_token(token) in texts(root)


def test_a_pattern_of_another_shape_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"shape \[5, 5\] does not fit 4 tokens"):
        attention_pattern(causal(5)[0], words(4))
    with pytest.raises(ValueError, match=r"\[query, key\].*shape \[2, 5, 5\]"):
        attention_pattern(causal(5, heads=2), words(5))


def test_a_sink_is_named_in_the_title() -> None:
    pattern = torch.eye(4) * 0.1
    pattern[:, 0] += 0.9
    assert attention_pattern(pattern, words(4), layer=3, head=1).title.startswith(
        "Head 3.1: 90 % of attention rests on"
    )


def test_all_heads_share_one_scale_and_open_by_their_name() -> None:
    patterns = torch.zeros(2, 3, 3)
    patterns[0] = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1]])
    patterns[1] = torch.tensor([[0.5, 0, 0], [0.5, 0, 0], [0.5, 0, 0]])
    root = parse(head_grid(patterns, words(3), layer=7))
    heads = having(root, "wb-cell-head")
    assert [e.attrib["data-id"] for e in heads] == ["a7.h0", "a7.h1"]
    fills = [{e.attrib["stroke"] for e in head.iter() if e.tag.endswith("path")} for head in heads]
    half = fills[1] - {"#FFFFFF"}
    assert len(half) == 1
    assert half < fills[0]


def test_a_grid_of_many_heads_and_tokens_stays_small() -> None:
    figure = head_grid(causal(200, heads=32), words(200), layer=0)
    assert len(having(parse(figure), "wb-cell-head")) == 32
    assert len(figure.svg) < 2_000_000
    assert "blocks" in figure.caption


def test_values_that_are_no_numbers_are_grey_and_named() -> None:
    pattern = causal(3)[0]
    pattern[2, 1] = float("nan")
    root = parse(attention_pattern(pattern, words(3)))
    assert "·w2 → ·w1: not known" in titles(root)
    head_grid(pattern[None], words(3))
