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
from workbench.circuits.partial import Keep, Prompts
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Step, edge_means, spread
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
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by the importance of the nodes that it joins: one forward and one backward.

    Args:
        ablation: what a node's output is compared with.
        normalise: divide the scores of a block's nodes by their Euclidean norm, as Michel et al. do; scores of
            different layers then compare by rank within the layer, and have no unit.
        model, task, budget, progress, resume, keep: as in :func:`workbench.circuits.eap.eap`.

    Returns:
        Scores, none negative, in units of the task's metric.

    Raises:
        ValueError: an unknown ablation, or ``resume`` of another search.
        Stopped: stopped before the first batch was done.
    """
    graph, names = graph_of(model), writer_names(model)

    def edges(nodes: Tensor) -> Tensor:
        nodes = _normalised(graph, nodes) if normalise else nodes
        return spread(graph, nodes, nodes[graph.reader_node.to(nodes.device)])  # the last, of logits, is not looked at

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        run = clean_run(model, batch)
        effects = writer_effects(graph, names, run.gradients(), run.outputs, ablated)
        step()
        return effects.abs().sum(0)

    rest = Prompts(graph, task, "hisp", {"ablation": ablation, "normalise": normalise}, resume, keep, edges)
    return edge_means(model, rest, score, steps=1, budget=budget, progress=progress)


def _normalised(graph: Graph, nodes: Float[Tensor, " writers"]) -> Float[Tensor, " writers"]:
    blocks = nodes[1:].view(graph.n_layers, graph.writers_per_layer)
    blocks = blocks / blocks.norm(dim=1, keepdim=True).clamp(min=torch.finfo(nodes.dtype).tiny)
    return torch.cat((nodes[:1] / nodes[:1].clamp(min=torch.finfo(nodes.dtype).tiny), blocks.flatten()))
