"""One small transformer for each attention mechanism, trained on the same sequences, and measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from comparison.backcopy import Backcopy
from comparison.metrics import pattern_numbers, residual_numbers
from workbench.models import ModelConfig, fresh
from workbench.models.linear import power_step
from workbench.models.mechanisms import MECHANISMS
from workbench.models.transformer import Transformer

# Batches that are drawn at once: sequences are made position by position, whether of few or of many.
DRAWN_AT_ONCE = 50
TEST_SEED = 10_000


@dataclass(frozen=True)
class Variant:
    """A row of the comparison: a mechanism with its settings."""

    key: str
    title: str
    attention: str
    options: tuple[tuple[str, float], ...] = ()
    linear: str = "plain"


@dataclass(frozen=True)
class Settings:
    """Sizes and training. The learning rate rises over ``warmup`` steps and falls to 0 over the last fifth."""

    steps: int = 3000
    batch: int = 8
    length: int = 64
    learning_rate: float = 3e-3
    warmup: int = 100
    clip: float = 1.0
    early: int = 100
    layers: int = 3
    heads: int = 1
    d_model: int = 64
    d_mlp: int = 256
    test_sequences: int = 256

    def rate(self, step: int) -> float:
        """Factor on the learning rate at a step counted from 0."""
        return min(1.0, (step + 1) / self.warmup, 5 * (1 - step / self.steps))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the JSON file."""
        return asdict(self)


def variants() -> list[Variant]:
    """Every mechanism that there is, two of them twice, and softmax with sigma-reparametrised linear layers."""
    found = []
    for mechanism in MECHANISMS:
        options: tuple[tuple[str, float], ...] = ()
        title = mechanism.title
        if mechanism.key == "temperature":
            options, title = (("temperature", 0.5),), "Temperature 0.5"
        if mechanism.key == "sigmoid":
            title = "Sigmoid, bias -log n"
        found.append(Variant(mechanism.key, title, mechanism.key, options))
        if mechanism.key == "sigmoid":
            found.append(Variant("sigmoid-0", "Sigmoid, bias 0", "sigmoid", (("log_n", 0.0),)))
    return [*found, Variant("sigma", "Softmax, σ-reparametrised linears", "softmax", linear="sigma")]


def model_of(variant: Variant, settings: Settings, task: Backcopy, seed: int) -> Transformer:
    """The untrained model: pre-norm, learned positions, ReLU MLPs, no biases but those of the norms."""
    d_head = settings.d_model // settings.heads
    cfg = ModelConfig(
        family="workbench",
        n_layers=settings.layers,
        n_heads=settings.heads,
        n_key_value_heads=settings.heads,
        d_model=settings.d_model,
        d_head=d_head,
        d_mlp=settings.d_mlp,
        d_vocab=task.vocab,
        n_ctx=settings.length,
        norm="layer",
        norm_eps=1e-5,
        act_fn="relu",
        gated_mlp=False,
        positions="learned",
        attn_scale=d_head**-0.5,
        tied=False,
        attention=variant.attention,
        attention_options=variant.options,
        linear=variant.linear,  # type: ignore[arg-type]
    )
    return fresh(cfg, seed=seed, name=variant.key)


def batches(task: Backcopy, settings: Settings, seed: int) -> Iterator[Tensor]:
    """Fresh sequences [batch, length + 1] without end, the same for every mechanism."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        drawn = task.draw(DRAWN_AT_ONCE * settings.batch, settings.length + 1, generator)
        yield from drawn.split(settings.batch)


def train(model: Transformer, task: Backcopy, settings: Settings, seed: int) -> Iterator[tuple[int, float]]:
    """Train step by step; hands out the number of steps done and the loss that the last one saw."""
    model.requires_grad_(True)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)
    stream = batches(task, settings, seed)
    for step in range(settings.steps):
        tokens = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.rate(step)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.clip)
        optimizer.step()
        power_step(model)
        yield step + 1, loss.item()


@torch.no_grad()
def losses(logits: Tensor, tokens: Tensor, task: Backcopy) -> dict[str, float]:
    """Loss of logits [batch, pos, vocab] at ``tokens`` [batch, pos + 1] in nats per token, and what is unnecessary.

    ``excess`` is the mean divergence of the model's next-token distribution from the true one, which is known, over
    all positions; ``excess bigram`` and ``excess copy`` over those after a plain token and after a trigger. ``loss``
    is the exact entropy of the process plus the excess. ``sampled`` is the cross-entropy of the tokens that did come
    minus that of the true distribution on them: clearly below 0 only where a model sees the future.
    """
    seen = tokens[:, :-1]
    truth = task.next_probabilities(seen)
    log_model = logits.double().log_softmax(-1)
    divergence = (torch.xlogy(truth, truth) - truth * log_model).sum(-1)
    copies = task.is_trigger(seen)
    came = tokens[:, 1:, None]
    sampled = truth.gather(-1, came).log() - log_model.gather(-1, came)
    excess = float(divergence.mean())
    return {
        "loss": task.entropy(seen.shape[1])[0] + excess,
        "excess": excess,
        "excess bigram": float(divergence[~copies].mean()),
        "excess copy": float(divergence[copies].mean()),
        "sampled": float(sampled.mean()),
    }


@torch.no_grad()
def measure(model: Transformer, task: Backcopy, settings: Settings) -> dict[str, float]:
    """Losses, pattern and residual stream on sequences that training does not see."""
    generator = torch.Generator().manual_seed(TEST_SEED)
    tokens = task.draw(settings.test_sequences, settings.length + 1, generator)
    layers = range(model.cfg.n_layers)
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    streams = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    logits, cache = model.run_with_cache(tokens[:, :-1], [*patterns, *streams])
    return (
        losses(logits, tokens, task)
        | pattern_numbers(torch.stack([cache[name] for name in patterns]))
        | residual_numbers(torch.stack([cache[name] for name in streams]))
    )


def run(variant: Variant, settings: Settings, task: Backcopy, seed: int) -> dict[str, Any]:
    """Train one variant to the end: its measurements, and the excess loss after ``settings.early`` steps."""
    model = model_of(variant, settings, task, seed)
    numbers: dict[str, Any] = {"key": variant.key, "seed": seed}
    for done, _ in train(model, task, settings, seed):
        if done == min(settings.early, settings.steps):
            numbers["early excess"] = measure(model, task, settings)["excess"]
    return numbers | measure(model, task, settings)
