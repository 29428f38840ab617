"""The logit as a sum over lengths of paths: ``decompose(model, tokens, target)``.

With patterns, norm scales and gates held, the residual stream is a polynomial in the number of sublayers passed: with
``x^(k)`` what all paths of length k give, each sublayer ``x -> F x + c`` does ``x^(k) += F x^(k-1)`` and
``x^(1) += c``, beginning with ``x^(0)`` the embedding. The ensemble view is Veit, Wilber and Belongie's (2016, arXiv
1605.06431), for vision transformers Chang et al.'s (2023, arXiv 2308.06548); that attention and MLP are linear while
pattern and gate are held is Elhage et al.'s (2021, A mathematical framework for transformer circuits).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits.decomposition.propagate import Prompts
from workbench.circuits.progress import ProgressFn
from workbench.models import Transformer
from workbench.paths.automaton import DEAD, Automaton, by_kind, by_length, length_labels
from workbench.paths.components import Alphabet
from workbench.paths.counts import bucketed, path_counts
from workbench.paths.ensemble import Ensemble
from workbench.paths.prompts import ready
from workbench.paths.sweep import PathSweep
from workbench.paths.targets import Asked, Target, resolve

CLOSE = 1e-4
"""How much of the model's answer the sum over lengths may miss."""
KINDS = 8
"""The longest length that is split by kind unless another is asked for: the number of rows grows with its square."""


def decompose(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor | str | Sequence[str],
    target: Asked = None,
    *,
    at: int | Int[Tensor, " batch"] | None = None,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    by: Literal["length", "kind"] = "length",
    keep: int | None = None,
    biases: Literal["apart", "within"] = "apart",
    dtype: torch.dtype | None = None,
    progress: ProgressFn | None = None,
) -> Ensemble:
    """What all paths of each length carry of a logit, a difference of logits, a class or a residual direction.

    Costs one plain forward and a linear one for each row: ``keep + 2`` rows, twice as many where biases are apart and
    the model has any, and one for constants; by kind (keep + 1)(keep + 2) / 2 + 1. Memory grows with the rows. Long
    paths of a deep model can cancel until their sum is a hundredth of them, and float32 is not enough.

    Args:
        model: any hooked model.
        tokens: as the model takes them, or texts.
        target: what is read; see :data:`workbench.paths.targets.Asked`. None: the model's own first answer.
        at: where it is read; by default the last real position.
        attention_mask: 1 for real positions, where prompts are of unlike length; padding is on the right.
        by: ``length``, or ``kind``: by the number of attentions and of MLPs on the way.
        keep: the longest length by itself; all that are longer come into one. None: all (by kind at most 8).
        biases: whether what paths from biases carry is told apart by length, or is only part of the sum.
        dtype: float32 or float64. None: the model's own (float32 for half precision) and, where the lengths then miss
            the model's answer by more than 1e-4 of it, once more in float64, which takes a copy of the weights.
        progress: called after every block; returning False stops.

    Raises:
        Stopped: ``progress`` asked for it.
        ValueError: bad prompts, target or position; ``keep`` is more than the longest path has; an activation is not
            finite; an unknown word for ``by`` or ``biases``.
    """
    for name, said, known in (("by", by, ("length", "kind")), ("biases", biases, ("apart", "within"))):
        if said not in known:
            raise ValueError(f"'{name}' is {' or '.join(map(repr, known))}, not {said!r}.")
    alphabet = Alphabet.of(model)
    keep = check_keep(alphabet, keep, KINDS if by == "kind" else None)
    prompts = ready(model, tokens, attention_mask, dtype)
    found = _expand(prompts, resolve(target, prompts, at), alphabet, by, keep, biases == "apart", progress)
    if dtype is None and prompts.model.dtype != torch.float64 and not found.relative_error <= CLOSE:
        prompts = ready(model, tokens, attention_mask, torch.float64)
        found = _expand(prompts, resolve(target, prompts, at), alphabet, by, keep, biases == "apart", progress)
    return found


def _expand(
    prompts: Prompts, target: Target, alphabet: Alphabet, by: str, keep: int, apart: bool, progress: ProgressFn | None
) -> Ensemble:
    labels = length_labels(keep, alphabet.depth)
    n, kinds, bias = len(labels), None, None
    if by == "kind":
        automaton, cells = by_kind(alphabet, keep)
        rows, readout = contributions(prompts, automaton, target, progress)
        lengths, kinds = _by_cells(rows, cells, n)
    else:
        automaton = by_length(alphabet, keep, apart=apart and alphabet.has_biases)
        rows, readout = contributions(prompts, automaton, target, progress)
        lengths = rows[:n].clone()
        if len(rows) > n:
            bias = rows[n:]
            lengths += bias
        elif not alphabet.has_biases:
            bias = torch.zeros_like(lengths)
    lengths[0] += readout
    return Ensemble(
        model=prompts.model.name,
        target=target.name,
        unit=target.unit,
        by=by,
        keep=keep,
        depth=alphabet.depth,
        at=None if target.at is None else target.at.tolist(),
        labels=labels,
        by_prompt=target.here(lengths).T,
        bias_by_prompt=None if bias is None else target.here(bias).T,
        readout_bias=target.here(readout),
        kinds_by_prompt=None if kinds is None else target.here(kinds).permute(2, 0, 1),
        by_position_by_prompt=None if target.at is None else lengths.transpose(0, 1),
        value=target.value(prompts).double().cpu(),
        counts=bucketed(path_counts(alphabet), keep),
        dtype=str(prompts.model.dtype).removeprefix("torch."),
    )


def contributions(
    prompts: Prompts, automaton: Automaton, target: Target, progress: ProgressFn | None = None
) -> tuple[Float[Tensor, "output batch pos"], Float[Tensor, "batch pos"]]:
    """What each output of an automaton carries of a target, and what the readout adds; float64 on the CPU."""
    sweep = PathSweep(prompts, automaton, progress)
    with torch.no_grad():
        rows, readout = target.rows(sweep, sweep.last())
    found = torch.zeros(len(automaton.outputs), *rows.shape[1:], dtype=torch.float64)
    for state, output in enumerate(automaton.final):
        if output != DEAD:
            found[output] += rows[state].double().cpu()
    return found, readout.double().cpu()


def check_keep(alphabet: Alphabet, keep: int | None, otherwise: int | None = None) -> int:
    """The longest length that is told apart.

    Raises:
        ValueError: a path cannot be so long, or it is no length.
    """
    depth = alphabet.depth
    if keep is None:
        return depth if otherwise is None else min(otherwise, depth)
    if isinstance(keep, bool) or not isinstance(keep, int) or not 0 <= keep <= depth:
        raise ValueError(f"The longest path of this model passes {depth} sublayers; keep 0 to {depth}, not {keep!r}.")
    return keep


def _by_cells(
    rows: Float[Tensor, "output batch pos"], cells: Sequence[tuple[int, int] | None], n: int
) -> tuple[Float[Tensor, "length batch pos"], Float[Tensor, "attn mlp batch pos"]]:
    """Contributions by (attentions, MLPs) as ``n`` lengths and as a table; cells that are None are the last length."""
    lengths = rows.new_zeros(n, *rows.shape[1:])
    most = 1 + max(sum(cell) for cell in cells if cell is not None)
    kinds = rows.new_zeros(most, most, *rows.shape[1:])
    for cell, row in zip(cells, rows, strict=True):
        lengths[-1 if cell is None else sum(cell)] += row
        if cell is not None:
            kinds[cell] = row
    return lengths, kinds
