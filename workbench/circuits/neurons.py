"""Neurons inside MLPs as nodes: which hidden units carry a behaviour, and over which edges.

A neuron is one hidden unit of an MLP behind its activation, in a gated MLP the product; what the MLP writes is the sum
of its neurons times their rows of the output matrix, and the output bias, which belongs to no neuron. To first order,
putting the ablated value in a neuron's place takes from the metric, with the gradient of the metric at the neuron,

    score[n]       =  sum over positions of (clean_n - ablated_n) gradient_n
    score[n -> v]  =  sum over positions of (clean_n - ablated_n) W_out[n] . gradient_v

the first over all ways from the neuron on, the second over its edge into reader v alone, with the gradient at what v
reads. This is attribution patching (Syed et al. 2023, arXiv 2310.10348, equation 2) of smaller nodes; for neurons it
is that of Kramár et al. 2024 (arXiv 2403.00745). The scores of an MLP's neurons into v add up to that of the edge from
the MLP to v; with ``zero``, where the bias goes too, up to the bias's share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, WriterOutputs, batch_size_for, graph_of
from workbench.circuits.attribution import ReaderGradients, attention_pull_back, norm_pull_back, reader_gradients
from workbench.circuits.evaluate import compares_answers, full_metric, share_kept
from workbench.circuits.graph import Graph
from workbench.circuits.neuron_runs import EMBED, NeuronAblation, checked_layers, hook_name, recorded
from workbench.circuits.partial import Means
from workbench.circuits.points import Method, gradient_points, n_points, settings_of
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET, Step, mean_over
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.blocks import MLP
from workbench.models.taps import Tap


@dataclass(frozen=True)
class NeuronScores:
    """What a method says of every neuron.

    Attributes:
        layers: the layers that were asked for.
        values: [layer, neuron], in units of the task's metric; positive: ablating the neuron lowers the behaviour.
        method, task, settings, n_examples, complete: as in :class:`workbench.circuits.graph.Scores`.
    """

    layers: tuple[int, ...]
    values: Float[Tensor, "layers d_mlp"]
    method: str = ""
    task: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    n_examples: int = 0
    complete: bool = True

    def top(self, n: int) -> Bool[Tensor, "layers d_mlp"]:
        """True for the ``n`` neurons of the largest absolute scores: what :func:`evaluate_neurons` takes.

        Raises:
            ValueError: ``n`` is negative or more than there are.
        """
        kept = torch.zeros_like(self.values, dtype=torch.bool)
        kept.view(-1)[_best(self.values, n)] = True
        return kept

    def best(self, n: int) -> dict[str, float]:
        """The ``n`` neurons of the largest absolute scores, the first first: ``{"m3.n17": 0.41, ...}``.

        Raises:
            ValueError: ``n`` is negative or more than there are.
        """
        found = [divmod(i, self.values.shape[1]) for i in _best(self.values, n).tolist()]
        return {f"m{self.layers[row]}.n{neuron}": float(self.values[row, neuron]) for row, neuron in found}


@dataclass(frozen=True)
class NeuronEdges:
    """What a method says of the edges out of the neurons of one MLP.

    Attributes:
        graph: the graph of the model.
        layer: the layer of the MLP.
        values: [neuron, reader], 0 where the MLP has no edge. In units of the task's metric.
        method, task, settings, n_examples, complete: as in :class:`workbench.circuits.graph.Scores`.
    """

    graph: Graph
    layer: int
    values: Float[Tensor, "d_mlp readers"]
    method: str = ""
    task: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    n_examples: int = 0
    complete: bool = True

    def best(self, n: int) -> dict[str, float]:
        """The ``n`` edges of the largest absolute scores, the first first: ``{"m3.n17->a5.h2<q>": 0.2, ...}``.

        Raises:
            ValueError: ``n`` is negative or more than there are.
        """
        there = self.graph.mask[self.graph.mlp_writer(self.layer)].nonzero().flatten()
        values = self.values[:, there]
        found = [divmod(i, len(there)) for i in _best(values, n).tolist()]
        return {
            f"m{self.layer}.n{neuron}->{self.graph.readers[int(there[column])]}": float(values[neuron, column])
            for neuron, column in found
        }


@dataclass(frozen=True)
class NeuronEvaluation:
    """What some neurons keep of a task.

    Attributes:
        faithfulness: 1 for the model itself, 0 with every neuron of these layers ablated; can be outside that range.
        metric, metric_full, metric_empty: mean metric with these neurons, of the model, and with none.
        accuracy: share of examples whose right answers are above the wrong ones with these neurons; None where the
            metric does not compare answers.
        n_neurons, n_neurons_total: how many carry the run, and how many these layers have.
        n_examples: prompts that the means are over.
        ablation: what the other neurons carried.
        complete: False where it was stopped before the last prompt.
    """

    faithfulness: float
    metric: float
    metric_full: float
    metric_empty: float
    accuracy: float | None
    n_neurons: int
    n_neurons_total: int
    n_examples: int
    ablation: str
    complete: bool = True


def neuron_scores(
    model: Transformer,
    task: Task,
    *,
    layers: Sequence[int] | None = None,
    method: Method = "eap-ig",
    steps: int = 5,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: NeuronScores | None = None,
    keep: Callable[[NeuronScores], None] | None = None,
) -> NeuronScores:
    """Score every neuron by attribution: the passes of the method and a forward more (``eap``: two).

    Args:
        model: any model with MLPs.
        task: pairs of prompts; scores are means over them and sums over positions.
        layers: whose neurons; None for all.
        method: where gradients are taken, see :mod:`workbench.circuits.points`.
        steps: points of ``eap-ig`` and ``eap-gp``.
        ablation: what a neuron is replaced by; all but ``optimal``.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every run; returning False keeps the scores of the prompts finished so far.
        resume: what ``keep`` was given by an earlier call with the same settings; only the rest is scored.
        keep: called every few seconds with the mean over the prompts finished so far.

    Raises:
        ValueError: an unknown method or ablation, ``steps`` below 1, a layer that is not there, no MLPs, or ``resume``
            of another search.
        Stopped: stopped before the first batch was done.
    """
    chosen, n = checked_layers(model, layers), n_points(method, steps)
    names = [hook_name(layer) for layer in chosen]
    ablate = NeuronAblation(model, task, ablation, names, batch_size_for(model, task, budget))

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        embed, *clean = recorded(model, batch, batch.clean, [EMBED, *names])
        changes = [value - other for value, other in zip(clean, ablate(batch), strict=True)]
        total = torch.zeros(len(chosen), model.cfg.d_mlp, device=model.device)
        for point in gradient_points(model, batch, embed, ablated.embed, method, steps):
            pairs = zip(changes, _gradients(model, batch, point, names), strict=True)
            total += torch.stack([torch.einsum("bpm,bpm->m", change, gradient) for change, gradient in pairs])
            step()
        return total / n

    settings = {"ablation": ablation, **settings_of(method, steps), "layers": list(chosen)}

    def made(values: Tensor, prompts: int, complete: bool) -> NeuronScores:
        return NeuronScores(chosen, values, method, task.name, dict(settings), prompts, complete)

    rest = Means(made, (len(chosen), model.cfg.d_mlp), task, resume, keep)
    mean = mean_over(model, task, score, steps=n, ablation=ablation, budget=budget, progress=progress, rest=rest)
    return rest.found(mean.values, mean.n_examples)


def neuron_edges(
    model: Transformer,
    task: Task,
    layer: int,
    *,
    method: Method = "eap-ig",
    steps: int = 5,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: NeuronEdges | None = None,
    keep: Callable[[NeuronEdges], None] | None = None,
) -> NeuronEdges:
    """Score the edges from every neuron of one MLP to every later reader.

    The passes are those of :func:`neuron_scores`; beside them each run takes a product of readers x tokens x d_model x
    d_mlp, which for an early layer of a deep model is most of the work.

    Args:
        layer: the layer of the MLP.
        model: a model with MLPs whose residual streams are plain sums.
        task, method, steps, ablation, budget, progress, resume, keep: as in :func:`neuron_scores`.

    Raises:
        ValueError: as :func:`neuron_scores`, or a model that normalises what is added to its residual stream.
        Stopped: stopped before the first batch was done.
    """
    stream.check_sum(model, "neuron_edges")
    graph, n = graph_of(model), n_points(method, steps)
    (name,) = (hook_name(one) for one in checked_layers(model, [layer]))
    mlp = model.blocks[layer].mlp
    assert mlp is not None
    written = _written(mlp)
    ablate = NeuronAblation(model, task, ablation, [name], batch_size_for(model, task, budget))

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        embed, clean = recorded(model, batch, batch.clean, [EMBED, name])
        change = clean - ablate(batch)[0]
        total = torch.zeros(len(written), len(graph.readers), device=model.device)
        for point in gradient_points(model, batch, embed, ablated.embed, method, steps):
            gradients = reader_gradients(model, batch, point)
            for column, gradient in _later_readers(model, graph, layer, gradients):
                read = change if gradient.shape[1] == change.shape[1] else _at_answer(change, batch)
                total[:, column] += torch.einsum("bpm,bpm->m", read, gradient @ written.T)
            step()
        return total / n

    settings = {"ablation": ablation, **settings_of(method, steps), "layer": layer}

    def made(values: Tensor, prompts: int, complete: bool) -> NeuronEdges:
        return NeuronEdges(graph, layer, values, method, task.name, dict(settings), prompts, complete)

    rest = Means(made, (len(written), len(graph.readers)), task, resume, keep)
    mean = mean_over(model, task, score, steps=n, ablation=ablation, budget=budget, progress=progress, rest=rest)
    return rest.found(mean.values, mean.n_examples)


def evaluate_neurons(
    model: Transformer,
    task: Task,
    kept: Bool[Tensor, "layers d_mlp"],
    ablation: Ablation = "resample",
    *,
    layers: Sequence[int] | None = None,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> NeuronEvaluation:
    """Run the clean prompts with some neurons ablated and say how much of the behaviour is kept.

    Attention, the embedding and the MLPs' biases run on as they are, on what the neurons kept give them.

    Args:
        model: any model with MLPs.
        task: prompts and metric.
        kept: neurons that carry the run; see :meth:`NeuronScores.top`.
        ablation: what all others carry, all but ``optimal``.
        layers: the layers of ``kept``; None for all. Neurons of other layers carry the run.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every batch.

    Raises:
        ValueError: an unknown ablation, ``kept`` of another shape, a layer that is not there, no MLPs, or an ablation
            that changes nothing.
        Stopped: stopped before the first batch was done.
    """
    chosen = checked_layers(model, layers)
    if kept.shape != (len(chosen), model.cfg.d_mlp) or kept.dtype != torch.bool:
        raise ValueError(
            f"Neurons to keep are a bool tensor [{len(chosen)}, {model.cfg.d_mlp}] (layer, neuron) here, not "
            f"{kept.dtype} {list(kept.shape)}; take scores.top(n), and layers=scores.layers if not all were scored."
        )
    names = [hook_name(layer) for layer in chosen]
    size = batch_size_for(model, task, budget)
    ablate = NeuronAblation(model, task, ablation, names, size)
    report = Reporter(progress, -(-len(task) // size), "running neurons")
    done: list[Tensor] = []
    for batch in task.batches(size):
        if not report.going:
            break
        others = ablate(batch)
        done.append(torch.stack([_metric(model, batch, names, others, mask) for mask in (kept, kept & False)]).cpu())
        report.step()
    if not done:
        raise Stopped("Stopped before the first prompts were through; nothing was kept.")
    metric, empty = torch.cat(done, 1)
    full = full_metric(model, task, len(metric))
    return NeuronEvaluation(
        faithfulness=share_kept(float(metric.mean()), full, float(empty.mean()), ablation),
        metric=float(metric.mean()),
        metric_full=full,
        metric_empty=float(empty.mean()),
        accuracy=float((metric > 0).float().mean()) if compares_answers(task) else None,
        n_neurons=int(kept.sum()),
        n_neurons_total=kept.numel(),
        n_examples=len(metric),
        ablation=ablation,
        complete=len(metric) == len(task),
    )


def _best(values: Tensor, n: int) -> Tensor:
    if not 0 <= n <= values.numel():
        raise ValueError(f"Cannot take {n}: there are {values.numel():,}; choose 0 to that.")
    return values.abs().flatten().topk(n).indices


def _gradients(model: Transformer, batch: Task, embed: Tensor, names: list[str]) -> tuple[Tensor, ...]:
    """Gradients of the summed metric at some activations, in the run that starts with ``embed``."""
    mask, n = stream.attention_mask(model, batch), model.cfg.n_layers
    with torch.enable_grad():
        start = embed.detach().requires_grad_(True)
        resid, cache = model.run_with_cache(start, names, attention_mask=mask, stop_at_layer=n)
        metric = batch.checked_score(stream.answer_of(model, batch, resid)).sum()
        return torch.autograd.grad(metric, [cache[name] for name in names], materialize_grads=True)


def _written(mlp: MLP) -> Float[Tensor, "d_mlp d_model"]:
    """What each neuron writes for each unit of its value."""
    rows = mlp.out.weight.detach().T
    return rows if mlp.scale is None else rows * mlp.scale.detach()


@torch.no_grad()
def _later_readers(
    model: Transformer, graph: Graph, layer: int, gradients: ReaderGradients
) -> Iterator[tuple[int, Float[Tensor, "batch pos d_model"]]]:
    """Each reader behind a layer, with its gradient at the residual stream."""
    for later in range(layer + 1, graph.n_layers):
        start = graph.attention_readers(later).start
        for i, pulled in enumerate(attention_pull_back(model, later, gradients)):
            yield start + i, pulled
        norm = model.blocks[later].mlp_norm
        yield graph.mlp_reader(later), norm_pull_back(norm, gradients.mlp[later], gradients.resid_mlp[later])
    yield len(graph.readers) - 1, norm_pull_back(model.ln_final, gradients.final, gradients.resid_final)


def _at_answer(value: Tensor, batch: Task) -> Tensor:
    """``value`` [batch, pos, ...] where each example is answered: [batch, 1, ...]."""
    return value[torch.arange(len(value)), batch.last.to(value.device)][:, None]


def _metric(
    model: Transformer, batch: Task, names: list[str], others: list[Tensor], kept: Bool[Tensor, "layers d_mlp"]
) -> Float[Tensor, " batch"]:
    """The metric of each example with all neurons but those kept replaced."""

    def swap(other: Tensor, keep: Tensor) -> Tap:
        return lambda value: torch.where(keep, value, other.to(value.dtype))

    taps = {name: swap(other, keep.to(model.device)) for name, other, keep in zip(names, others, kept, strict=True)}
    mask, n = stream.attention_mask(model, batch), model.cfg.n_layers
    with torch.no_grad():
        resid = model(batch.clean.to(model.device), taps, attention_mask=mask, stop_at_layer=n)
        return batch.checked_score(stream.answer_of(model, batch, resid))


__all__ = ["NeuronEdges", "NeuronEvaluation", "NeuronScores", "evaluate_neurons", "neuron_edges", "neuron_scores"]
