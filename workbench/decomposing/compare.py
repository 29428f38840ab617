"""The same words by several methods, each judged by taking words away in its order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.circuits.decomposition import answers, comparison
from workbench.circuits.decomposition.comparison import Curves
from workbench.circuits.decomposition.phrases import Groups
from workbench.circuits.decomposition.rules import RULES
from workbench.circuits.progress import Progress, ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.decomposing.plan import INPUTS, against, understood
from workbench.decomposing.records import Request
from workbench.inspection import Given
from workbench.models import Transformer
from workbench.models.lookup import pick


@dataclass(frozen=True)
class Way:
    """A method of comparison.

    Attributes:
        key: what a user types; a rule's own key for rules.
        title: name in prose.
        rule: the rule that it is, if it is one.
        needs: the package of the extra ``attribution`` that it needs.
    """

    key: str
    title: str
    rule: str = ""
    needs: str = ""


WAYS: list[Way] = [
    *(Way(rule.key, rule.title, rule.key) for rule in RULES if rule.key != "exact"),
    Way("occlusion", "Occlusion (rule exact)", "exact"),
    Way("integrated-gradients", "Integrated gradients", needs="captum"),
    Way("shap", "SHAP", needs="shap"),
]
"""What can be compared."""


@dataclass(frozen=True)
class Compared:
    """One method's values.

    Attributes:
        key: of the method.
        values: for each source; NaN where the method gives no number.
        curves: the target while sources are taken away and put back in the method's order; None where it gives none.
        missing: why there are no values; empty where there are.
    """

    key: str
    values: tuple[float, ...]
    curves: Curves | None = None
    missing: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)


def compare(
    request: Request,
    model: Transformer,
    ways: Sequence[str] = (),
    progress: ProgressFn | None = None,
    *,
    given: Given | None = None,
    budget: int = BUDGET,
) -> tuple[tuple[str, ...], list[Compared]]:
    """Names of the words or patches, and each method's values for them. What is special stays where it is.

    Args:
        request: what is asked, of words, tokens or patches; its rule is not used, its baseline holds for all methods
            and for the curves.
        model: the model that it names.
        ways: keys of :data:`WAYS`; all by default.
        progress: called after every step; returning False stops.
        given: as for :func:`workbench.decomposing.run`.
        budget: bytes beside the model.

    Raises:
        ValueError: a bad request, other sources, or an unknown method. A package that is missing is no error: its
            method's ``missing`` says how to get it.
        Stopped: stopped before the end.
    """
    chosen = [pick(WAYS, key, "method of comparison") for key in ways] or WAYS
    plan = understood(Request(**{**vars(request), "rule": "exact", "tree": False}), model, given)
    if plan.kind not in INPUTS:
        raise ValueError("Only words, tokens and patches are compared; choose one of these as sources.")
    cut, asked = plan.cut, plan.request
    target, _ = answers.answer(model, cut.tensor, asked.target, asked.other)
    baseline = against(model, cut, asked.baseline)
    parts = [part for part in cut.parts if not part.special]
    n, done = len(parts), 0

    def step(_: Progress) -> bool | None:
        nonlocal done
        done += 1
        return None if progress is None else progress(Progress(done, total, "comparing"))

    counts = {"integrated-gradients": 0, "shap": comparison.shap_runs(n)}
    total = sum(counts.get(way.key, n) + 2 * n for way in chosen)

    def groups(rule: str) -> Groups:
        return Groups(
            model, cut.tensor, [[p.place] for p in parts], target, rule=rule, baseline=baseline, budget=budget
        )

    exact, found = groups("exact"), []
    for way in chosen:
        try:
            values = _values(way, exact, groups(way.rule) if way.rule else exact, step)
        except comparison.MissingPackageError as error:
            found.append(Compared(way.key, (math.nan,) * n, missing=str(error)))
            continue
        if any(value != value for value in values):
            found.append(Compared(way.key, tuple(values), missing="some values are too large to be numbers"))
            continue
        order = sorted(range(n), key=lambda i: -values[i])
        found.append(Compared(way.key, tuple(values), comparison.insertion_deletion(exact, order, progress=step)))
    return tuple(part.name for part in parts), found


def _values(way: Way, exact: Groups, own: Groups, step: ProgressFn) -> list[float]:
    if way.key == "shap":
        return comparison.shapley_values(exact, progress=step)
    if way.key == "integrated-gradients":
        return comparison.integrated_gradients(exact)
    report = Reporter(step, len(own), "comparing")
    values = own([[i] for i in range(len(own))], report)
    if not report.going:
        raise Stopped
    return values
