"""From trained weights to a program: fit the last layer once more, leave out what is not needed, round, read off.

Training sees samples near the discrete program; the last layer is fitted to the program itself here. It is a logistic
regression on one-hot features. Then each variable that no training answer needs is left out of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.circuits.known.programs.model import DiscreteTransformer, Layer, Lookups, tents
from workbench.circuits.known.programs.program import ONES, POSITIONS, TOKENS, Head, Lookup, Module, Program
from workbench.circuits.known.programs.tasks import NOTHING, ProgramTask

SCALE = 10
"""Scores in a program are whole numbers: so many to the nat."""

_FIT_STEPS = 400
_FIT_BATCH = 2048
_FIT_RATE = 0.05
_DECAY = 1e-6
_INPUTS = 6000  # of the training inputs, for the fit
_AT_ONCE = 500
_SPARED = 5e-4  # share of training answers that leaving variables out may cost in all


def variable_names(task: ProgramTask) -> tuple[list[str], list[str]]:
    """Names of the categorical and of the numerical variables, in the order of the model's axes."""
    sizes = task.sizes
    variables, numbers = [TOKENS, POSITIONS], [ONES]
    for layer in range(sizes.layers):
        variables += [f"attn_{layer}_{i}" for i in range(sizes.heads)]
        variables += [f"mlp_{layer}_{i}" for i in range(sizes.mlps)]
        variables += [f"num_mlp_{layer}_{i}" for i in range(sizes.number_mlps)]
        numbers += [f"num_attn_{layer}_{i}" for i in range(sizes.counts)]
    return variables, numbers


def groups(task: ProgramTask) -> dict[str, slice]:
    """The features of each variable in the readout."""
    variables, numbers = variable_names(task)
    found, start = {}, 0
    for name in variables + numbers:
        width = task.cardinality if name in variables else task.length + 1
        found[name] = slice(start, start + width)
        start += width
    return found


@torch.no_grad()
def finish(model: DiscreteTransformer, tokens: Int[Tensor, "n pos"], targets: Int[Tensor, "n pos"]) -> Program:
    """Fit the readout again, leave out variables, round it to whole numbers, and read the program off.

    Args:
        model: trained; its readout is changed in place, so that the model and the program say the same.
        tokens, targets: what it was trained on.
    """
    tokens, targets = tokens[:_INPUTS], targets[:_INPUTS]
    asked = targets != NOTHING
    parts = [slice(start, start + _AT_ONCE) for start in range(0, len(tokens), _AT_ONCE)]
    features = torch.cat([model.features(tokens[part])[asked[part]] for part in parts])
    answers = targets[asked]
    model.readout.copy_(_fitted(model.readout, features, answers, torch.ones(len(model.readout), dtype=torch.bool)))
    for _ in range(2):
        kept = _needed(model, features, answers)
        model.readout.copy_(_fitted(model.readout * kept[:, None], features, answers, kept))
    # A value that the training inputs never show keeps the noise that it began with; nothing speaks for it.
    model.readout.mul_((features.sum(0) > 0)[:, None])
    model.readout.copy_((model.readout * SCALE).round())
    return program(model)


def _fitted(
    readout: Float[Tensor, "features classes"],
    features: Float[Tensor, "n features"],
    answers: Int[Tensor, " n"],
    kept: Bool[Tensor, " features"],
) -> Float[Tensor, "features classes"]:
    """Weights that fit the answers from the features that are kept; zero for the others."""
    weights = (readout * kept[:, None]).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([weights], lr=_FIT_RATE)
    generator = torch.Generator().manual_seed(0)
    for step in range(_FIT_STEPS):
        optimiser.param_groups[0]["lr"] = _FIT_RATE * (1 - step / _FIT_STEPS)
        chosen = torch.randint(len(answers), (_FIT_BATCH,), generator=generator)
        with torch.enable_grad():
            loss = F.cross_entropy(features[chosen] @ weights, answers[chosen]) + _DECAY * weights.square().sum()
            (gradient,) = torch.autograd.grad(loss, weights)
        weights.grad = gradient * kept[:, None]
        optimiser.step()
    return weights.detach()


def _needed(
    model: DiscreteTransformer, features: Float[Tensor, "n features"], answers: Int[Tensor, " n"]
) -> Bool[Tensor, " features"]:
    """The features of the variables that are left when those are taken out one by one that cost least.

    A variable is taken out by putting its mean contribution in its place.
    """
    parts = groups(model.task)
    said = {name: features[:, part] @ model.readout[part] for name, part in parts.items()}
    said = {name: one for name, one in said.items() if one.abs().max() > 0}
    total = sum(said.values(), torch.zeros(len(answers), len(model.task.classes)))
    floor = _right(total, answers) - _SPARED
    kept = dict(said)
    while len(kept) > 1:
        costs = {name: _right(total - one + one.mean(0), answers) for name, one in kept.items()}
        best = max(costs, key=lambda name: costs[name])
        if costs[best] < floor:
            break
        gone = kept.pop(best)
        total = total - gone + gone.mean(0)
    mask = torch.zeros(len(model.readout), dtype=torch.bool)
    for name in kept:
        mask[parts[name]] = True
    return mask


def _right(scores: Float[Tensor, "n classes"], answers: Int[Tensor, " n"]) -> float:
    return float((scores.argmax(-1) == answers).double().mean())


@torch.no_grad()
def program(model: DiscreteTransformer) -> Program:
    """The program that the most likely choices make, with the readout rounded to whole numbers."""
    task, modules = model.task, []
    variables, numbers = [TOKENS, POSITIONS], [ONES]
    for i, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        heads, counts = _heads(layer, i, variables, numbers)
        variables, numbers = [*variables, *(h.name for h in heads)], [*numbers, *(h.name for h in counts)]
        lookups = _lookups(layer.mlps, f"mlp_{i}", variables, torch.eye(task.cardinality))
        whole = tents(torch.arange(task.length + 1.0), task.length)
        lookups += _lookups(layer.number_mlps, f"num_mlp_{i}", numbers, whole)
        variables = [*variables, *(lookup.name for lookup in lookups)]
        modules += [*heads, *counts, *lookups]
    rounded = model.readout.round().long()
    scores = {name: rounded[part] for name, part in groups(task).items()}
    kept = {name: tuple(map(tuple, rows.tolist())) for name, rows in scores.items() if rows.any()}
    return Program(task, tuple(modules), kept)


def _heads(layer: Layer, i: int, variables: list[str], numbers: list[str]) -> tuple[list[Head], list[Head]]:
    reads = layer.reads.scores.argmax(-1).tolist()
    wanted = layer.predicates.scores.argmax(-1).tolist()
    values = layer.values.scores.argmax(-1).tolist()
    copied = [
        Head(f"attn_{i}_{j}", variables[q], variables[k], variables[values[j]], tuple(wanted[j]), counts=False)
        for j, (q, k) in enumerate(reads[: layer.n_heads])
    ]
    if layer.numbers is None:
        return copied, []
    added = layer.numbers.scores.argmax(-1).tolist()
    return copied, [
        Head(f"num_attn_{i}_{j}", variables[q], variables[k], numbers[added[j]], tuple(row), counts=True)
        for j, ((q, k), row) in enumerate(zip(reads[layer.n_heads :], wanted[layer.n_heads :], strict=True))
    ]


def _lookups(lookups: Lookups | None, name: str, names: list[str], values: Float[Tensor, "value v"]) -> list[Module]:
    """The tables of the lookups of a layer, for every pair of values."""
    if lookups is None:
        return []
    n, reads = len(values), lookups.reads.scores.argmax(-1).tolist()
    first = values.repeat_interleave(n, 0).expand(len(reads), -1, -1)
    second = values.repeat(n, 1).expand(len(reads), -1, -1)
    tables = lookups.scores(first, second).argmax(-1).view(len(reads), n, n).tolist()
    return [Lookup(f"{name}_{j}", names[a], names[b], tuple(map(tuple, tables[j]))) for j, (a, b) in enumerate(reads)]
