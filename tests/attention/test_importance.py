"""Importance of heads against one forced run for each head and each example, and against a mask's gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from tests import digits
from tests.attention import brute
from workbench.attention.importance import IMPORTANCE, KEYS, Importance, head_importance
from workbench.circuits.progress import Stopped
from workbench.models import Transformer, fresh


def forced(model: Transformer, tokens: Tensor, layer: int, head: int, fill: Tensor) -> tuple[Tensor, Tensor]:
    """(final residual stream, logits) of one example with one head's z set; no stack, from the first layer on."""
    kept: dict[str, Tensor] = {}

    def put(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, head] = fill
        return z

    def see(x: Tensor, hook: Any) -> None:
        kept["final"] = x

    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    logits = model.run_with_hooks(tokens, [(f"blocks.{layer}.attn.hook_z", put), (last, see)])
    return kept["final"], logits


def plain_z(model: Transformer, tokens: Tensor, layer: int) -> Tensor:
    return model.run_with_cache(tokens, [f"blocks.{layer}.attn.hook_z"])[1][f"blocks.{layer}.attn.hook_z"]


def scored(
    model: Transformer, tokens: Tensor, ablation: str, answers: Tensor | None = None, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """Every pruning metric by its definition, [layer, head, example]."""
    cfg = model.cfg
    means = [plain_z(model, tokens, layer).mean((0, 1)) for layer in range(cfg.n_layers)]
    found = {key: torch.zeros(cfg.n_layers, cfg.n_heads, len(tokens)) for key in KEYS if key != "gradient"}
    for example in range(len(tokens)):
        one = tokens[example : example + 1]
        for layer in range(cfg.n_layers):
            for head in range(cfg.n_heads):
                own = plain_z(model, one, layer)[:, :, head]
                x, logits = forced(model, one, layer, head, own)
                fill = means[layer][head] if ablation == "mean" else torch.zeros(cfg.d_head)
                y, pruned = forced(model, one, layer, head, fill)
                if labels is not None:
                    right, rows = labels[example : example + 1], [0]
                    p, q = logits.softmax(-1), pruned.softmax(-1)
                elif answers is not None:
                    right, rows = answers[example : example + 1], [-1]
                    p, q = logits[0, -1:].softmax(-1), pruned[0, -1:].softmax(-1)
                else:
                    right, rows = one[0, 1:], list(range(one.shape[1] - 1))
                    p, q = logits[0, :-1].softmax(-1), pruned[0, :-1].softmax(-1)
                at = torch.arange(len(right))
                m = (p + q) / 2
                kl = [(a * (a / m).log()).sum(-1) for a in (p, q)]
                values = {
                    "loss": (p[at, right] / q[at, right]).log(),
                    "probability": p[at, right] - q[at, right],
                    "js": (kl[0] + kl[1]) / 2,
                    "accuracy": (p.argmax(-1) == right).double() - (q.argmax(-1) == right).double(),
                    "shift": 1 - torch.cosine_similarity(x[0, rows], y[0, rows], dim=-1),
                }
                for key, value in values.items():
                    found[key][layer, head, example] = value.mean()
    return found


def masked_gradient(model: Transformer, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
    """Michel et al.'s own form: the derivative of an example's loss in a mask on each head, at 1."""
    found = []
    for example in range(len(tokens)):
        one = tokens[example : example + 1]
        mask = torch.ones(model.cfg.n_layers, model.cfg.n_heads, dtype=torch.float64, requires_grad=True)
        taps = {
            f"blocks.{layer}.attn.hook_z": (lambda z, layer=layer, mask=mask: z * mask[layer][:, None])
            for layer in range(model.cfg.n_layers)
        }
        logits = model(one, taps)
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits, labels[example : example + 1])
        else:
            loss = torch.nn.functional.cross_entropy(logits[0, :-1], one[0, 1:])
        (slope,) = torch.autograd.grad(loss, mask)
        found.append(slope.abs())
    return torch.stack(found, -1)


def same(found: Importance, expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        torch.testing.assert_close(found.of(key), value.double(), rtol=1e-5, atol=1e-8, msg=key)


@pytest.mark.parametrize("kind", ["llama-grouped", "gemma2", "gpt-neox", "qwen3"])
@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_decoders_by_brute_force(kind: str, ablation: Any) -> None:
    _, model = brute.pair(kind)
    tokens = brute.given(model, 2, 7)
    # A small budget: one example and one head at a time, and the logits of a few outputs.
    small = head_importance(model, tokens, ablation=ablation, budget=2**16)
    expected = scored(model, tokens, ablation)
    same(small, expected)
    whole = head_importance(model, tokens, ablation=ablation)
    same(whole, expected)
    torch.testing.assert_close(whole.of("gradient"), masked_gradient(model, tokens), rtol=1e-5, atol=1e-10)
    torch.testing.assert_close(small.of("gradient"), whole.of("gradient"))
    assert whole.complete
    loss = torch.nn.functional.cross_entropy(model(tokens)[:, :-1].mT, tokens[:, 1:])
    assert whole.base["loss"] == pytest.approx(float(loss))
    assert small.base == pytest.approx(whole.base)


def test_answers_are_read_at_the_last_token() -> None:
    _, model = brute.pair("gpt2")
    tokens, answers = brute.given(model, 3, 6), torch.tensor([5, 9, 2])
    same(head_importance(model, tokens, answers=answers, ablation="zero"), scored(model, tokens, "zero", answers))


def test_a_vision_transformer_by_brute_force() -> None:
    model = digits.vision().double()
    images, labels = brute.given(model, 3), torch.tensor([1, 7, 4])
    found = head_importance(model, images, labels=labels)
    same(found, scored(model, images, "mean", labels=labels))
    torch.testing.assert_close(found.of("gradient"), masked_gradient(model, images, labels), rtol=1e-5, atol=1e-10)
    own = head_importance(model, images)
    answers = model(images).argmax(-1)
    torch.testing.assert_close(own.of("loss"), head_importance(model, images, labels=answers).of("loss"))
    assert "own answers" in own.notes[0]


def test_padding_changes_nothing() -> None:
    _, model = brute.pair("llama-grouped")
    tokens = brute.given(model, 1, 9)
    alone = head_importance(model, tokens, ablation="zero")
    for side in ("left", "right"):
        pad = torch.zeros(1, 4, dtype=torch.long)
        real = torch.ones_like(tokens)
        padded = torch.cat([pad, tokens] if side == "left" else [tokens, pad], 1)
        mask = torch.cat([pad, real] if side == "left" else [real, pad], 1)
        found = head_importance(model, padded, attention_mask=mask, ablation="zero")
        for key in KEYS:
            torch.testing.assert_close(found.of(key), alone.of(key), rtol=1e-5, atol=1e-9, msg=f"{side} {key}")
        filled = head_importance(model, padded, attention_mask=mask, metrics=["loss"])
        torch.testing.assert_close(filled.of("loss"), head_importance(model, tokens).of("loss"), rtol=1e-5, atol=1e-9)


def test_an_encoder_without_logits_has_its_stream_compared_and_masks_need_labels() -> None:
    encoder = digits.encoder()
    tokens = torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(0))
    found = head_importance(encoder, tokens)
    assert set(found.values) == {"shift"}
    assert "no logits" in found.notes[0]
    with pytest.raises(ValueError, match="loss cannot be measured"):
        head_importance(encoder, tokens, metrics=["loss"])
    with pytest.raises(ValueError, match="'loss' was not measured"):
        found.score("loss")


def test_a_masked_language_model_answers_where_it_is_asked() -> None:
    _, model = brute.pair("bert-masked")
    tokens = brute.given(model, 2, 8)
    labels = torch.full_like(tokens, -100)
    labels[0, 3], labels[1, 5], labels[1, 6] = 11, 4, 7
    found = head_importance(model, tokens, labels=labels, metrics=["loss"], ablation="zero")
    for example, places in ((0, [3]), (1, [5, 6])):
        one = tokens[example : example + 1]
        _, pruned = forced(model, one, 1, 0, torch.zeros(model.cfg.d_head))
        rise = [
            (model(one)[0, at].log_softmax(-1) - pruned[0, at].log_softmax(-1))[labels[example, at]] for at in places
        ]
        assert float(found.of("loss")[1, 0, example]) == pytest.approx(float(sum(rise) / len(rise)), abs=1e-9)
    assert set(head_importance(model, tokens).values) == {"js", "shift"}


def test_heads_that_write_nothing_do_not_matter_and_the_only_one_that_does_is_first() -> None:
    _, model = brute.pair("gpt2")
    size = model.cfg.d_head
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            block.attn.o.weight[:, size:].zero_()
            if layer:
                block.attn.o.weight.zero_()
    found = head_importance(model, brute.given(model, 2, 12), ablation="zero")
    for key in KEYS:
        score = found.score(key)
        assert float(score[:, 1:].abs().max()) == pytest.approx(0, abs=1e-12)
        assert float(score[1:].abs().max()) == pytest.approx(0, abs=1e-12)
    for key in ("js", "shift", "gradient"):
        assert found.top(key, 1)[0].name == "a0.h0"
        assert found.top(key, 1)[0].value > 1e-6


def test_values_of_the_first_layer_are_not_forgotten() -> None:
    _, plain = brute.pair("llama-ungrouped")
    model = plain.with_attention("value-residual")
    tokens = brute.given(model, 1, 6)
    same(head_importance(model, tokens, ablation="zero"), scored(model, tokens, "zero"))


def test_ranks_agree_as_scipy_says() -> None:
    _, model = brute.pair("llama-grouped")
    found = head_importance(model, brute.given(model, 2, 8))
    keys, agreement = found.agreement()
    for i, one in enumerate(keys):
        for j, other in enumerate(keys):
            a, b = found.score(one).flatten(), found.score(other).flatten()
            if bool(agreement[i, j].isnan()):
                assert len(set(a.tolist())) == 1 or len(set(b.tolist())) == 1
            else:
                assert float(agreement[i, j]) == pytest.approx(spearmanr(a, b).statistic)
    assert found.to_dict()["agreement"]["metrics"] == keys
    half = found.mean("loss").half_width
    values = found.of("loss")[0, 0]
    assert float(half[0, 0]) == pytest.approx(12.706 * float(values.std()) / 2**0.5, rel=1e-4)


def test_stopping_keeps_what_is_done() -> None:
    _, model = brute.pair("llama-grouped")
    tokens, seen = brute.given(model, 2, 8), []
    whole = head_importance(model, tokens, metrics=["loss"], ablation="zero", budget=2**16)

    def stop(at: Any) -> bool:
        seen.append(at)
        return len(seen) < 3

    part = head_importance(model, tokens, metrics=["loss"], ablation="zero", budget=2**16, progress=stop)
    assert not part.complete
    assert "Stopped: 0 of" in part.notes[-1]
    done = part.of("loss").isfinite()
    assert 0 < int(done.sum()) < done.numel()
    assert seen[0].total > 3
    torch.testing.assert_close(part.of("loss")[done], whole.of("loss")[done])
    with pytest.raises(Stopped):
        head_importance(model, tokens, progress=lambda at: False)


def test_every_metric_says_what_it_is() -> None:
    records = {metric.key: metric for metric in IMPORTANCE}
    assert set(records) == set(KEYS)
    assert all(metric.title and metric.unit and metric.formula and metric.source for metric in IMPORTANCE)


def test_unusable_input_is_one_sentence() -> None:
    _, model = brute.pair("llama-grouped")
    vision, tokens = fresh(digits.VISION, name="vit"), brute.given(model, 2, 6)
    images = torch.randn(2, 1, 8, 8)
    with pytest.raises(ValueError, match="there is no 'median'"):
        head_importance(model, tokens, ablation="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="importance metric"):
        head_importance(model, tokens, metrics=["los"])
    with pytest.raises(ValueError, match="one metric at least"):
        head_importance(model, tokens, metrics=[])
    with pytest.raises(ValueError, match="use answers="):
        head_importance(model, tokens, labels=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="use labels="):
        head_importance(vision, images, answers=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"whole numbers \[2\]"):
        head_importance(vision, images, labels=torch.tensor([1]))
    with pytest.raises(ValueError, match="from 0 to 9"):
        head_importance(vision, images, labels=torch.tensor([1, 10]))
    with pytest.raises(ValueError, match="two tokens"):
        head_importance(model, tokens[:, :1])
