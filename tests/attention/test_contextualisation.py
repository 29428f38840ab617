"""Segments compared pair by pair, from Hugging Face's patterns and the model's own scores."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import digits
from tests.attention import brute
from workbench.attention.contextualisation import contextualisation, words_at
from workbench.circuits.progress import Stopped
from workbench.models import Transformer

module = importlib.import_module("workbench.attention.contextualisation")  # a function of the package has its name


# Grouped keys, windows, capped scores, both ways; whole segments at once and one query at a time.
@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped", "gemma2", "qwen2-window", "bert"])
@pytest.mark.parametrize("numbers", [2**22, 1])
def test_segments_are_compared_pair_by_pair(kind: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRIP", numbers)
    hf, model = brute.pair(kind)
    tokens = brute.given(model, batch=1, n=14)
    a, b = range(6, 11), range(2, 5)
    found = contextualisation(model, tokens, queries=(6, 11), keys=b)
    p = brute.patterns(hf, tokens)[:, :, 0]
    _, cache = model.run_with_cache(tokens, lambda name: name.endswith("hook_attn_scores"))
    for layer in range(model.cfg.n_layers):
        sight = brute.sight(model, layer, 14)
        rows = [i for i in a if sight[i, list(b)].any()]
        assert rows
        for head in range(model.cfg.n_heads):
            share = own = relative = ahead = behind = 0.0
            for i in rows:
                others = [j for j in b if sight[i, j]]
                selves = [j for j in a if sight[i, j]]
                weight = p[layer, head, i]
                share += float(weight[others].sum())
                own += float(weight[selves].sum())
                relative += math.log(float(weight[others].mean()) / float(weight[selves].mean()))
                s = cache["attn_scores", layer][0, head, i]
                gaps = [float(s[j] - s[k]) for j in others for k in selves]
                ahead += sum(max(gap, 0.0) for gap in gaps) / len(gaps)
                behind += sum(max(-gap, 0.0) for gap in gaps) / len(gaps)
            for name, value in (
                ("share", share),
                ("own_share", own),
                ("relative", relative),
                ("expected", ahead),
                ("reverse", behind),
            ):
                got = float(getattr(found, name)[layer, head])
                assert got == pytest.approx(value / len(rows), rel=1e-4, abs=1e-5), (name, layer, head)


def test_a_head_that_gives_all_the_same_prefers_no_segment() -> None:
    _, model = brute.pair("bert")
    for block in model.blocks:
        block.attn.q.weight.zero_()
        block.attn.q.bias.zero_()
    found = contextualisation(model, brute.given(model, batch=1, n=12), queries=(0, 3), keys=(4, 10))
    for name, value in (("share", 6 / 12), ("own_share", 3 / 12), ("relative", 0), ("expected", 0), ("reverse", 0)):
        torch.testing.assert_close(getattr(found, name), torch.full_like(found.share, value), rtol=1e-6, atol=1e-6)
    assert found.rows == 3


@settings(max_examples=25)
@given(seed=st.integers(0, 999), x=st.integers(1, 6), y=st.integers(1, 6))
def test_being_ahead_less_being_behind_is_the_difference_of_means(seed: int, x: int, y: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(2, 3, n, generator=generator, dtype=torch.float64).round(decimals=1) for n in (x, y))
    yes = [torch.ones(3, n, dtype=torch.bool) for n in (x, y)]
    ahead, behind = module._ahead(a, yes[0], b, yes[1]), module._ahead(b, yes[1], a, yes[0])
    torch.testing.assert_close(ahead - behind, a.mean(-1) - b.mean(-1))
    pairs = (a[..., :, None] - b[..., None, :]).clamp(min=0).mean((-1, -2))
    torch.testing.assert_close(ahead, pairs)


def test_words_are_found_whatever_the_tokenizer_does_with_spaces(model: Transformer) -> None:
    text = "When Mary and John went to the store, John gave a drink to"
    by_words = contextualisation(model, text, queries="gave a drink", keys="Mary and")
    pieces = model.text.pieces(text)
    at = [i for i, piece in enumerate(pieces) if piece.strip() in ("Mary", "and")]
    assert by_words.keys == (at[0], at[-1] + 1)
    assert "".join(pieces[slice(*by_words.queries)]) == " gave a drink"
    by_place = contextualisation(model, text, queries=by_words.queries, keys=by_words.keys)
    torch.testing.assert_close(by_words.relative, by_place.relative)
    assert words_at(["[CLS]", "trans", "##former", "##s", "work", "[SEP]"], "Transformers") == range(1, 4)
    assert words_at(["a", " ## b", "\n##"], "## b") == range(1, 2)
    with pytest.raises(ValueError, match="more than once"):
        contextualisation(model, text, queries="gave", keys="John")
    with pytest.raises(ValueError, match="'Peter' is not in the text"):
        contextualisation(model, text, queries="gave", keys="Peter")
    with pytest.raises(ValueError, match="is not in the text"):
        contextualisation(model, text, queries="gave", keys=" ")


def test_an_images_segments_are_positions() -> None:
    model = digits.vision()
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = contextualisation(model, image, queries=(0, 1), keys=(1, 17))
    _, cache = model.run_with_cache(image)
    for layer in range(model.cfg.n_layers):
        expected = 1 - cache["pattern", layer][0, :, 0, 0].double()
        torch.testing.assert_close(found.share[layer], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.share[layer] + found.own_share[layer], torch.ones(4).double())
    with pytest.raises(ValueError, match="give keys as positions"):
        contextualisation(model, image, queries=(0, 1), keys="ink")


def test_other_mechanisms_are_read_from_their_own_pattern(model: Transformer) -> None:
    sparse = model.with_attention("sparsemax")
    tokens = sparse.to_tokens("When Mary and John went to the store")
    found = contextualisation(sparse, tokens, queries=(4, 8), keys=(0, 4))
    _, cache = sparse.run_with_cache(tokens)
    for layer in range(sparse.cfg.n_layers):
        pattern, scores = cache["pattern", layer][0].double(), cache["attn_scores", layer][0].double()
        torch.testing.assert_close(found.share[layer], pattern[:, 4:8, :4].sum(-1).mean(-1), rtol=1e-5, atol=1e-6)
        gaps = [
            scores[:, i, :4].mean(-1) - torch.stack([scores[:, i, j] for j in range(4, i + 1)]).mean(0)
            for i in range(4, 8)
        ]
        difference = found.expected[layer] - found.reverse[layer]
        torch.testing.assert_close(difference, torch.stack(gaps).mean(0), rtol=1e-4, atol=1e-5)


def test_padding_behind_a_text_changes_nothing() -> None:
    model = digits.encoder()
    tokens = torch.randint(5, 60, (1, 9), generator=torch.Generator().manual_seed(0))
    model.text.tokenizer.eos_token = None  # which is the padding token too, so that neither tells
    pad = model.text.own_pad
    assert pad is not None
    alone = contextualisation(model, tokens, queries=(5, 9), keys=(0, 3))
    padded = torch.cat([tokens, torch.full((1, 4), pad)], 1)
    found = contextualisation(model, padded, queries=(5, 9), keys=(0, 3))
    torch.testing.assert_close(found.share, alone.share, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="padding in the segment keys"):
        contextualisation(model, padded, queries=(2, 5), keys=(7, 11))


def test_unusable_segments_are_one_sentence() -> None:
    _, model = brute.pair("qwen2-window")
    tokens = brute.given(model, batch=1, n=24)
    with pytest.raises(ValueError, match="overlap"):
        contextualisation(model, tokens, queries=(3, 8), keys=(6, 9))
    with pytest.raises(ValueError, match="Swap the two"):
        contextualisation(model, tokens, queries=(0, 3), keys=(6, 9))
    with pytest.raises(ValueError, match="positions 0 to 23"):
        contextualisation(model, tokens, queries=(20, 25), keys=(6, 9))
    with pytest.raises(ValueError, match="positions 0 to 23"):
        contextualisation(model, tokens, queries=(4, 4), keys=(0, 2))
    with pytest.raises(ValueError, match="nearer to each other"):
        contextualisation(model, tokens, queries=(20, 24), keys=(0, 2))
    with pytest.raises(ValueError, match="one by one"):
        contextualisation(model, tokens.expand(2, -1), queries=(6, 9), keys=(0, 2))
    with pytest.raises(Stopped):
        contextualisation(model, tokens, queries=(3, 5), keys=(1, 3), progress=lambda _: False)
