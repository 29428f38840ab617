"""QK and OV circuits against whole [d_vocab, d_vocab] matrices, and against what a model does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests import digits
from tests.attention import brute
from workbench.attention import copying, head_circuits, ov_pairs, own_logits, qk_pairs
from workbench.circuits.progress import Stopped
from workbench.models import Transformer, load
from workbench.models.zoo import induction

KINDS = ["gpt2", "llama-grouped", "gemma2", "qwen3", "gpt-neox"]


def entered(model: Transformer, layer: int) -> Tensor:
    """What attention in a layer reads of each token's embedding alone, [d_vocab, d_model]."""
    embedding = model.W_E * model.cfg.embed_scale
    return model.blocks[layer].ln1(embedding)


def dense_ov(model: Transformer, layer: int, head: int) -> Tensor:
    """[source, target]: the model's own modules on every token, less what a constant does."""
    block, zero = model.blocks[layer], torch.zeros(1, model.cfg.d_model, dtype=torch.float64)
    x = entered(model, layer)
    if block.ln1.bias is not None:
        x = x - block.ln1.bias
    # Linear maps alone: what biases add is taken away.
    v = (block.attn.v(x) - block.attn.v(zero)).view(len(x), -1, model.cfg.d_head)
    z = torch.zeros(len(x), model.cfg.n_heads, model.cfg.d_head, dtype=torch.float64)
    z[:, head] = v[:, head // model.cfg.group_size]
    wrote = block.attn.write(z[None])[0] - block.attn.write(torch.zeros_like(z)[None])[0]
    if block.ln1_post is not None:
        wrote = wrote * block.ln1_post.weight
    if model.ln_final.centred:
        wrote = wrote - wrote.mean(-1, keepdim=True)
    logits = (wrote * model.ln_final.weight) @ model.W_U
    return logits - logits.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
def test_eigenvalues_are_those_of_the_whole_matrix(kind: str) -> None:
    _, model = brute.pair(kind)
    found = copying(model)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            whole = dense_ov(model, layer, head)
            values = torch.linalg.eigvals(whole)
            values = values[values.abs().argsort(descending=True)][: model.cfg.d_head]
            ours = found.eigenvalues[layer, head]
            torch.testing.assert_close(ours.abs(), values.abs(), rtol=1e-5, atol=1e-5)
            assert float(found.score[layer, head]) == pytest.approx(
                float(values.real.sum() / values.abs().sum()), abs=1e-5
            )
            own = whole.diagonal()
            assert float(found.own[layer, head]) == pytest.approx(float(own.mean()), rel=1e-6, abs=1e-8)
            some = [3, 9, 40]
            torch.testing.assert_close(own_logits(model, some)[layer, head], own[some])


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_the_largest_entries(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_circuits, "CHUNK", 7)
    _, model = brute.pair(kind)
    layer, head, some = model.cfg.n_layers - 1, model.cfg.n_heads - 1, [5, 11, 2]
    whole = dense_ov(model, layer, head)[some]
    values, where = whole.topk(4)
    pairs = ov_pairs(model, layer, head, some, 4)
    assert [(pair.source, pair.target) for pair in pairs] == [
        (source, target) for source, row in zip(some, where.tolist(), strict=True) for target in row
    ]
    assert [pair.value for pair in pairs] == pytest.approx(values.flatten().tolist())


@pytest.mark.parametrize("kind", ["llama-grouped", "qwen3", "gemma2"])
def test_a_score_is_what_the_first_layer_gives_a_token_that_meets_itself(kind: str) -> None:
    # Rotary angles cancel at distance zero: the diagonal of the model's own scores is the QK circuit's.
    _, model = brute.pair(kind)
    tokens = torch.tensor([[4, 17, 33]])
    _, cache = model.run_with_cache(tokens, ["blocks.0.attn.hook_attn_scores"])
    for head in range(model.cfg.n_heads):
        pairs = qk_pairs(model, 0, head, tokens[0], model.cfg.d_vocab)
        own = {pair.source: pair.value for pair in pairs if pair.source == pair.target}
        expected = cache["attn_scores", 0][0, head].diagonal().tolist()
        assert [own[int(at)] for at in tokens[0]] == pytest.approx(expected)


def test_pairs_of_unlike_tokens_are_scores_where_there_are_no_positions() -> None:
    _, model = brute.pair("gpt2")
    with torch.no_grad():
        assert model.pos_embed is not None
        model.pos_embed.weight.zero_()
    tokens = torch.randperm(model.cfg.d_vocab, generator=torch.Generator().manual_seed(0))[: model.cfg.n_ctx][None]
    _, cache = model.run_with_cache(tokens, ["blocks.0.attn.hook_attn_scores"])
    query = int(tokens[0, -1])
    for head in range(model.cfg.n_heads):
        pairs = qk_pairs(model, 0, head, [query], model.cfg.d_vocab)
        assert [pair.value for pair in pairs] == sorted((pair.value for pair in pairs), reverse=True)
        scores = {pair.target: pair.value for pair in pairs}
        assert [scores[at] for at in tokens[0].tolist()] == pytest.approx(cache["attn_scores", 0][0, head, -1].tolist())


def test_a_head_made_to_copy_copies_and_one_made_to_suppress_does_not() -> None:
    _, model = brute.pair("gpt2")
    size = model.cfg.d_head
    with torch.no_grad():
        model.ln_final.weight.fill_(1)
        for block, sign in zip(model.blocks, (1, -1), strict=False):
            # What is read along an axis is written along it again, or against it.
            block.ln1.weight.fill_(1)
            block.attn.v.weight.zero_()
            block.attn.o.weight.zero_()
            for i in range(size):
                block.attn.v.weight[i, i] = 1
                block.attn.o.weight[i, i] = sign
        model.unembedding.weight.copy_(model.embed.weight)
    found = copying(model)
    assert float(found.score[0, 0]) > 0.99
    assert float(found.own[0, 0]) > 0
    assert float(found.score[1, 0]) < -0.99
    assert float(found.own[1, 0]) < 0


def test_trained_induction_heads_copy() -> None:
    trained = load("induction-2l")
    heads = induction.heads(trained)["induction_heads"]
    assert heads
    words = list(range(1, trained.cfg.d_vocab))
    found, own = copying(trained), own_logits(trained, words)
    for layer, head in heads:
        # The word attended to is the word that is predicted.
        assert float(found.score[layer, head]) > 0.5
        assert float(found.own[layer, head]) > 0
        assert float((own[layer, head] > 0).double().mean()) > 0.9


def test_unusable_input_is_one_sentence(model: Transformer) -> None:
    with pytest.raises(ValueError, match="logits of the same tokens"):
        copying(digits.encoder())
    with pytest.raises(ValueError, match="logits of the same tokens"):
        own_logits(digits.vision(), [1])
    with pytest.raises(ValueError, match="reads images"):
        qk_pairs(digits.vision(), 0, 0, [1])
    with pytest.raises(ValueError, match="There is no head 99"):
        ov_pairs(model, 0, 99, [1])
    with pytest.raises(ValueError, match="Give one token id"):
        qk_pairs(model, 0, 0, [model.cfg.d_vocab])
    with pytest.raises(ValueError, match="pairs of each token"):
        qk_pairs(model, 0, 0, [1], 0)
    with pytest.raises(ValueError, match="Values are mixed"):
        copying(model.with_attention("value-residual"))
    with pytest.raises(Stopped):
        copying(model, progress=lambda at: False)
