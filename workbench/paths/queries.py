"""What all paths of a pattern carry together: ``query(model, tokens, "embed m0 .* a9.h6", target)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits.progress import ProgressFn
from workbench.models import Transformer
from workbench.paths.automaton import DEAD
from workbench.paths.components import BIAS, Alphabet
from workbench.paths.counts import count
from workbench.paths.expansion import contributions
from workbench.paths.pattern import compile_pattern
from workbench.paths.prompts import ready
from workbench.paths.targets import Asked, resolve


@dataclass(frozen=True)
class QueryResult:
    """What the paths of a pattern carry of a target. Tensors are float64 on the CPU.

    Attributes:
        model: name of the model.
        target: what was read.
        unit: ``logits``, or ``residual`` for a direction.
        pattern: as it was written.
        at: [batch] the position that the target was read at; None for models that answer once.
        contribution: [batch].
        value: [batch] what the model itself says: all paths together.
        counts: [length] how many paths match, by heads; those that begin at a bias are counted.
        n_rows: states of the pattern's automaton.
        by_position: [batch, pos] the same target read at every position; None for models that answer once.
        rule: how what is not linear is held.
    """

    model: str
    target: str
    unit: str
    pattern: str
    at: list[int] | None
    contribution: Float[Tensor, " batch"]
    value: Float[Tensor, " batch"]
    counts: list[int]
    n_rows: int
    by_position: Float[Tensor, "batch pos"] | None
    rule: str = "frozen: patterns, norm scales and gates f(x) / x held at the values of this run"

    @property
    def n_paths(self) -> int:
        """How many paths match."""
        return sum(self.counts)

    @property
    def share(self) -> Float[Tensor, " batch"]:
        """Of the whole."""
        return self.contribution / self.value

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and lists; the number of paths as text, for it passes what JSON readers hold."""
        plain = {name: getattr(self, name) for name in ("model", "target", "unit", "rule", "pattern", "at", "n_rows")}
        position = None if self.by_position is None else self.by_position.tolist()
        return plain | {
            "contribution": self.contribution.tolist(),
            "value": self.value.tolist(),
            "share": self.share.tolist(),
            "n_paths": str(self.n_paths),
            "by_position": position,
        }


def query(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor | str | Sequence[str],
    patterns: str | Sequence[str],
    target: Asked = None,
    *,
    at: int | Int[Tensor, " batch"] | None = None,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    dtype: torch.dtype | None = None,
    progress: ProgressFn | None = None,
) -> QueryResult | list[QueryResult]:
    """What the paths of one or several patterns carry of a target, in one sweep.

    Args:
        model: any hooked model.
        tokens: as the model takes them, or texts.
        patterns: one or several, see :mod:`workbench.paths.pattern`; ``.*`` is everything, and what the model says.
        target, at, attention_mask, dtype, progress: as for :func:`workbench.paths.decompose`.

    Returns:
        A result for one pattern, a list of them for a list.

    Raises:
        PatternError: a pattern does not parse or names a component that the model does not have, with the place.
        ValueError: bad prompts, target or position, or an activation that is not finite.
        Stopped: ``progress`` asked for it.
    """
    alphabet = Alphabet.of(model)
    asked = [patterns] if isinstance(patterns, str) else list(patterns)
    if not asked:
        raise ValueError("There is no pattern: give at least one, such as 'embed .* m3'.")
    automata = [compile_pattern(pattern, alphabet) for pattern in asked]
    prompts = ready(model, tokens, attention_mask, dtype)
    read = resolve(target, prompts, at)
    rows, readout = contributions(prompts, reduce(lambda a, b: a.beside(b), automata), read, progress)
    value = read.value(prompts).double().cpu()
    found = []
    for automaton, row in zip(automata, rows, strict=True):
        if any(automaton.final[state] != DEAD for state in automaton.after(BIAS, automaton.starts)):
            row = row + readout
        found.append(
            QueryResult(
                model=prompts.model.name,
                target=read.name,
                unit=read.unit,
                pattern=automaton.outputs[0],
                at=None if read.at is None else read.at.tolist(),
                contribution=read.here(row),
                value=value,
                counts=count(automaton)[0],
                n_rows=automaton.n_states,
                by_position=None if read.at is None else row,
            )
        )
    return found[0] if isinstance(patterns, str) else found
