"""Minimality: what each edge of a circuit is worth on its own, and which edges are superfluous.

The worth of an edge e in a circuit C is the change of the metric when it alone is taken out, delta(e) = m(C) - m(C
without e) (Wang et al. 2022, arXiv 2211.00593, section 4). Two tests say whether that is anything:

``paired``: the changes of each prompt against no change. With n prompts, mean d and standard error se, the null
hypothesis |worth| <= margin gives p = P(T >= (|d| - margin) / se) + P(T >= (|d| + margin) / se) with n - 1 degrees of
freedom; margin 0 is the paired t-test. An edge is kept where the corrected p is small. One that is not is superfluous
if its effect is small too, else undecided: there are too few prompts to tell.

``inflated`` (Shi et al. 2024, arXiv 2410.13032, minimality test): add a random path to the circuit and take a random
edge of that path out again; |delta| of such edges is what superfluous edges do. The null hypothesis of an edge is
that it does more than a share ``quantile`` of them: with k of R exceeded, p = P(Binomial(R, quantile) <= k). An edge
is superfluous where the corrected p is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits.activations import AnyAblation, check_ablation
from workbench.circuits.eap import BUDGET
from workbench.circuits.evaluate import KeepMetrics, check_graph, circuit_metrics, share_kept
from workbench.circuits.graph import Circuit, Graph
from workbench.circuits.intervals import Correction, adjust
from workbench.circuits.progress import ProgressFn
from workbench.circuits.task import Task
from workbench.models import Transformer

Test = Literal["paired", "inflated"]
NEGLIGIBLE = 0.01
"""Share of the behaviour below which the effect of an edge that was not shown to be needed is next to nothing."""


@dataclass(frozen=True)
class EdgeWorth:
    """What one edge of the circuit does.

    Attributes:
        edge: its name.
        effect: m(C) - m(C without it), in units of the metric; positive: the edge works for the behaviour.
        share: the effect as a share of the behaviour, m(full) - m(empty).
        p, p_adjusted: of the null hypothesis of the test, before and after the correction.
        kept: whether the edge is needed: shown to be by ``paired``, not shown to be superfluous by ``inflated``.
    """

    edge: str
    effect: float
    share: float
    p: float
    p_adjusted: float
    kept: bool


@dataclass(frozen=True)
class Minimality:
    """Every edge of a circuit, tested.

    Attributes:
        edges: largest absolute effect first.
        superfluous: names of the edges that are not kept and, in the paired test, do next to nothing.
        undecided: names of the edges that do something and are not kept: more prompts would tell. Paired test only.
        faithfulness: of the circuit as it is.
        reference: |delta| of edges of random paths, in units of the metric; empty for the paired test.
        test, correction, alpha: how edges were told apart.
        n_examples: prompts that the effects are means over.
        ablation: what a removed edge carried.
        complete: False where it was stopped before the last prompt.
    """

    edges: list[EdgeWorth]
    superfluous: list[str]
    undecided: list[str]
    faithfulness: float
    reference: list[float]
    test: Test
    correction: Correction
    alpha: float
    n_examples: int
    ablation: str
    complete: bool = True


def minimality(
    model: Transformer,
    task: Task,
    circuit: Circuit,
    ablation: AnyAblation = "resample",
    *,
    test: Test = "paired",
    correction: Correction = "holm",
    alpha: float = 0.05,
    margin: float = 0.001,
    draws: int = 100,
    quantile: float = 0.9,
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Float[Tensor, "masks examples"] | None = None,
    keep: KeepMetrics | None = None,
) -> Minimality:
    """Take each edge out of the circuit in turn, and test what that does.

    Cost: a patched forward for each edge and three more; ``inflated`` two more for each draw.

    Args:
        model, task, circuit, ablation, budget, progress: as in :func:`workbench.circuits.evaluate`.
        test: ``paired`` over prompts or ``inflated``, see above.
        correction: ``holm``, ``bh`` or ``none``.
        alpha: level.
        margin: of the paired test: worth that counts as none, as a share of m(full) - m(empty). Above 0, so that
            rounding errors, which are the same on every prompt, are no worth.
        draws: of the inflated test: random paths.
        quantile: of the inflated test.
        seed: of the random paths.
        resume, keep: as in :func:`workbench.circuits.evaluate.circuit_metrics`.

    Raises:
        ValueError: a circuit without edges or of another model; an unknown ablation, test or correction; a level,
            margin or quantile out of range; fewer than two prompts for the paired test; an ablation that changes
            nothing.
        Stopped: stopped before the first prompts were through.
    """
    check_ablation(ablation)
    check_graph(model, circuit)
    adjust([], correction)
    _check(circuit, task, test, alpha, margin, draws, quantile)
    edges = circuit.mask.nonzero()
    whole = circuit.graph.mask
    added = _inflated(circuit, draws, seed) if test == "inflated" else []
    bare = [_Change(mask) for mask in (whole, torch.zeros_like(whole), circuit.mask)]
    masks = _Masks([*bare, *(_Change(circuit.mask, without=(row, column)) for row, column in edges.tolist()), *added])
    metrics = circuit_metrics(
        model,
        task,
        masks,
        ablation=ablation,
        budget=budget,
        progress=progress,
        what="removing each edge",
        resume=resume,
        keep=keep,
    ).double()
    full, empty, own = metrics[:3].mean(1).tolist()
    faithfulness = share_kept(own, full, empty, ablation)
    changes = metrics[2] - metrics[3 : 3 + len(edges)]
    rest = metrics[3 + len(edges) :].mean(1)
    reference = (rest[::2] - rest[1::2]).abs()
    if test == "paired":
        p = paired_test(changes, margin * abs(full - empty))
    else:
        p = exceeding_test(changes.mean(1).abs(), reference, quantile)
    adjusted = adjust(p, correction)
    found = [
        EdgeWorth(
            edge=circuit.name(row, column),
            effect=effect,
            share=effect / (full - empty),
            p=one,
            p_adjusted=corrected,
            kept=corrected <= alpha if test == "paired" else corrected > alpha,
        )
        for (row, column), effect, one, corrected in zip(
            edges.tolist(), changes.mean(1).tolist(), p, adjusted, strict=True
        )
    ]
    found.sort(key=lambda one: (-abs(one.effect), one.edge))
    idle = {one.edge for one in found if not one.kept and (test == "inflated" or abs(one.share) <= NEGLIGIBLE)}
    return Minimality(
        edges=found,
        superfluous=[one.edge for one in found if one.edge in idle],
        undecided=[one.edge for one in found if not one.kept and one.edge not in idle],
        faithfulness=faithfulness,
        reference=reference.tolist(),
        test=test,
        correction=correction,
        alpha=alpha,
        n_examples=metrics.shape[1],
        ablation=str(ablation),
        complete=metrics.shape[1] == len(task),
    )


def paired_test(changes: Float[Tensor, "edges examples"], margin: float = 0.0) -> list[float]:
    """P-value of each row: that its mean lies within ``margin`` of 0 (t-test; two-sided at margin 0).

    A row without spread has p = 0 if it lies outside the margin, else 1.

    Raises:
        ValueError: fewer than two examples.
    """
    from scipy.stats import t  # type: ignore[import-untyped]

    n = changes.shape[1]
    if n < 2:
        raise ValueError(f"A test over prompts needs at least two of them; got {n}.")
    changes = changes.double()
    mean, error = changes.mean(1).abs(), changes.std(1) / n**0.5
    found = []
    for size, spread in zip(mean.tolist(), error.tolist(), strict=True):
        if spread <= 1e-12 * max(size, 1e-300):
            found.append(float(size <= margin))
            continue
        p = t.sf((size - margin) / spread, n - 1) + t.sf((size + margin) / spread, n - 1)
        found.append(min(1.0, float(p)))
    return found


def exceeding_test(
    effects: Float[Tensor, " edges"], reference: Float[Tensor, " draws"], quantile: float
) -> list[float]:
    """P-value of each effect: that it exceeds a share ``quantile`` of the reference (binomial, one-sided).

    An effect that is equal to a draw of the reference counts as half above it.
    """
    from scipy.stats import binom

    above = (effects[:, None] > reference).double().sum(1) + (effects[:, None] == reference).double().sum(1) / 2
    return [float(binom.cdf(int(k), len(reference), quantile)) for k in above.tolist()]


def _check(circuit: Circuit, task: Task, test: str, alpha: float, margin: float, draws: int, quantile: float) -> None:
    if test not in get_args(Test):
        raise ValueError(f"Unknown test '{test}'; choose 'paired' or 'inflated'.")
    if not circuit.n_edges:
        raise ValueError("The circuit has no edges, so that there is none to test.")
    for name, value in (("alpha", alpha), ("quantile", quantile)):
        if not 0 < value < 1:
            raise ValueError(f"{name} lies between 0 and 1; got {value}.")
    if margin < 0:
        raise ValueError(f"The margin is at least 0; got {margin}.")
    if test == "paired" and len(task) < 2:
        raise ValueError("The paired test needs at least two prompts; take a task of more, or test='inflated'.")
    if test == "inflated" and draws < 1:
        raise ValueError(f"The inflated test needs at least one random path; got draws={draws}.")


@dataclass(frozen=True)
class _Change:
    """A circuit with a path added and an edge taken out."""

    mask: Bool[Tensor, "writers readers"]
    path: list[tuple[int, int]] = field(default_factory=list)
    without: tuple[int, int] | None = None


class _Masks(Sequence[Tensor]):
    """Circuits that are made when they are asked for: thousands of masks would not fit beside a model."""

    def __init__(self, changes: list[_Change]) -> None:
        self.changes = changes

    def __len__(self) -> int:
        return len(self.changes)

    def __getitem__(self, index: Any) -> Any:
        change = self.changes[index]
        mask = change.mask.clone()
        for place in change.path:
            mask[place] = True
        if change.without is not None:
            mask[change.without] = False
        return mask


def _inflated(circuit: Circuit, draws: int, seed: int) -> list[_Change]:
    """For each draw the circuit with a random path, and the same without a random new edge of that path."""
    if circuit.n_edges == circuit.graph.n_edges:
        raise ValueError("The circuit is the whole model, so that no path can be added; choose test='paired'.")
    generator = torch.Generator().manual_seed(seed)
    changes: list[_Change] = []
    while len(changes) < 2 * draws:
        path = random_path(circuit.graph, generator)
        new = [place for place in path if not circuit.mask[place]]
        if new:
            out = new[int(torch.randint(len(new), (1,), generator=generator))]
            changes += [_Change(circuit.mask, path), _Change(circuit.mask, path, out)]
    return changes


def random_path(graph: Graph, generator: torch.Generator) -> list[tuple[int, int]]:
    """A random path from ``input`` to ``logits`` as rows and columns of its edges.

    From ``logits`` backwards: each time an even choice among the writers before, and of query, key and value.
    """
    path, column = [], len(graph.readers) - 1
    while True:
        writers = graph.mask[:, column].nonzero().flatten()
        row = int(writers[int(torch.randint(len(writers), (1,), generator=generator))])
        path.append((row, column))
        if row == 0:
            return path[::-1]
        readers = (graph.reader_node == row).nonzero().flatten()
        column = int(readers[int(torch.randint(len(readers), (1,), generator=generator))])
