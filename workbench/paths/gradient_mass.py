"""How much gradient comes back to the embedding through paths of each length, and to which position.

One sweep in reverse. A layer's linear map, transposed, moves the gradients of all lengths at once: with ``g^(k)`` the
gradient of the target through all paths of k sublayers above, each sublayer F does ``g^(k) += F^T g^(k-1)``, beginning
with what the readout gives. Veit, Wilber and Belongie (2016, arXiv 1605.06431, section 5) measure the gradient of
single paths of a length, drawn at random; here all of a length are summed before the norm is taken, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.propagate import Prompts, Sweep
from workbench.circuits.decomposition.rules import find
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.blocks import Block
from workbench.paths.components import Alphabet
from workbench.paths.counts import path_counts
from workbench.paths.expansion import check_keep
from workbench.paths.prompts import ready
from workbench.paths.targets import Asked, Target, resolve


@dataclass(frozen=True)
class GradientMass:
    """The gradient of a target at the embedding, by path length. Tensors are float64 on the CPU.

    Attributes:
        model: name of the model.
        target: what the gradient is of.
        rule: ``tangent`` (the real gradient) or ``frozen`` (patterns, scales and gates held).
        at: [batch] the position that the target was read at; None for models that answer once.
        mass: [batch, length] norm, over positions and d_model, of the gradient through all paths of that length.
        whole: [batch] the norm of the gradient through all paths.
        by_source: [batch, length, pos] the gradient through that length times the embedding of the position: what the
            position gives. With ``frozen`` its sum over positions is what :func:`workbench.paths.decompose` finds for
            the length, biases left out.
        counts: [length] how many paths there are, by heads.
    """

    model: str
    target: str
    rule: str
    at: list[int] | None
    mass: Float[Tensor, "batch length"]
    whole: Float[Tensor, " batch"]
    by_source: Float[Tensor, "batch length pos"]
    counts: list[int]

    @property
    def share(self) -> Float[Tensor, " length"]:
        """Of the sum over lengths, as a mean over prompts. Gradients of different lengths can cancel."""
        return (self.mass / self.mass.sum(1, keepdim=True)).mean(0)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and lists; counts as text, for they pass what JSON readers hold."""
        plain = {name: getattr(self, name) for name in ("model", "target", "rule", "at")}
        tensors = {name: getattr(self, name).tolist() for name in ("mass", "whole", "by_source", "share")}
        return plain | tensors | {"counts": [str(n) for n in self.counts]}


def gradient_mass(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor | str | Sequence[str],
    target: Asked = None,
    *,
    at: int | Int[Tensor, " batch"] | None = None,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    keep: int | None = None,
    rule: Literal["tangent", "frozen"] = "tangent",
    dtype: torch.dtype | None = None,
    progress: ProgressFn | None = None,
) -> GradientMass:
    """The gradient of a target at the embedding through paths of each length, 0 to ``keep``.

    Costs a linear forward and backward of each block for ``keep + 2`` rows; one block's graph is held at a time.

    Args:
        model: any hooked model.
        tokens, target, at, attention_mask, dtype: as for :func:`workbench.paths.decompose`.
        keep: the longest length; None for all.
        rule: ``tangent``: the Jacobians of norms, patterns and activations, so that the lengths sum to the gradient of
            the model; ``frozen``: all of these held.
        progress: called after every block; returning False stops.

    Raises:
        ValueError: bad prompts, target, position or rule; ``keep`` is more than the longest path has.
        Stopped: ``progress`` asked for it.
    """
    if rule not in ("tangent", "frozen"):
        raise ValueError(f"'rule' is 'tangent' or 'frozen', not {rule!r}.")
    alphabet = Alphabet.of(model)
    keep = check_keep(alphabet, keep)
    prompts = ready(model, tokens, attention_mask, dtype)
    asked = resolve(target, prompts, at)
    by_length, whole = gradients(prompts, asked, keep, rule, progress)
    given = torch.einsum("kbpd,bpd->bkp", by_length, prompts.resid[0][0])
    return GradientMass(
        model=prompts.model.name,
        target=asked.name,
        rule=rule,
        at=None if asked.at is None else asked.at.tolist(),
        mass=by_length.double().flatten(2).norm(dim=-1).T.cpu(),
        whole=whole.double().flatten(1).norm(dim=-1).cpu(),
        by_source=given.double().cpu(),
        counts=path_counts(alphabet)[: keep + 1],
    )


def gradients(
    prompts: Prompts, target: Target, keep: int, rule: str = "tangent", progress: ProgressFn | None = None
) -> tuple[Float[Tensor, "length batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
    """The gradient of a target at the embedding through paths of each length, and through all."""
    sweep = _Lengthened(find(rule), prompts, [], Baseline([], [], []))
    report = Reporter(progress, prompts.model.cfg.n_layers, "following gradients back")
    with torch.enable_grad():
        leaf = torch.zeros_like(prompts.resid[-1], requires_grad=True)
        said = target.here(target.read(sweep, Parts(prompts.resid[-1], leaf))).sum()
        (seed,) = torch.autograd.grad(said, leaf)
        rows = torch.zeros(keep + 2, *seed.shape[1:], dtype=seed.dtype, device=seed.device)
        # Row k goes up one with each sublayer. What arrives in row ``keep`` has passed ``keep - k`` of them.
        rows[keep] = rows[keep + 1] = seed[0]
        for layer in reversed(range(prompts.model.cfg.n_layers)):
            leaf = torch.zeros_like(rows, requires_grad=True)
            out = sweep.block(layer, Parts(prompts.resid[layer], leaf))
            (rows,) = torch.autograd.grad(out.carried, leaf, rows)
            report.step()
            if not report.going:
                raise Stopped("Stopped before the gradients had come to the embedding.")
    return rows[: keep + 1].flip(0), rows[keep + 1]


class _Lengthened(Sweep):
    """What a sublayer makes of paths of one length stands in the row of the next; the last row is of all lengths."""

    def block(self, layer: int, x: Parts) -> Parts:
        """Through one block."""
        return self._block(layer, x, {}, set())

    def _write(self, block: Block, z: Parts) -> Parts:
        return _lengthened(super()._write(block, z))

    def mlp(self, layer: int, read: Parts) -> Parts:
        """See :class:`Sweep`."""
        return _lengthened(super().mlp(layer, read))


def _lengthened(x: Parts) -> Parts:
    rows = x.carried
    return x.of(x.total, torch.cat((torch.zeros_like(rows[:1]), rows[:-2], rows[-1:])))
