"""Copy suppression against whole [d_vocab, d_vocab] matrices and against what heads write in a text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests import digits
from tests.attention import brute
from tests.attention.test_head_circuits import dense_ov
from workbench.attention.copy_suppression import attended_logits, copy_suppression
from workbench.circuits.progress import Stopped
from workbench.models import Transformer

KINDS = ["gpt2", "llama-grouped", "gemma2", "gpt-neox"]


def whole_ov(model: Transformer, layer: int, head: int, x: Tensor) -> Tensor:
    """[source, target] of streams ``x``: the model's own modules, less what biases add."""
    block, zero = model.blocks[layer], torch.zeros(1, model.cfg.d_model, dtype=torch.float64)
    read = block.ln1(x)
    if block.ln1.bias is not None:
        read = read - block.ln1.bias
    v = (block.attn.v(read) - block.attn.v(zero)).view(len(x), -1, model.cfg.d_head)
    z = torch.zeros(len(x), model.cfg.n_heads, model.cfg.d_head, dtype=torch.float64)
    z[:, head] = v[:, head // model.cfg.group_size]
    wrote = block.attn.write(z[None])[0] - block.attn.write(torch.zeros_like(z)[None])[0]
    if block.ln1_post is not None:
        wrote = wrote * block.ln1_post.weight
    if model.ln_final.centred:
        wrote = wrote - wrote.mean(-1, keepdim=True)
    return (wrote * model.ln_final.weight) @ model.W_U


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reads", ["embedding", "layer0"])
def test_shares_are_those_of_sorted_rows(kind: str, reads: str) -> None:
    _, model = brute.pair(kind)
    if model.pos_embed is not None:
        with torch.no_grad():
            model.pos_embed.weight.zero_()
    ids = torch.arange(model.cfg.d_vocab)
    found = copy_suppression(model, ids, k=5, reads=reads)  # type: ignore[arg-type]
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            if reads == "embedding" or layer == 0:
                whole = dense_ov(model, layer, head)
            else:
                whole = whole_ov(model, layer, head, model(ids[:, None], stop_at_layer=1)[:, 0])
            order = whole.argsort(-1)
            low = (order[:, :5] == ids[:, None]).any(-1).double().mean()
            high = (order[:, -5:] == ids[:, None]).any(-1).double().mean()
            assert float(found.score[layer, head]) == pytest.approx(float(low))
            assert float(found.copies[layer, head]) == pytest.approx(float(high))


def test_heads_made_to_copy_and_to_suppress_do() -> None:
    _, model = brute.pair("gpt2")
    size = model.cfg.d_head
    with torch.no_grad():
        model.ln_final.weight.fill_(1)
        for block, sign in zip(model.blocks, (1, -1), strict=False):
            block.ln1.weight.fill_(1)
            block.attn.v.weight.zero_()
            block.attn.o.weight.zero_()
            for i in range(size):
                block.attn.v.weight[i, i] = 1
                block.attn.o.weight[i, i] = sign
        # Tokens differ in the few numbers that a head reads.
        model.embed.weight[:, size:] = 0
        model.embed.weight /= model.embed.weight.norm(dim=-1, keepdim=True)
        model.unembedding.weight.copy_(model.embed.weight)
    found = copy_suppression(model, reads="embedding")
    assert found.top(1)[0].name == "a1.h0"
    assert found.top(1, copies=True)[0].name == "a0.h0"
    assert float(found.score[1, 0]) > 0.9 > 0.1 > float(found.score[0, 0])
    assert float(found.copies[0, 0]) > 0.9 > 0.1 > float(found.copies[1, 0])
    # A head that writes nothing has no order.
    assert float(found.score[0, 1]) == float(found.copies[0, 1]) == 0
    tokens = brute.given(model, 2, 9)
    behaviour = attended_logits(model, tokens)
    assert float(behaviour[0, 0]) > 0 > float(behaviour[1, 0])


@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped", "gemma2"])
def test_attended_logits_are_what_heads_write_key_by_key(kind: str) -> None:
    hf, model = brute.pair(kind)
    tokens = brute.given(model, 2, 8)
    p = brute.patterns(hf, tokens)
    found = attended_logits(model, tokens)
    unembed = model.ln_final.weight[:, None] * model.W_U
    if model.ln_final.centred:
        unembed = unembed - unembed.mean(0)
    unembed = unembed - unembed.mean(1, keepdim=True)
    for layer in range(model.cfg.n_layers):
        block = model.blocks[layer]
        _, cache = model.run_with_cache(tokens, [f"blocks.{layer}.attn.hook_v"])
        v = cache["v", layer].repeat_interleave(model.cfg.group_size, 2)
        for head in range(model.cfg.n_heads):
            total = 0.0
            for row in range(2):
                for key in range(8):
                    wrote = v[row, key, head] @ block.attn.W_O[head]
                    if block.ln1_post is not None:
                        wrote = wrote * block.ln1_post.weight
                    own = float(wrote @ unembed[:, tokens[row, key]])
                    total += own * float(p[layer, head, row, :, key].sum())
            assert float(found[layer, head]) == pytest.approx(total / 16, rel=1e-4, abs=1e-7)


def test_the_sample_is_of_plain_tokens_and_repeats(model: Transformer) -> None:
    one, again = copy_suppression(model, sample=20, seed=3), copy_suppression(model, sample=20, seed=3)
    assert one.n_tokens == 20
    assert torch.equal(one.score, again.score)
    assert one.to_dict()["k"] == 10
    whole = copy_suppression(model, sample=10**6)
    assert whole.n_tokens == model.cfg.d_vocab - len(model.tokenizer.all_special_ids)


def test_unusable_input_is_one_sentence(model: Transformer) -> None:
    with pytest.raises(ValueError, match="logits of the same tokens"):
        copy_suppression(digits.encoder())
    with pytest.raises(ValueError, match="logits of the same tokens"):
        attended_logits(digits.vision(), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="at least 1"):
        copy_suppression(model, k=0)
    with pytest.raises(ValueError, match="Give one token id"):
        copy_suppression(model, torch.tensor([model.cfg.d_vocab]))
    with pytest.raises(Stopped):
        copy_suppression(model, progress=lambda at: False)
    with pytest.raises(Stopped):
        attended_logits(model, torch.ones(1, 5, dtype=torch.long), progress=lambda at: False)
