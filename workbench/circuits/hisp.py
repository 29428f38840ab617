"""Head importance score for pruning (HISP, Michel et al. 2019, arXiv 1905.10650, equation 2).

The importance of a head is the mean over prompts of ``|d metric / d output . (output - ablated output)|``. Their
ablation is ``zero``; the comparison with ACDC (Conmy et al. 2023, arXiv 2304.14997, section 4) takes ``resample``.
MLPs and the embedding, which they leave alone, are scored alike. Edges carry the score of their less important end.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.activations import Ablation, WriterOutputs, graph_of, writer_names
from workbench.circuits.graph import Graph, Scores
from workbench.circuits.node_gradients import clean_run, writer_effects
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Mean, Step, mean_over, spread
from workbench.circuits.task import Task
from workbench.models import Transformer


def hisp(
    model: Transformer,
    task: Task,
    *,
    ablation: Ablation = "zero",
    normalise: bool = False,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Scores:
    """Score every edge by the importance of the nodes that it joins: one forward and one backward.

    Args:
        ablation: what a node's output is compared with.
        normalise: divide the scores of a block's nodes by their Euclidean norm, as Michel et al. do; scores of
            different layers then compare by rank within the layer, and have no unit.
        model, task, budget, progress: as in :func:`workbench.circuits.eap.eap`.

    Returns:
        Scores, none negative, in units of the task's metric.

    Raises:
        ValueError: an unknown ablation.
        Stopped: stopped before the first batch was done.
    """
    graph = graph_of(model)
    mean = _importance(model, task, ablation, budget, progress)
    nodes = _normalised(graph, mean.values) if normalise else mean.values
    readers = nodes[graph.reader_node.to(nodes.device)]  # the last, of logits, is not looked at
    edges = Mean(spread(graph, nodes, readers), mean.n_examples, mean.complete)
    return edges.scores(model, task, "hisp", ablation=ablation, normalise=normalise)


def _importance(model: Transformer, task: Task, ablation: Ablation, budget: int, progress: ProgressFn | None) -> Mean:
    graph, names = graph_of(model), writer_names(model)

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        run = clean_run(model, batch)
        effects = writer_effects(graph, names, run.gradients(), run.outputs, ablated)
        step()
        return effects.abs().sum(0)

    return mean_over(model, task, score, steps=1, ablation=ablation, budget=budget, progress=progress)


def _normalised(graph: Graph, nodes: Float[Tensor, " writers"]) -> Float[Tensor, " writers"]:
    blocks = nodes[1:].view(graph.n_layers, graph.writers_per_layer)
    blocks = blocks / blocks.norm(dim=1, keepdim=True).clamp(min=torch.finfo(nodes.dtype).tiny)
    return torch.cat((nodes[:1] / nodes[:1].clamp(min=torch.finfo(nodes.dtype).tiny), blocks.flatten()))
