from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import digits
from tests.attention import brute
from workbench.attention import MEASURES, Statistics, statistics
from workbench.attention.layers import LayerAttention, taken, watch
from workbench.circuits.progress import Stopped
from workbench.models import Transformer, from_hf
from workbench.models.attention import Attention
from workbench.models.families.samples import find

# Grouped heads, rotary and learned positions, windows, caps, norms of queries and keys, both ways, images.
KINDS = ("gpt2", "gpt-neo", "llama-grouped", "qwen2-window", "qwen3", "gemma2", "bert", "roberta", "vit")


def close(found: Tensor, expected: Tensor, rtol: float = 1e-5) -> None:
    """Equal, NaN in the same places; absolute where an entropy or distance comes near 0."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=rtol, atol=2e-6, equal_nan=True)


def same(one: Statistics, other: Statistics, **tolerance: float) -> None:
    for key in one.rows:
        torch.testing.assert_close(one.row(key), other.row(key), equal_nan=True, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_every_measure_is_that_of_hugging_faces_pattern(kind: str) -> None:
    hf, model = brute.pair(kind)
    tokens = brute.given(model)
    found = statistics(model, tokens, sinks=(0, 2), recent=3, columns=True)
    p = brute.patterns(hf, tokens)
    expected = brute.measures(model, tokens, p, [0, 2], 3)
    assert set(found.rows) == set(expected) == {measure.key for measure in MEASURES}
    for key, rows in expected.items():
        close(found.row(key), rows)
        close(getattr(found, key), rows.flatten(2).nanmean(-1))
        close(found.by_position(key), rows.nanmean(2))
    received, by = found.columns()
    close(received, p.sum(-2))
    seen = torch.stack([brute.sight(model, layer, p.shape[-1]).sum(0) for layer in range(model.cfg.n_layers)])
    assert torch.equal(by, seen[:, None].expand_as(by))
    close(found.received_mean, p.sum(-2) / seen[:, None, None])


def test_in_single_precision_they_agree_to_a_hundred_thousandth() -> None:
    hf, exact = brute.pair("llama-grouped")
    tokens = brute.given(exact)
    expected = brute.measures(exact, tokens, brute.patterns(hf, tokens), [0], 16)
    found = statistics(from_hf(find("llama-grouped").model(weights="wild")), tokens)
    for key in ("entropy", "largest", "effective_keys", "distance", "value_weighted_norm"):
        # The queries and keys themselves are rounded, by more than the sweep adds.
        close(found.value(key), expected[key].flatten(2).nanmean(-1), rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped", "qwen2-window", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_nowhere(kind: str, side: str) -> None:
    _, model = brute.pair(kind)
    tokens, lengths = brute.given(model, batch=3, n=20), (20, 13, 7)
    mask = torch.zeros(3, 20, dtype=torch.long)
    padded = torch.full((3, 20), 1)
    for row, n in enumerate(lengths):
        here = slice(20 - n, 20) if side == "left" else slice(0, n)
        mask[row, here], padded[row, here] = 1, tokens[row, :n]
    together = statistics(model, padded, attention_mask=mask, sinks=(0, 1), columns=True)
    assert together.real.sum(-1).tolist() == list(lengths)
    alone = [statistics(model, tokens[row : row + 1, :n], sinks=(0, 1), columns=True) for row, n in enumerate(lengths)]
    for row, n in enumerate(lengths):
        for key in together.rows:
            close(together.row(key)[:, :, row, :n], alone[row].row(key)[:, :, 0])
            assert together.row(key)[:, :, row, n:].isnan().all()
        close(together.columns()[0][:, :, row, :n], alone[row].columns()[0][:, :, 0])
        assert torch.equal(together.columns()[1][:, row, :n], alone[row].columns()[1][:, 0])
        assert torch.equal(together.tokens[row, :n], tokens[row, :n])  # type: ignore[index]
        close(together.value_norm[:, :, row], alone[row].value_norm[:, :, 0])
    rows = torch.cat([found.row("entropy").flatten(2) for found in alone], -1)
    close(together.entropy, rows.nanmean(-1))


def test_softmax_never_makes_a_pattern(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("a pattern was made")

    monkeypatch.setattr(Attention, "attend_openly", refuse)
    statistics(model, "When Mary and John went to the store", columns=True)


def test_queries_and_keys_of_one_layer_alone_are_alive(model: Transformer) -> None:
    before: list[weakref.ref[Tensor]] = []

    def see(layer: LayerAttention) -> None:
        assert all(kept() is None for kept in before)
        before.extend(weakref.ref(x) for x in (layer.q, layer.k))

    watch(model, taken(model, "When Mary and John went"), see)
    assert len(before) == 2 * model.cfg.n_layers


def test_batches_and_text_change_nothing(model: Transformer) -> None:
    texts = ["When Mary and John went to the store", "Then John", "a b c d e f"]
    inputs = model.to_inputs(texts)
    whole = statistics(model, texts)
    same(whole, statistics(model, texts, budget=1), rtol=1e-5, atol=1e-6)
    same(whole, statistics(model, **inputs), rtol=0, atol=0)


def test_another_mechanism_is_read_from_its_pattern_and_says_so() -> None:
    _, model = brute.pair("llama-grouped")
    sparse = model.with_attention("sparsemax")
    tokens = brute.given(model)
    found = statistics(sparse, tokens, sinks=(0, 2), recent=3, columns=True)
    _, cache = sparse.run_with_cache(tokens, lambda name: name.endswith("hook_pattern"))
    p = torch.stack([cache["pattern", layer].double() for layer in range(model.cfg.n_layers)]).transpose(1, 2)
    assert (p == 0).flatten(0, 3).double().mean() > 0.5
    for key, rows in brute.measures(sparse, tokens, p, [0, 2], 3).items():
        close(found.row(key), rows)
    close(found.columns()[0], p.sum(-2))
    assert "sparsemax" in found.notes[0]
    # A mechanism that is softmax in the end, by either way.
    plain = statistics(model, tokens, columns=True)
    other = statistics(model.with_attention("temperature", temperature=1.0), tokens, columns=True)
    same(plain, other, rtol=1e-6, atol=1e-7)
    close(plain.columns()[0], other.columns()[0])


def test_rows_that_do_not_sum_to_one_are_refused(model: Transformer) -> None:
    with pytest.raises(ValueError, match="has 'sigmoid' attention, whose rows need not sum to 1"):
        statistics(model.with_attention("sigmoid"), "When Mary went")
    assert statistics(model.with_attention("sigmoid", heads=[]), "When Mary went").entropy.isfinite().all()


def test_scores_that_are_not_finite_name_layer_and_head() -> None:
    hf = find("gpt2").model()
    width = hf.config.n_embd
    with torch.no_grad():  # queries of layer 1, head 2
        hf.transformer.h[1].attn.c_attn.bias[:width].view(3, -1)[2] = torch.inf
    with pytest.raises(ValueError, match="layer 1, head 2 are not finite") as refused:
        statistics(from_hf(hf), torch.randint(3, 60, (1, 6)))
    assert type(refused.value) is ValueError


def test_unusable_input_is_one_sentence(model: Transformer) -> None:
    n = model.cfg.n_ctx
    with pytest.raises(ValueError, match=f"has {n + 1} tokens; .* reads at most {n}"):
        statistics(model, torch.ones(1, n + 1, dtype=torch.long))
    with pytest.raises(ValueError, match="reads at most"):
        statistics(model, "Mary " * 5000)
    for empty in (torch.ones(1, 0, dtype=torch.long), torch.ones(0, 4, dtype=torch.long), ""):
        with pytest.raises(ValueError, match="prompt is empty"):
            statistics(model, empty)
    tokens = torch.full((2, 5), 9)
    with pytest.raises(ValueError, match="padding between real tokens"):
        statistics(model, tokens, attention_mask=torch.tensor([[1, 0, 1, 1, 1], [1, 1, 1, 1, 1]]))
    with pytest.raises(ValueError, match="leaves nothing of example 1"):
        statistics(model, tokens, attention_mask=torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"mask is \[2, 4\]"):
        statistics(model, tokens, attention_mask=torch.ones(2, 4))
    with pytest.raises(ValueError, match="positions from 0; got -1"):
        statistics(model, tokens, sinks=(-1,))
    with pytest.raises(ValueError, match="Put one text into a batch"):
        statistics(model, tokens[0])
    with pytest.raises(ValueError, match=r"columns=True"):
        _ = statistics(model, tokens).received_mean
    with pytest.raises(ValueError, match="did you mean 'entropy'"):
        statistics(model, tokens).row("entropie")


def test_it_reports_every_layer_and_stops(model: Transformer) -> None:
    seen: list[tuple[int, int]] = []
    statistics(model, "When Mary went", progress=lambda at: seen.append((at.done, at.total)))
    assert seen == [(i + 1, model.cfg.n_layers) for i in range(model.cfg.n_layers)]
    with pytest.raises(Stopped):
        statistics(model, "When Mary went", progress=lambda at: False)


def test_it_is_plain_data(model: Transformer) -> None:
    import json

    data = json.loads(json.dumps(statistics(model, "When Mary went").to_dict(), allow_nan=False))
    assert data["rows"] == 3
    assert len(data["means"]["entropy"]) == model.cfg.n_layers
    one = json.loads(json.dumps(statistics(model, "When").to_dict(), allow_nan=False))
    assert one["means"]["normalised_entropy"] == [[None] * model.cfg.n_heads] * model.cfg.n_layers


def test_sinks_may_differ_between_examples(model: Transformer) -> None:
    tokens = torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, 0] = mask[1, 3] = True
    mixed = statistics(model, tokens, sinks=mask).row("sink_mass")
    torch.testing.assert_close(mixed[:, :, 0], statistics(model, tokens, sinks=(0,)).row("sink_mass")[:, :, 0])
    torch.testing.assert_close(mixed[:, :, 1], statistics(model, tokens, sinks=(3,)).row("sink_mass")[:, :, 1])


def test_an_image_has_positions_and_no_tokens() -> None:
    vision = digits.vision()
    found = statistics(vision, torch.rand(2, 1, 8, 8), columns=True)
    assert found.tokens is None
    assert found.shape == (3, 4, 2, 17)
    torch.testing.assert_close(found.columns()[0].sum(-1), torch.full((3, 4, 2), 17.0))


def test_the_page_has_a_row_for_every_measure() -> None:
    page = (Path(__file__).parents[2] / "docs" / "observatory.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert rows == {measure.key: measure.unit for measure in MEASURES}
