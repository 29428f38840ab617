"""Effects of components against hooks on Hugging Face's modules, and the sum of direct effects on every family."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.paths.by_hooks import Hooked, next_token, of_class
from workbench.circuits.progress import Progress, Stopped
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find
from workbench.paths.effects import Effects, effects

KINDS = ("gpt2", "llama-biased", "vit-classes")


@dataclass(frozen=True)
class Case:
    hooked: Hooked
    model: Transformer
    data: Tensor
    labels: Tensor | None

    def measure(self, **change: Any) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.hooked.run(self.data, **change)[0]
        return next_token(logits, self.data) if self.labels is None else of_class(logits, self.labels)

    @property
    def effects(self) -> Effects:
        return effects(self.model, self.data, self.labels, batch_size=2)


@cache
def case(key: str) -> Case:
    hf = find(key).model(layers=2, seed=2, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    if key.startswith("vit"):
        data = torch.randn(5, 1, 12, 20, generator=g, dtype=torch.float64)
        return Case(Hooked(hf), from_hf(hf), data, torch.tensor([0, 3, 1, 4, 2]))
    return Case(Hooked(hf), from_hf(hf), torch.randint(0, 64, (5, 7), generator=g), None)


def close(ours: Tensor, theirs: Tensor) -> None:
    """Hugging Face's LLaMA norms in float32."""
    torch.testing.assert_close(ours, theirs.double(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("key", KINDS)
def test_the_model_as_it_is(key: str) -> None:
    one = case(key)
    for ours, theirs in zip((one.effects.value, one.effects.loss, one.effects.accuracy), one.measure(), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("key", KINDS)
def test_cut_from_the_classifier_alone(key: str) -> None:
    one = case(key)
    found, value = one.effects, one.measure()[0]
    assert found.components == ("embed", "a0", "m0", "a1", "m1")
    for i, name in enumerate(found.components):
        theirs = one.measure(cut={name: 0.0})
        close(found.cut[i], value - theirs[0])
        close(found.loss_cut[i], theirs[1])
        close(found.accuracy_cut[i], theirs[2])


@pytest.mark.parametrize("key", KINDS)
def test_deleted_from_everything_downstream(key: str) -> None:
    one = case(key)
    found, value = one.effects, one.measure()[0]
    for i, name in enumerate(found.components):
        theirs = one.measure(deleted=name)
        close(found.total[i], value - theirs[0])
        close(found.loss_deleted[i], theirs[1])
        close(found.accuracy_deleted[i], theirs[2])
        close(found.passed_on[i], one.measure(cut={name: 0.0})[0] - theirs[0])


def test_direct_effects_are_products_with_the_held_norm() -> None:
    one = case("gpt2")
    _, seen = one.hooked.run(one.data)
    norm, head = one.hooked.norm, one.hooked.hf.lm_head.weight
    final = seen["final"]
    scale = (final.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    right = head[one.data[:, 1:]]
    found = one.effects
    for i, name in enumerate(found.components):
        held = (seen[name] - seen[name].mean(-1, keepdim=True)) / scale * norm.weight
        close(found.direct[i], (held[:, :-1] * right).sum(-1).mean(1))
    close(found.readout_bias, (norm.bias * right).sum(-1).mean(1))


def test_the_last_component_passes_nothing_on() -> None:
    """Nothing reads it but the classifier; the one before it is read."""
    found = case("gpt2").effects
    assert float(found.passed_on[-1].abs().max()) < 1e-9
    assert float(found.passed_on[-2].abs().max()) > 1e-3


def test_direct_effects_sum_to_the_logit_on_every_family(pair: tuple[Any, Transformer]) -> None:
    hf, model = pair
    cfg, g = model.cfg, torch.Generator().manual_seed(1)
    labels = None
    if cfg.image is not None:
        data = torch.randn(3, cfg.image.channels, cfg.image.height, cfg.image.width, generator=g)
    else:
        data = torch.randint(3, cfg.d_vocab, (3, 6), generator=g)
    if cfg.pooling != "none" and cfg.head != "none":
        labels = torch.tensor([0, 1, 0])
    if cfg.norm_place == "post":
        with pytest.raises(ValueError, match="post-norm"):
            effects(model, data, labels)
        return
    if cfg.head == "none":
        with pytest.raises(ValueError, match="no answers"):
            effects(model, data, labels)
        return
    found = effects(model, data, labels)
    with torch.no_grad():
        logits = hf(data).logits
    value = next_token(logits, data)[0] if labels is None else of_class(logits, labels)[0]
    torch.testing.assert_close(found.direct.sum(0) + found.readout_bias, value.double(), atol=2e-4, rtol=2e-4)


def test_centred_effects_are_of_the_logit_less_the_mean() -> None:
    one = case("gpt2")
    found = effects(one.model, one.data, centred=True)
    logits, _ = one.hooked.run(one.data)
    close(found.value, next_token(logits - logits.mean(-1, keepdim=True), one.data)[0])
    close(found.direct.sum(0) + found.readout_bias, found.value)
    close(found.loss_cut, one.effects.loss_cut)


def test_three_ways_add_up() -> None:
    """Identity of a layer is what all before it give; the three of the last layer are the whole."""
    found = case("gpt2").effects
    ways = found.three_ways
    close(ways[1, 0], ways[0].sum())
    close(ways[1].sum() + found.readout_bias.mean(), found.value.mean())


def test_means_with_intervals_and_plain_data() -> None:
    from scipy.stats import ttest_1samp

    found = case("gpt2").effects
    mean = found.mean("loss_cut")
    ours = (float(mean.low[2]), float(mean.high[2]))
    theirs = ttest_1samp((found.loss_cut[2] - found.loss).numpy(), 0).confidence_interval(0.95)
    assert ours == pytest.approx((theirs.low, theirs.high))
    plain = found.to_dict()
    assert plain["components"][1] == "a0"
    assert plain["examples"] == 5
    with pytest.raises(ValueError, match="Unknown effect"):
        found.mean("else")  # type: ignore[arg-type]


def test_batches_do_not_matter_and_stopping_keeps_them() -> None:
    one = case("gpt2")
    whole, seen = effects(one.model, one.data), list[Progress]()

    def stop(progress: Progress) -> bool:
        seen.append(progress)
        return len(seen) < 7

    part = effects(one.model, one.data, batch_size=2, progress=stop)
    assert not part.complete
    assert part.value.shape == (2,)
    close(part.total, whole.total[:, :2])
    with pytest.raises(Stopped):
        effects(one.model, one.data, progress=lambda _: False)


def test_bad_input_is_named() -> None:
    one, vit = case("gpt2"), case("vit-classes")
    ask = partial(effects, vit.model, vit.data)
    with pytest.raises(ValueError, match="give labels"):
        ask()
    with pytest.raises(ValueError, match="one class for each of the 5"):
        ask([1, 2])
    with pytest.raises(ValueError, match="leave labels out"):
        effects(one.model, one.data, [1])
    with pytest.raises(ValueError, match="list of texts"):
        effects(one.model, "text")
    with pytest.raises(ValueError, match="There is no data"):
        effects(one.model, one.data[:0])
    broken = find("gpt2").model(layers=2)
    broken.transformer.h[1].mlp.c_proj.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        effects(from_hf(broken), one.data)
