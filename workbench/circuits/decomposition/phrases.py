"""What groups of sources give to a target: phrases, interactions, and the tree that grows out of them.

The relevance R(S) of a group S is what the target gets from all its sources at once (one relevant part). What a group
gives beyond its pieces is their interaction, ``I(A, B) = R(A with B) - R(A) - R(B)``. The tree begins with single
sources and joins, again and again, the two neighbouring groups with the largest interaction for each pair of their
sources, ``|I(A, B)| / (|A| |B|)`` (agglomerative contextual decomposition after Singh, Murdoch and Yu 2019,
arXiv 1806.05337, section 3.2; theirs ranks candidates by ``R(A with B) - R(A)`` and adds several a round). Without the
division the largest group wins every round and swallows its neighbours one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.circuits.decomposition import flow
from workbench.circuits.decomposition.contributions import carry, prompts_that_fit
from workbench.circuits.decomposition.propagate import Prompts, Source
from workbench.circuits.decomposition.rules import RULES, find
from workbench.circuits.decomposition.sites import parse
from workbench.circuits.decomposition.split import baseline_of, name_of
from workbench.circuits.decomposition.targets import Target, check_before
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.models import Transformer
from workbench.models.embedding import n_positions

LINEAR = ("tangent", "frozen")
"""Rules by which the relevant part is linear in the source, so that there are no interactions."""


class Groups:
    """Tells what groups of sources of one input give to a target; runs the input once, and every group once.

    Args:
        model: any hooked model.
        tensor: one input, tokens [1, pos] or pixels.
        places: the places of each source, such as ``[["input@3-4"], ["a9.h6"]]``.
        target: what is read.
        rule: how parts are carried.
        baseline: what sources are compared with, as for :func:`workbench.circuits.decomposition.contributions`.
        budget: bytes beside the model.

    Raises:
        ValueError: no source, one that does not exist or comes after the target, an unknown or unfit rule, an unknown
            baseline, or a budget too small for one source.
    """

    def __init__(
        self,
        model: Transformer,
        tensor: Tensor,
        places: Sequence[Sequence[str]],
        target: Target,
        *,
        rule: str = "shapley",
        baseline: str | Tensor = "zero",
        budget: int = BUDGET,
    ) -> None:
        self.rule, self.target, self.budget = find(rule), target, budget
        flow.check_rule(self.rule, model)
        if not places or not all(places):
            raise ValueError("There is no source: name at least one place, word or patch.")
        self.sites = [tuple(parse(place, model.cfg) for place in some) for some in places]
        check_before([(site.name, site.order) for some in self.sites for site in some], target)
        prompts_that_fit(model, n_positions(model, tensor), 1, budget)
        self.prompts = Prompts.run(model, tensor.to(model.device), None)
        for site in (site for some in self.sites for site in some):
            site.where(self.prompts.lengths, self.prompts.width)
        self.baseline = baseline_of(self.prompts, baseline)
        self.baseline_name = name_of(baseline)
        self.whole = torch.nan
        self._known: dict[frozenset[int], float] = {frozenset(): 0.0}

    def __len__(self) -> int:
        return len(self.sites)

    def __call__(self, groups: Iterable[Iterable[int]], report: Reporter | None = None) -> list[float]:
        """What each group gives; one step of ``report`` is one new group.

        NaN for groups not reached before a stop, and for numbers that became too large.
        """
        wanted = [frozenset(group) for group in groups]
        new = [group for group in dict.fromkeys(wanted) if group not in self._known]
        if new:
            sources = [Source("", tuple(site for i in sorted(group) for site in self.sites[i])) for group in new]
            report = report or Reporter(None, len(new), "carrying sources")
            values, whole, reached = carry(
                self.rule, self.prompts, sources, self.baseline, self.target, budget=self.budget, report=report
            )
            if not bool(whole.isnan().any()):
                self.whole = float(whole[0])
            found = zip(new, values[:, 0].tolist(), reached.tolist(), strict=True)
            self._known |= {group: value for group, value, there in found if there}
        return [self._known.get(group, torch.nan) for group in wanted]

    @property
    def known(self) -> int:
        """How many groups were reached so far."""
        return len(self._known) - 1


def interaction(groups: Groups, group: Iterable[int]) -> float:
    """What sources give together beyond the sum of what each gives alone."""
    members = list(group)
    together, *alone = groups([members, *([i] for i in members)])
    return together - sum(alone)


@dataclass(frozen=True)
class Merge:
    """One step of a tree: two neighbouring groups become one.

    Groups are numbered: sources first (0 to n - 1), then merges in their order (n, n + 1, ...).

    Attributes:
        left, right: numbers of the two groups.
        members: numbers of all sources in the new group, ascending.
        value: what the group gives to the target.
        interaction: ``value`` less what the two groups give by themselves.
    """

    left: int
    right: int
    members: tuple[int, ...]
    value: float
    interaction: float


def tree(
    groups: Groups, neighbours: Sequence[tuple[int, int]], *, progress: ProgressFn | None = None
) -> tuple[Merge, ...]:
    """Join neighbouring groups until nothing touches, the largest ``|I(A, B)| / (|A| |B|)`` first.

    A text of n words takes about 3 n relevances: n words, n - 1 pairs, and two new candidates a step.

    Args:
        groups: of which sources.
        neighbours: pairs of sources that touch, such as ``Cut.neighbours``.
        progress: called after every pair of neighbours, then after every merge; returning False keeps what is joined.

    Returns:
        The merges in their order; fewer than the neighbours admit if it was stopped.

    Raises:
        ValueError: the rule knows no interactions.
        Stopped: before there was any merge.
    """
    check_tree(groups.rule.key)
    members: dict[int, tuple[int, ...]] = {i: (i,) for pair in neighbours for i in pair}
    touching = {frozenset(pair) for pair in neighbours}
    first = [tuple(sorted(pair)) for pair in neighbours]
    report = Reporter(progress, len(first) + len(members), "looking at pairs")
    groups([*((i,) for i in members), *first], report)
    if not report.going:
        raise Stopped
    report = Reporter(progress, n_merges(neighbours), "joining groups")
    merges: list[Merge] = []
    while touching and report.going:
        pairs = [tuple(sorted(pair)) for pair in touching]
        pairs.sort(key=lambda pair: (members[pair[0]], members[pair[1]]))
        joined = groups([members[a] + members[b] for a, b in pairs])
        alone = [groups([members[a], members[b]]) for a, b in pairs]
        gains = [value - sum(parts) for value, parts in zip(joined, alone, strict=True)]
        sizes = [len(members[a]) * len(members[b]) for a, b in pairs]
        best = max(range(len(pairs)), key=lambda i: abs(gains[i]) / sizes[i])
        a, b = sorted(pairs[best], key=lambda group: members[group])
        new = len(groups) + len(merges)
        members[new] = tuple(sorted(members[a] + members[b]))
        merges.append(Merge(a, b, members[new], joined[best], gains[best]))
        touching = {frozenset(new if i in (a, b) else i for i in pair) for pair in touching - {frozenset((a, b))}}
        report.step()
    return tuple(merges)


def check_tree(rule: str) -> None:
    """Refuse a rule by which the parts of a group add up to the group.

    Raises:
        ValueError: saying which rules serve.
    """
    if rule in LINEAR:
        others = ", ".join(other.key for other in RULES if other.key not in LINEAR)
        raise ValueError(
            f"The rule '{rule}' is linear, so that words of a phrase never interact and there is no tree; "
            f"choose one of {others}."
        )


def n_merges(neighbours: Iterable[Iterable[int]]) -> int:
    """How many merges a whole tree has: the sources, less the islands that never touch."""
    pairs = [tuple(pair) for pair in neighbours]
    islands = {i: i for pair in pairs for i in pair}
    for pair in pairs:
        low, high = sorted(islands[i] for i in pair)
        islands = {i: low if island == high else island for i, island in islands.items()}
    return len(islands) - len(set(islands.values()))


_PLACE = re.compile(r"(?:input|resid\d+|m\d+|a\d+(?:\.h\d+)?)(?:@.*)?")


def looks_like_place(said: str) -> bool:
    """Whether a name has the form of a place, whether or not the model has it."""
    return _PLACE.fullmatch(said.strip()) is not None
