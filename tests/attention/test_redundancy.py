"""Block influence against cached streams, and leaving layers out against hooks and against models without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import digits
from tests.attention import brute
from workbench.attention.redundancy import PARTS, redundancy
from workbench.circuits.progress import Stopped
from workbench.models import Transformer


def turned(x: Tensor, y: Tensor) -> Tensor:
    return 1 - torch.cosine_similarity(x, y, dim=-1).mean(-1)


def cost(model: Transformer, tokens: Tensor, hooks: Any = ()) -> Tensor:
    """Each example's loss with hooks."""
    logits = model.run_with_hooks(tokens, hooks)
    return torch.nn.functional.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none").mean(-1)


@pytest.mark.parametrize("kind", ["llama-grouped", "gemma2", "gpt-neox", "bert", "vit"])
def test_influence_is_how_far_streams_turn(kind: str) -> None:
    _, model = brute.pair(kind)
    tokens = brute.given(model, 3, 10)
    found = redundancy(model, tokens, batch_size=2)
    _, cache = model.run_with_cache(tokens)
    for layer in range(model.cfg.n_layers):
        name = f"blocks.{layer}"
        pre, post = cache[f"{name}.hook_resid_pre"], cache[f"{name}.hook_resid_post"]
        if model.cfg.parallel:
            mid, start = pre + cache[f"{name}.hook_attn_out"], pre
            end = pre + cache[f"{name}.hook_mlp_out"]
        else:
            mid = start = cache[f"{name}.hook_resid_mid"]
            end = post
        for part, values in (
            ("layer", turned(pre, post)),
            ("attention", turned(pre, mid)),
            ("mlp", turned(start, end)),
        ):
            mean = found.influence[part]  # type: ignore[index]
            assert float(mean.mean[layer]) == pytest.approx(float(values.mean()), rel=1e-6, abs=1e-12)
            half = 4.302653 * float(values.std()) / 3**0.5  # Student's t of two degrees of freedom
            assert float(mean.half_width[layer]) == pytest.approx(half, rel=1e-5, abs=1e-12)
    assert found.n_examples == 3
    assert found.complete
    assert found.loss is None
    assert not found.rise


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt-neox", "gemma2"])
def test_leaving_out_is_what_hooks_do(kind: str) -> None:
    _, model = brute.pair(kind)
    tokens = brute.given(model, 2, 9)
    found = redundancy(model, tokens, leave_out=PARTS, batch_size=1)
    base = cost(model, tokens)
    assert found.loss == pytest.approx(float(base.mean()))
    for layer in range(model.cfg.n_layers):
        attn = (f"blocks.{layer}.hook_attn_out", lambda x, hook: 0 * x)
        mlp = (f"blocks.{layer}.hook_mlp_out", lambda x, hook: 0 * x)
        for part, hooks in (("layer", [attn, mlp]), ("attention", [attn]), ("mlp", [mlp])):
            rise = cost(model, tokens, hooks) - base
            assert float(found.rise[part].mean[layer]) == pytest.approx(float(rise.mean()), rel=1e-6)  # type: ignore[index]


def test_a_layer_that_writes_nothing_is_redundant() -> None:
    _, model = brute.pair("llama-grouped")
    with torch.no_grad():
        model.blocks[1].attn.o.weight.zero_()
        assert model.blocks[1].mlp is not None
        model.blocks[1].mlp.out.weight.zero_()
    found = redundancy(model, brute.given(model), leave_out=("layer",))
    for part in PARTS:
        assert float(found.influence[part].mean[1]) == pytest.approx(0, abs=1e-15)
        assert float(found.influence[part].mean[0]) > 1e-6
    assert float(found.rise["layer"].mean[1]) == pytest.approx(0, abs=1e-12)
    assert float(found.rise["layer"].mean[0]) != pytest.approx(0, abs=1e-6)


def test_a_post_norm_layer_left_out_hands_on_what_it_was_given() -> None:
    _, model = brute.pair("bert-masked")
    tokens = brute.given(model, 1, 8)
    labels = torch.full_like(tokens, -1)
    labels[0, 4] = 9
    found = redundancy(model, tokens, labels=labels, leave_out=("layer",))
    for layer in range(model.cfg.n_layers):
        resid = model(tokens, stop_at_layer=layer)
        if layer + 1 < model.cfg.n_layers:
            logits = model(resid, start_at_layer=layer + 1)
        else:
            logits = model.logits(resid)
        rise = model(tokens)[0, 4].log_softmax(-1)[9] - logits[0, 4].log_softmax(-1)[9]
        assert float(found.rise["layer"].mean[layer]) == pytest.approx(float(rise), rel=1e-6, abs=1e-10)


def test_a_vision_model_has_the_loss_of_its_labels() -> None:
    model = digits.vision().double()
    images, labels = brute.given(model, 4), torch.tensor([1, 2, 3, 4])
    found = redundancy(model, images, labels=labels, leave_out=("attention",), batch_size=3)
    assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(model(images), labels)))
    logits = model.run_with_hooks(images, [("blocks.1.hook_attn_out", lambda x, hook: 0 * x)])
    rise = float(torch.nn.functional.cross_entropy(logits, labels)) - found.loss
    assert float(found.rise["attention"].mean[1]) == pytest.approx(rise, rel=1e-6)
    assert found.to_dict()["rise"]["attention"][1] == pytest.approx(rise, rel=1e-6)


def test_texts_of_unlike_length_count_once_each(model: Transformer) -> None:
    texts = ["When Mary and John went to the store", "Then"]
    both = redundancy(model, texts)
    alone = [redundancy(model, text) for text in texts]
    mean = sum(found.influence["layer"].mean for found in alone) / 2
    torch.testing.assert_close(both.influence["layer"].mean, mean, rtol=1e-4, atol=1e-9)


def test_stopping_keeps_whole_batches() -> None:
    _, model = brute.pair("llama-grouped")
    tokens, steps = brute.given(model, 3, 8), []

    def stop(at: Any) -> bool:
        steps.append(at)
        return at.done < 2 * (1 + model.cfg.n_layers)

    found = redundancy(model, tokens, leave_out=("layer",), batch_size=1, progress=stop)
    assert not found.complete
    assert found.n_examples == 2
    assert steps[0].total == 3 * (1 + model.cfg.n_layers)
    first = redundancy(model, tokens[:2], leave_out=("layer",))
    torch.testing.assert_close(found.rise["layer"].mean, first.rise["layer"].mean)
    with pytest.raises(Stopped):
        redundancy(model, tokens, leave_out=("layer",), progress=lambda at: False)


def test_unusable_input_is_one_sentence() -> None:
    _, model = brute.pair("llama-grouped")
    tokens = brute.given(model)
    with pytest.raises(ValueError, match="there is no 'head'"):
        redundancy(model, tokens, leave_out=("head",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="between 0 and 1"):
        redundancy(model, tokens, level=95)
    with pytest.raises(ValueError, match="at least one text"):
        redundancy(model, [])
    with pytest.raises(ValueError, match="batch_size=0"):
        redundancy(model, tokens, batch_size=0)
    with pytest.raises(ValueError, match="has no loss here"):
        redundancy(digits.encoder(), tokens, leave_out=("layer",))
    with pytest.raises(ValueError, match="2 examples and 3 labels"):
        redundancy(digits.vision(), torch.zeros(2, 1, 8, 8), labels=torch.tensor([1, 2, 3]))
