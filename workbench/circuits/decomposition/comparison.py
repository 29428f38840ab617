"""Other people's attributions of the same words to the same target, and curves by which any ranking is judged.

Occlusion is the rule ``exact``. Integrated gradients come from captum and SHAP from shap, both in the extra
``attribution`` (``pip install mi-workbench[attribution]``). All remove a word in the same way: what enters layer 0 at
its positions becomes the baseline.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.decomposition.phrases import Groups
from workbench.circuits.decomposition.targets import Logits, Similarity
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models.sentences import pool


class MissingPackageError(ValueError):
    """A package of the extra ``attribution`` is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Curves:
    """What is left of a target while sources are removed or put back, best first.

    Attributes:
        shares: [n + 1] share of the sources that were removed (deletion) or put back (insertion), from 0 to 1.
        deletion, insertion: [n + 1] the target's value then.
        deletion_area, insertion_area: areas under the curves, scaled so that 1 is the whole input's value throughout
            and 0 that of the input without any source. A good ranking has a small deletion and a large insertion area.
            NaN where both ends are equal.
    """

    shares: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    deletion_area: float
    insertion_area: float


def insertion_deletion(groups: Groups, ranking: Sequence[int], *, progress: ProgressFn | None = None) -> Curves:
    """Remove sources from the input in the order of a ranking, and put them back in that order (Petsiuk, Das and Saenko
    2018, RISE, arXiv 1806.07421, section 4.1).

    Args:
        groups: the sources, with the rule ``exact``: the model is run without them.
        ranking: numbers of all sources that are to be removed, the most important first; others stay.
        progress: called after every run.

    Raises:
        ValueError: another rule, or a source twice or one that does not exist.
        Stopped: stopped before the end.
    """
    _check_exact(groups)
    order = list(ranking)
    if len(set(order)) < len(order) or not all(0 <= i < len(groups) for i in order):
        raise ValueError(f"A ranking names each source at most once, by its number from 0 to {len(groups) - 1}.")
    removed = [order[:k] for k in range(len(order) + 1)]
    kept_out = [order[k:] for k in range(len(order) + 1)]
    report = Reporter(progress, len({frozenset(group) for group in (*removed, *kept_out)} - {frozenset()}), "removing")
    gone = groups([*removed, *kept_out], report)
    if not report.going:
        raise Stopped
    left = [groups.whole - value for value in gone]
    deletion, insertion = left[: len(removed)], left[len(removed) :]
    shares = [k / max(len(order), 1) for k in range(len(order) + 1)]
    top, bottom = deletion[0], deletion[-1]

    def area(curve: list[float]) -> float:
        if math.isclose(top, bottom, rel_tol=1e-6, abs_tol=1e-9):
            return math.nan
        scaled = [(value - bottom) / (top - bottom) for value in curve]
        return sum((a + b) / 2 for a, b in itertools.pairwise(scaled)) / len(order)

    return Curves(tuple(shares), tuple(deletion), tuple(insertion), area(deletion), area(insertion))


def shapley_values(
    groups: Groups, *, rounds: int = 10, seed: int = 0, progress: ProgressFn | None = None
) -> list[float]:
    """SHAP: each source's mean effect over orders in which sources are put back (Lundberg and Lee 2017,
    arXiv 1705.07874), by shap's permutation explainer.

    Each order is run forwards and backwards, which is exact where no three sources interact. The values add up to what
    all sources together give.

    Args:
        groups: the sources, with the rule ``exact``.
        rounds: orders to draw, each run forwards and backwards: ``2 n rounds`` runs for n sources.
        seed: of the orders.
        progress: called after every run; returning False stops.

    Raises:
        ValueError: shap is not installed, or another rule.
        Stopped: stopped before the end.
    """
    shap = needed("shap")
    _check_exact(groups)
    n = len(groups)
    import numpy as np

    report = Reporter(progress, shap_runs(n, rounds), "SHAP")

    def value(present: Any) -> Any:
        removed = [[i for i in range(n) if not row[i]] for row in present]
        gone = groups(removed, report)
        if not report.going:
            raise Stopped
        return groups.whole - np.array(gone)

    nothing = np.zeros((1, n))
    explainer = shap.explainers.Permutation(value, nothing, seed=seed)
    explained = explainer(np.ones((1, n)), max_evals=shap_runs(n, rounds), silent=True)
    return [float(x) for x in explained.values[0]]


def integrated_gradients(groups: Groups, *, steps: int = 50, batch: int = 8) -> list[float]:
    """Integrated gradients of what enters layer 0, summed over each source's positions (Sundararajan et al. 2017,
    arXiv 1703.01365), by captum: the mean gradient between baseline and input, times their difference.

    Args:
        groups: the sources, each of positions of the input; its rule does not matter.
        steps: points on the way, of the Gauss-Legendre quadrature.
        batch: points at once.

    Raises:
        ValueError: captum is not installed, a source is no position of the input, or the target is a place.
    """
    captum = needed("captum.attr")
    if any(site.order for some in groups.sites for site in some):
        raise ValueError("Integrated gradients are of the input; name sources such as input@2-5, words or patches.")
    prompts, target = groups.prompts, groups.target
    if not isinstance(target, Logits | Similarity):
        raise ValueError(f"Integrated gradients need a logit, a class or a similarity, not '{target.name}'.")
    model, start = prompts.model, prompts.resid[0][0]

    def value(resid: Float[Tensor, "point pos d_model"]) -> Float[Tensor, " point"]:
        tokens = prompts.tokens.expand(len(resid), *prompts.tokens.shape[1:])
        out: Tensor = model(tokens, {"blocks.0.hook_resid_pre": lambda _: resid})
        if isinstance(target, Similarity):
            return torch.cosine_similarity(pool(out, None), target.vectors)
        out = out if target.at is None else out[:, int(target.at)]
        right: Tensor = out[:, int(target.right)]
        return right if target.wrong is None else right - out[:, int(target.wrong)]

    away = groups.baseline.at(groups.sites[0][0]).expand_as(start)
    method = captum.IntegratedGradients(value)
    found = method.attribute(start, baselines=away, n_steps=steps, internal_batch_size=batch)[0].sum(-1)
    chosen = [
        torch.stack([site.where(prompts.lengths, prompts.width)[0] for site in some]).any(0) for some in groups.sites
    ]
    return [float(found[where].sum()) for where in chosen]


def shap_runs(n: int, rounds: int = 10) -> int:
    """How many runs :func:`shapley_values` takes at most."""
    return (2 * n + 1) * rounds


def needed(module: str) -> Any:
    """A module of the extra ``attribution``.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise MissingPackageError(
            f"{name} is not installed; get it with: pip install 'mi-workbench[attribution]'"
        ) from None


def _check_exact(groups: Groups) -> None:
    if not groups.rule.by_runs:
        raise ValueError(
            f"Sources are removed by running the model without them; use rule 'exact', not {groups.rule.key}."
        )
