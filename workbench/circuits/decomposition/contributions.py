"""What many sources give to one target: sources x prompts on the batch axis, within a memory budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.propagate import Prompts, Source, Sweep
from workbench.circuits.decomposition.rules import Rule
from workbench.circuits.decomposition.targets import Target, check_before
from workbench.circuits.progress import Reporter
from workbench.models import Transformer

Carried = tuple[Float[Tensor, "source batch"], Float[Tensor, " batch"], Bool[Tensor, " source"]]
"""What :func:`carry` gives: values, the target's own value, and which sources were reached."""


@dataclass(frozen=True)
class Contributions:
    """What sources give to a target.

    Attributes:
        values: [source, batch], in ``unit``; NaN for sources that were not reached before the search was stopped, and
            for those whose numbers became too large for the number type (rule ``paper`` on some models).
        whole: [batch] the target's own value.
        sources: name of each source.
        target: what was read.
        unit: of the values.
        rule: key of the rule.
        baseline: what the sources were compared with.
        reached: [source, batch] which were carried before the search was stopped.
    """

    values: Float[Tensor, "source batch"]
    whole: Float[Tensor, " batch"]
    sources: tuple[str, ...]
    target: str
    unit: str
    rule: str
    baseline: str
    reached: Bool[Tensor, "source batch"]

    @property
    def mean(self) -> Float[Tensor, " source"]:
        """Mean over prompts."""
        return self.values.mean(1)

    @property
    def complete(self) -> bool:
        """Whether every source was reached."""
        return bool(self.reached.all())


def carry(
    rule: Rule,
    prompts: Prompts,
    sources: Sequence[Source],
    baseline: Baseline,
    target: Target,
    *,
    budget: int,
    report: Reporter,
) -> Carried:
    """What each source gives to the target, the target's own value, and which sources were reached.

    Sources go in the order of computation, as many at once as the budget has room for; one step of ``report`` is one
    source. Stopped early, the rest are NaN; a value that overflowed is NaN too, but was reached.

    Raises:
        ValueError: the budget is too small for one source, or the baseline is not known where a source stands.
    """
    for source in sources:
        for site in source.sites:
            baseline.at(site)
    order = sorted(range(len(sources)), key=lambda i: sources[i].first)
    values = torch.full((len(sources), len(prompts)), torch.nan)
    reached = torch.zeros(len(sources), dtype=torch.bool)
    whole: Tensor | None = None
    size = sources_that_fit(prompts, budget, rule)
    for start in range(0, len(order), size):
        if not report.going:
            break
        chosen = order[start : start + size]
        sweep = Sweep(rule, prompts, [sources[i] for i in chosen], baseline)
        with torch.no_grad():
            found, whole = target.read(sweep)
        values[chosen] = sweep.in_given_order(found).float().cpu()
        reached[chosen] = True
        for _ in chosen:
            report.step()
    if whole is None:
        whole = torch.full((len(prompts),), torch.nan)
    return values, whole.float().cpu(), reached


def bytes_of(model: Transformer, width: int, rule: Rule | None = None) -> int:
    """Bytes that the parts of one source take for one prompt of ``width`` positions, where they take most.

    That is in an MLP, in attention (of long prompts the patterns, which not every rule needs), or at the logits.
    """
    cfg = model.cfg
    stream, heads = width * cfg.d_model, width * cfg.n_heads * cfg.d_head
    streams = 4 if cfg.norm_place == "post" else 6
    mlp = 0 if cfg.attn_only else streams * stream + (4 if cfg.gated_mlp else 3) * width * cfg.d_mlp
    plain = all(block.attn.is_softmax for block in model.blocks) and cfg.attn_softcap is None
    patterns = (4 if plain else 6) * cfg.n_heads * width * width
    if rule is not None and (rule.holds_pattern or (rule.by_runs and plain)):
        patterns = 0
    attention = max(3 * stream + 4 * heads, 2 * stream + 3 * heads + patterns)
    # A logit difference needs one copy of the logits, a task's metric two, a soft cap three.
    logits = cfg.n_out * 4 // 3 if cfg.logit_softcap is None else 3 * cfg.n_out
    floats = max(mlp, attention, stream + logits)
    return floats * model.dtype.itemsize


def sources_that_fit(prompts: Prompts, budget: int, rule: Rule | None = None) -> int:
    """How many sources can be carried at once.

    Raises:
        ValueError: not even one; the message says what one takes.
    """
    one = bytes_of(prompts.model, prompts.width, rule) * len(prompts)
    if one > budget:
        raise ValueError(
            f"A budget of {_mib(budget)} is too small: one source takes {_mib(one)} for {len(prompts)} prompts of "
            f"{prompts.width} positions. Give more, or fewer prompts at once."
        )
    return max(1, budget // one)


def prompts_that_fit(model: Transformer, width: int, n: int, budget: int, rule: Rule | None = None) -> int:
    """How many prompts to take at once so that at least one source fits, and no more than ``n``.

    Raises:
        ValueError: not even one prompt.
    """
    one = bytes_of(model, width, rule)
    if one > budget:
        raise ValueError(
            f"A budget of {_mib(budget)} is too small for one source: one prompt of {width} positions takes "
            f"{_mib(one)}. Give more, or shorter prompts."
        )
    return min(n, budget // one)


def _mib(size: int) -> str:
    return f"{size / 2**20:.3g} MiB"


__all__ = ["Carried", "Contributions", "carry", "check_before", "prompts_that_fit", "sources_that_fit"]
