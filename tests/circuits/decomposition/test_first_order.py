"""``tangent`` is the gradient of the model, ``frozen`` that of one whose pattern, scales and gates are constants."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.circuits.decomposition.cases import Inputs, assert_close, inputs_for, model_of
from workbench.circuits.decomposition import Logits, all_nodes, contributions, decompose
from workbench.models import Transformer
from workbench.models.families.samples import SAMPLES
from workbench.models.mechanisms import MECHANISMS
from workbench.models.taps import Tap

ANSWERING = [sample.key for sample in SAMPLES if "For" in sample.made or "LMHead" in sample.made]
PLAIN = [m.key for m in MECHANISMS if m.key not in ("gated", "cosine", "linear", "value-residual", "differential")]


def constants(model: Transformer) -> dict[str, Tap]:
    """Taps that leave every value as it is and let no gradient through patterns, norm scales and gates."""
    taps: dict[str, Tap] = {
        name: lambda value: value.detach() for name in model.hook_names if name.endswith(("hook_scale", "hook_pattern"))
    }
    for name in [name for name in model.hook_names if name.endswith("hook_pre")]:
        seen: dict[str, Tensor] = {}

        def keep(what: str, seen: dict[str, Tensor] = seen) -> Callable[[Tensor], None]:
            return lambda value: seen.__setitem__(what, value)

        def post(value: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
            if "up" in seen:
                return (value / seen["up"]).detach() * seen["up"]
            return seen["pre"] * (value / seen["pre"]).detach()

        taps[name] = keep("pre")
        if name.replace("hook_pre", "hook_pre_linear") in model.hook_names:
            taps[name.replace("hook_pre", "hook_pre_linear")] = keep("up")
        taps[name.replace("hook_pre", "hook_post")] = post
    cap = model.cfg.logit_softcap
    if cap is not None:

        def uncapped(value: Tensor) -> Tensor:
            raw = cap * torch.atanh(value / cap)
            return raw * (value / raw).detach()

        taps["hook_unembed"] = uncapped
    return taps


def slow_contributions(model: Transformer, inputs: Inputs, target: Logits, taps: dict[str, Tap]) -> Tensor:
    """Gradient times change of every head and MLP, from one run with autograd: [node, batch]."""
    layers = range(model.cfg.n_layers)
    names = [f"blocks.{i}.attn.hook_z" for i in layers] + [f"blocks.{i}.hook_mlp_out" for i in layers]
    with torch.no_grad():
        _, clean = model.run_with_cache(inputs.tokens, names, attention_mask=inputs.mask)
        _, other = model.run_with_cache(inputs.others, names, attention_mask=inputs.mask)
    nudges = {name: torch.zeros_like(clean[name], requires_grad=True) for name in names}
    nudged: dict[str, Tap] = {name: lambda value, name=name: value + nudges[name] for name in names}  # type: ignore[misc]
    out = model(inputs.tokens, {**taps, **nudged}, attention_mask=inputs.mask)
    rows = torch.arange(len(out))
    read = out if target.at is None else out[rows, target.at]
    value = read[rows, target.right] - (0 if target.wrong is None else read[rows, target.wrong])
    gradients = torch.autograd.grad(value.sum(), [nudges[name] for name in names])
    width = clean[names[0]].shape[1]
    real = torch.arange(width) < torch.tensor(inputs.lengths)[:, None]
    worth = {
        name: gradient * (clean[name] - other[name]) * real.view(*real.shape, *[1] * (gradient.ndim - 2))
        for name, gradient in zip(names, gradients, strict=True)
    }
    found = []
    for i in layers:
        found += list(worth[f"blocks.{i}.attn.hook_z"].sum((1, 3)).T)
        found.append(worth[f"blocks.{i}.hook_mlp_out"].sum((1, 2)))
    return torch.stack(found).float()


def target_of(model: Transformer, inputs: Inputs) -> Logits:
    at = None if model.cfg.pooling != "none" else torch.tensor(inputs.lengths) - 1
    return Logits(torch.tensor([1, 2, 3]), torch.tensor([0, 4, 1]), at)


@pytest.mark.parametrize("rule", ["tangent", "frozen"])
@pytest.mark.parametrize("key", ANSWERING)
def test_first_order_rules_are_gradients_times_changes(key: str, rule: str) -> None:
    model = model_of(key, double=True)
    inputs = inputs_for(model, 1)
    target = target_of(model, inputs)
    slow = slow_contributions(model, inputs, target, constants(model) if rule == "frozen" else {})
    found = contributions(
        model, inputs.tokens, all_nodes(model.cfg), target, rule=rule, baseline=inputs.others,
        attention_mask=inputs.mask,
    )  # fmt: skip
    assert_close(found.values, slow)


@pytest.mark.parametrize("rule", ["tangent", "frozen"])
@pytest.mark.parametrize("mechanism", PLAIN)
def test_first_order_rules_are_gradients_for_every_mechanism_of_plain_scores(mechanism: str, rule: str) -> None:
    model = model_of("llama-grouped", double=True).with_attention(mechanism, heads=[(0, 1), (1, 0), (1, 3)])
    inputs = inputs_for(model, 2)
    target = target_of(model, inputs)
    slow = slow_contributions(model, inputs, target, constants(model) if rule == "frozen" else {})
    found = contributions(model, inputs.tokens, all_nodes(model.cfg), target, rule=rule, baseline=inputs.others)
    # These mechanisms work out their weights in float64 or float32, as they are given.
    assert_close(found.values, slow)


@pytest.mark.parametrize("key", ["gpt2", "llama-grouped", "gemma2", "gpt-neox", "bert-masked", "vit-classes"])
def test_tangent_is_what_a_small_change_does_to_every_logit(key: str) -> None:
    model = model_of(key, double=True)
    inputs = inputs_for(model, 3)
    real = torch.arange(max(inputs.lengths)) < torch.tensor(inputs.lengths)[:, None]
    found = decompose(model, inputs.tokens, ["a0.h1", "m1@1"], rule="tangent", attention_mask=inputs.mask)
    with torch.no_grad():
        _, clean = model.run_with_cache(
            inputs.tokens, ["blocks.0.attn.hook_z", "blocks.1.hook_mlp_out"], attention_mask=inputs.mask
        )
        # The second place is a place of its own: what the first does to it is replaced, as its part is.
        fixed = clean["blocks.1.hook_mlp_out"][:, 1]

    def nudged(eps: float) -> Tensor:
        def head(z: Tensor) -> Tensor:
            z[:, :, 1] = torch.where(real[:, :, None], (1 + eps) * z[:, :, 1], z[:, :, 1])
            return z

        def mlp(out: Tensor) -> Tensor:
            out[:, 1] = (1 + eps) * fixed
            return out

        with torch.no_grad():
            return model(
                inputs.tokens,
                {"blocks.0.attn.hook_z": head, "blocks.1.hook_mlp_out": mlp},
                attention_mask=inputs.mask,
            )

    eps = 1e-5
    expected = (nudged(eps) - nudged(-eps)) / (2 * eps)
    assert_close(found.relevant, expected, 1e-6)
