"""Attribution patching of nodes (AtP*, Kramár et al. 2024, arXiv 2403.00745) with its two corrections.

Plain attribution patching of a node n is ``(clean - ablated value of n) . d metric / d n``. It overlooks two things:

- A saturated softmax has no gradient. Query-key fix (their section 3.1): for queries and keys, make the head's pattern
  again with the ablated queries (or keys) and multiply *its* change with the metric's gradient at the pattern.
- Direct and indirect effects of opposite sign cancel. GradDrop (their section 3.2): one backward for each layer, with
  the gradient through what this layer adds stopped; the mean of the absolute effects over those in which the node
  still has any (all but that of its own layer).

Nodes are the writers of the graph and every head's query, key and value, over all positions at once (theirs: each
position for itself, so that their key fix patches one key at a time). Ablated queries, keys and values are those that a
head makes of the sum of all ablated writers: with ``resample`` the corrupted run's. An edge carries the score of that
end which is worth less.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, WriterOutputs, graph_of, writer_names
from workbench.circuits.graph import Graph, Scores
from workbench.circuits.node_gradients import CleanRun, clean_run, writer_effects
from workbench.circuits.partial import Keep, Prompts
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Mean, Step, mean_over, spread
from workbench.circuits.task import Task
from workbench.models import Transformer

Effects = Float[Tensor, "batch nodes"]  # the writers, then each head's q, k, v as readers order them


def atp(
    model: Transformer,
    task: Task,
    *,
    qk_fix: bool = True,
    graddrop: bool = True,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by the attribution of the nodes that it joins.

    Three forwards, and a backward for each layer (without ``graddrop`` one).

    Args:
        qk_fix: make the softmax of patched queries and keys again, instead of trusting its gradient.
        graddrop: mean absolute effect over backwards that each leave out one layer; scores are then not negative. A
            model of one layer has no other to leave out, and its plain absolute effect is taken.
        model, task, ablation, budget, progress, resume, keep: as in :func:`workbench.circuits.eap.eap`.

    Returns:
        Scores in units of the task's metric.

    Raises:
        ValueError: an unknown ablation, or ``resume`` of another search.
        Stopped: stopped before the first batch was done.
    """
    graph = graph_of(model)
    settings = {"ablation": ablation, "qk_fix": qk_fix, "graddrop": graddrop}
    rest = Prompts(graph, task, "atp", settings, resume, keep, lambda nodes: _edges(graph, nodes))
    mean = _node_effects(model, task, qk_fix, graddrop, ablation, budget, progress, rest)
    return rest.found(mean.values, mean.n_examples)


def _edges(graph: Graph, nodes: Float[Tensor, " nodes"]) -> Float[Tensor, "writers readers"]:
    """Scores of edges from those of nodes."""
    n = len(graph.writers)
    writers = nodes[:n]
    readers = writers[graph.reader_node.to(writers.device)]  # MLPs; heads' parts are put in their places below
    for layer in range(graph.n_layers):
        readers[graph.attention_readers(layer)] = nodes[n + 3 * graph.n_heads * layer :][: 3 * graph.n_heads]
    return spread(graph, writers, readers)


def node_scores(
    model: Transformer,
    task: Task,
    *,
    qk_fix: bool = True,
    graddrop: bool = True,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> dict[str, float]:
    """What :func:`atp` says of each node: ``input``, ``a3.h5``, ``m3`` and ``a4.h1<q>``, in units of the metric.

    Args:
        model, task, qk_fix, graddrop, ablation, budget, progress: as in :func:`atp`.

    Raises:
        ValueError: an unknown ablation.
        Stopped: stopped before the first batch was done.
    """
    mean = _node_effects(model, task, qk_fix, graddrop, ablation, budget, progress)
    graph = graph_of(model)
    names = [*graph.writers, *(name for name in graph.readers if name.endswith(">"))]
    return dict(zip(names, mean.values.tolist(), strict=True))


def _node_effects(
    model: Transformer,
    task: Task,
    qk_fix: bool,
    graddrop: bool,
    ablation: Ablation,
    budget: int,
    progress: ProgressFn | None,
    rest: Prompts | None = None,
) -> Mean:
    graph = graph_of(model)
    drops = graph.n_layers if graddrop and graph.n_layers > 1 else 0
    streams = [f"blocks.{layer}.hook_resid_pre" for layer in range(graph.n_layers)]

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        gates = _Gates(graph)
        names = _head_names(graph, qk_fix)
        run = clean_run(model, batch, names, keep=streams, taps=gates.taps() if drops else None)
        changes = _head_changes(model, batch, ablated, run, qk_fix)
        if not drops:
            effects = _effects(model, graph, run, run.gradients(), changes, ablated)
            step()
            return (effects.abs() if graddrop else effects).sum(0)
        total = torch.zeros((), device=model.device)
        for layer in range(drops):
            gates.closed = layer
            gradients = run.gradients(keep=layer + 1 < drops)
            if graph.has_mlp:  # where the gate stands, its own gradient is still there
                gradients[f"blocks.{layer}.hook_mlp_out"].zero_()
            total = total + _effects(model, graph, run, gradients, changes, ablated).abs()
            step()
        passes = torch.full((total.shape[1],), float(drops - 1), device=model.device)
        passes[0] = drops  # the embedding is of no layer
        return (total / passes).sum(0)

    steps = drops or 1
    return mean_over(model, task, score, steps=steps, ablation=ablation, budget=budget, progress=progress, rest=rest)


class _Gates:
    """Taps that stop the gradient through what one layer adds to the residual stream, whichever is ``closed``."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.closed = graph, -1

    def taps(self) -> dict[str, Callable[[Tensor], None]]:
        """One for every attention and every MLP."""
        parts = ["hook_attn_out", *["hook_mlp_out"] * self.graph.has_mlp]
        return {f"blocks.{layer}.{part}": self._gate(layer) for layer in range(self.graph.n_layers) for part in parts}

    def _gate(self, layer: int) -> Callable[[Tensor], None]:
        def tap(value: Tensor) -> None:
            value.register_hook(lambda gradient: gradient * float(layer != self.closed))  # type: ignore[no-untyped-call]

        return tap


def _head_names(graph: Graph, qk_fix: bool) -> list[str]:
    parts = ["q", "k_heads", "v_heads", *["pattern"] * qk_fix]
    return [f"blocks.{layer}.attn.hook_{part}" for layer in range(graph.n_layers) for part in parts]


@torch.no_grad()
def _head_changes(
    model: Transformer, batch: Task, ablated: WriterOutputs, run: CleanRun, qk_fix: bool
) -> list[list[tuple[str, Tensor]]]:
    """For each layer, of q, k and v: the activation whose gradient counts, and its clean minus its patched value."""
    mask = stream.attention_mask(model, batch)
    resid = ablated.embed.expand_as(run.outputs.embed)
    changes = []
    for layer, block in enumerate(model.blocks):
        name = f"blocks.{layer}.attn.hook_"
        names = [f"{name}{part}" for part in ("q", "k_heads", "v_heads", "k")]
        _, other = model.run_with_cache(
            resid, names, attention_mask=mask, start_at_layer=layer, stop_at_layer=layer + 1
        )
        q, k, v = [(here, run.values[here].detach() - other[here]) for here in names[:3]]
        if qk_fix:
            clean = run.values[f"{name}pattern"].detach()
            q, k = (
                (f"{name}pattern", clean - _pattern(model, layer, run, part, other[part], mask))
                for part in (f"{name}q", f"{name}k")
            )
        changes.append([q, k, v])
        resid = stream.after_attention(block, resid, block.attn.write(ablated.z[layer]))
        if block.mlp is not None:
            resid = stream.after_mlp(block, resid, ablated.mlp[layer])
    return changes


def _pattern(
    model: Transformer, layer: int, run: CleanRun, part: str, patched: Tensor, mask: Tensor | None
) -> Float[Tensor, "batch head query key"]:
    """Pattern of a layer that reads the clean stream, but whose queries (or keys) are ``patched``."""
    name = f"blocks.{layer}.attn.hook_pattern"
    resid, taps = run.values[f"blocks.{layer}.hook_resid_pre"].detach(), {part: lambda _: patched}
    _, cache = model.run_with_cache(
        resid, [name], taps=taps, attention_mask=mask, start_at_layer=layer, stop_at_layer=layer + 1
    )
    return cache[name]


def _effects(
    model: Transformer,
    graph: Graph,
    run: CleanRun,
    gradients: dict[str, Tensor],
    changes: list[list[tuple[str, Tensor]]],
    ablated: WriterOutputs,
) -> Effects:
    """Effect of every node on each example; positive where ablating it lowers the metric."""
    columns = [writer_effects(graph, writer_names(model), gradients, run.outputs, ablated)]
    for layer in changes:
        for name, change in layer:
            product = change * gradients[name]
            columns.append(product.sum((2, 3)) if name.endswith("pattern") else product.sum((1, 3)))
    return torch.cat(columns, 1)
