from __future__ import annotations

import pytest
import torch

from tests.figures.helpers import NASTY, having, parse, texts
from tests.figures.test_attention_pattern import causal, words
from workbench.figures import attention_pair, attention_pattern


def test_two_patterns_on_one_scale_with_their_names() -> None:
    before, after = causal(5, 2)
    root = parse(attention_pair(before, after, words(5), names=("softmax", "sparsemax"), layer=3, head=1))
    assert {"softmax", "sparsemax"} <= set(texts(root))
    assert texts(root).count("share of attention") == 1
    fills = [(m.attrib["data-id"], m.attrib["fill"]) for m in having(root, "wb-cell")]
    alone = [
        (m.attrib["data-id"], m.attrib["fill"])
        for one in (before, after)
        for m in having(parse(attention_pattern(one, words(5))), "wb-cell")
    ]
    assert fills == alone


def test_cells_of_both_stand_at_the_same_place_so_that_hovering_marks_both() -> None:
    before, after = causal(6, 2)
    cells = having(parse(attention_pair(before, after, words(6))), "wb-cell")
    places: dict[str, set[tuple[str, str]]] = {}
    for cell in cells:
        places.setdefault(cell.attrib["data-id"], set()).add((cell.attrib["x"], cell.attrib["y"]))
    assert len(cells) == 2 * len(places)
    assert all(len(place) == 1 for place in places.values())


def test_a_muted_first_token_is_muted_in_both_on_one_scale() -> None:
    before = torch.tensor([[1.0, 0, 0], [0.8, 0.2, 0], [0.8, 0.1, 0.1]])
    after = torch.tensor([[1.0, 0, 0], [0.6, 0.4, 0], [0.9, 0.1, 0.0]])
    figure = attention_pair(before, after, words(3), mute_first=True)
    fill = [m.attrib["fill"] for m in having(parse(figure), "wb-cell") if m.attrib["data-id"] == "2,1"]
    assert len(set(fill)) == 1
    assert figure.caption.count("muted") == 1
    assert "0.4" in texts(parse(figure))


def test_the_title_says_how_much_moves_or_what_rows_sum_to() -> None:
    one, two = torch.tensor([[1.0, 0], [0, 1.0]]), torch.tensor([[1.0, 0], [0.5, 0.5]])
    assert attention_pair(one, two, words(2), layer=1, head=0).title == "Head 1.0: 25 % of attention moves"
    assert "rows sum to 1 before and 0.5 after" in attention_pair(one, one / 2, words(2)).title


def test_weights_over_one_and_below_zero_are_scaled_and_said() -> None:
    one = torch.tensor([[1.0, 0], [0.5, 0.5]])
    figure = attention_pair(one, torch.tensor([[2.0, 0], [-0.5, 1.0]]), words(2))
    assert "2" in texts(parse(figure))
    assert "Negative weights (down to −0.5) are drawn white." in figure.caption


def test_a_long_text_is_drawn_in_blocks() -> None:
    before, after = causal(100, 2)
    assert attention_pair(before, after, words(100)).caption.count("Summary in blocks") == 1


def test_untrusted_tokens_stay_text() -> None:
    root = parse(attention_pair(*causal(len(NASTY), 2), NASTY, names=("<b>", "</svg>")))
    assert not [e for e in root.iter() if e.tag.endswith(("script", "}b"))]


def test_unlike_patterns_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        attention_pair(causal(5)[0], causal(5)[0][2:], words(5))
