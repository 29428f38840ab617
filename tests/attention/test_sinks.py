from __future__ import annotations

import pytest
import torch

from tests.attention import brute
from workbench.attention import find_sinks, idle_heads, idle_rows, statistics
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find


@pytest.mark.parametrize(("kind", "eps"), [("gpt2", 0.15), ("qwen2-window", 0.15), ("bert", 0.06)])
def test_sinks_are_counted_in_the_patterns_columns(kind: str, eps: float) -> None:
    hf, model = brute.pair(kind)
    tokens = brute.given(model)
    p = brute.patterns(hf, tokens)
    layers, heads, batch, n, _ = p.shape
    sinks = find_sinks(statistics(model, tokens, columns=True), eps=eps, share=0.2, seen=4)
    named, mass = {}, torch.zeros(layers, heads, dtype=torch.float64)
    for row in range(batch):
        for key in range(n):
            judged = over = 0
            for layer in range(layers):
                seen = brute.sight(model, layer, n)[:, key]
                if int(seen.sum()) >= 4:
                    judged += heads
                    over += int((p[layer, :, row, seen, key].mean(-1) > eps).sum())
            if not judged:
                assert sinks.rate[row, key].isnan()
                continue
            assert float(sinks.rate[row, key]) == pytest.approx(over / judged)
            if over / judged >= 0.2:
                named[row, key] = over / judged
                mass += p[:, :, row, :, key].sum(-1) / (batch * n)
    assert named  # the thresholds were chosen so that there are some
    assert {(token.example, token.position): token.share for token in sinks.tokens} == pytest.approx(named)
    assert all(token.token == int(tokens[token.example, token.position]) for token in sinks.tokens)
    torch.testing.assert_close(sinks.found, mass, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(sinks.first, p[..., 0].mean((-1, -2)), rtol=1e-5, atol=1e-7)


def test_the_first_token_is_a_texts_own_whatever_the_padding() -> None:
    _, model = brute.pair("llama-grouped")
    tokens = brute.given(model, batch=1, n=12)
    padded = torch.cat([torch.full((1, 5), 1), tokens], 1)
    mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 12)], 1).long()
    alone = find_sinks(statistics(model, tokens, columns=True), eps=0.1, share=0.1, seen=2)
    behind = find_sinks(statistics(model, padded, attention_mask=mask, columns=True), eps=0.1, share=0.1, seen=2)
    torch.testing.assert_close(alone.first, behind.first)
    torch.testing.assert_close(alone.found, behind.found)
    # With padding taken away nothing but rounding differs, so that the same tokens are named.
    assert [(t.position, t.token) for t in alone.tokens] == [(t.position, t.token) for t in behind.tokens]


def with_a_silent_sink() -> Transformer:
    """A GPT-2 whose head 1 of layer 0 always looks at token 7, whose value there is nothing."""
    hf = find("gpt2").model(weights="usual", seed=2)
    width, heads = hf.config.n_embd, hf.config.n_head
    size = width // heads
    with torch.no_grad():
        hf.transformer.wpe.weight.zero_()
        first = hf.transformer.h[0]
        first.ln_1.weight.fill_(1)
        first.ln_1.bias.zero_()
        table = hf.transformer.wte.weight
        table[:, 0] = table[:, 1:].mean(-1)
        table[7] = 0
        table[7, 0] = 1  # the normed stream of token 7 is a unit in dimension 0, near enough
        here = slice(size, 2 * size)
        weight, bias = first.attn.c_attn.weight, first.attn.c_attn.bias
        query, key, value = (slice(i * width + here.start, i * width + here.stop) for i in range(3))
        weight[:, query], bias[query] = 0, 10.0  # asks the same of all
        weight[:, key], bias[key] = 0, 0
        weight[0, key] = 10.0
        unit = torch.nn.functional.layer_norm(table[7], (width,))
        bias[value] = 0
        weight[:, value] -= torch.outer(unit, unit @ weight[:, value]) / unit.square().sum()
    return from_hf(hf)


def test_a_head_that_reads_nothing_is_idle() -> None:
    model = with_a_silent_sink()
    tokens = torch.randint(8, 60, (1, 20), generator=torch.Generator().manual_seed(0))
    tokens[0, 0] = 7
    idle = idle_heads(statistics(model, tokens, columns=True))
    assert [(head.layer, head.head) for head in idle] == [(0, 1)]
    assert idle[0].idle == 1
    assert idle[0].sink_mass > 0.99
    assert idle[0].relative_norm < 0.01
    tokens[0, 0] = 8  # without the sink the same head reads
    assert idle_heads(statistics(model, tokens)) == []


def test_idle_rows_are_counted_row_by_row() -> None:
    hf, model = brute.pair("llama-grouped")
    tokens = brute.given(model)
    p = brute.patterns(hf, tokens)
    rows = brute.measures(model, tokens, p, [0], 16)
    _, cache = model.run_with_cache(tokens, lambda name: name.endswith("hook_v"))
    found = idle_rows(statistics(model, tokens), concentrated=0.6, short=0.9)
    counted = 0.0
    for layer in range(model.cfg.n_layers):
        length = cache["v", layer].norm(dim=-1).mean(1)  # batch, group
        for head in range(model.cfg.n_heads):
            scale = length[:, head // model.cfg.group_size, None]
            peaked = rows["largest"][layer, head] >= 0.6
            idle = peaked & (rows["value_weighted_norm"][layer, head] <= 0.9 * scale)
            expected = float(idle[:, 1:].double().mean())  # the first query sees one key
            assert float(found[layer, head]) == pytest.approx(expected)
            counted += expected
    assert counted > 0


def test_columns_must_have_been_asked_for(model: Transformer) -> None:
    with pytest.raises(ValueError, match="columns=True"):
        find_sinks(statistics(model, "When Mary went"))
    mixed = model.with_attention("value-residual")
    with pytest.raises(ValueError, match="Values are mixed"):
        idle_heads(statistics(mixed, "When Mary went"))


@pytest.mark.real
def test_smollm2_has_its_sink_on_the_first_token(smol: Transformer) -> None:
    words = "the river carries small boats past old houses while children count lights on a bridge at dusk".split()
    order = torch.randperm(len(words) * 6, generator=torch.Generator().manual_seed(0)).tolist()
    text = " ".join(words[at % len(words)] for at in order)
    found = statistics(smol, text, columns=True)
    sinks = find_sinks(found)
    assert sinks.tokens[0].position == 0
    assert sinks.tokens[0].share > 0.3
    # Not for the token that stands there: another one gets the same, and this one elsewhere does not.
    other = find_sinks(statistics(smol, " bridge" + text, columns=True))
    assert other.tokens[0].position == 0
    assert [token.position for token in other.tokens if token.share > 0.3] == [0]
    # Its keys are where no-op heads put their weight.
    idle = idle_heads(found)
    assert idle
    assert sum(head.sink_mass for head in idle) / len(idle) > 0.5
