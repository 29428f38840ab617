"""Activation patching: what the behaviour loses when a whole node's output is replaced.

Vig et al. 2020 (arXiv 2004.12265), Meng et al. 2022 (arXiv 2202.05262, "causal tracing"); the directions are those of
Heimersheim and Nanda 2024 (arXiv 2404.15255). One forward, from the node's layer on, for each node (or each node at
each position) and prompt; those of one layer go together. Everything before the layer is computed once.

As a method for edges, every edge gets the effect of the lesser of its two nodes: it says which nodes matter and nothing
of where their output is read, so it is a baseline for methods that tell edges apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.activations import Ablation, Ablator, batch_size_for, graph_of
from workbench.circuits.candidates import Repeated, ablated_streams, candidates_that_fit, split
from workbench.circuits.graph import Scores
from workbench.circuits.partial import Keep, Partial
from workbench.circuits.path_patching import Direction, check_direction, swapped
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET, spread
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.embedding import n_positions
from workbench.models.taps import Tap

Site = Literal["head", "attention", "mlp", "residual"]


@dataclass(frozen=True)
class PatchingSweep:
    """The effect of replacing one kind of activation, everywhere it is.

    Attributes:
        site: ``head`` (one head's output), ``attention`` (all heads of a layer), ``mlp``, or ``residual`` (the stream
            that enters a layer; one entry more, for the stream behind the last).
        values: the effects, in units of the task's metric, means over prompts; NaN where the run was stopped before.
            Noising: what the metric loses. Denoising: what it gains.
        axes: names of the axes of ``values``: ``layer``, then ``head`` and ``position`` where there are such.
        direction: ``noising`` or ``denoising``.
        ablation: what the activation was replaced by.
        task: name of the task.
        metric_from: mean metric of the run that was patched.
        n_examples: prompts that the means are over; at a position, those that have it.
        complete: False where the run was stopped before its end.
    """

    site: Site
    values: Float[Tensor, "layer *head_position"]
    axes: tuple[str, ...]
    direction: Direction
    ablation: Ablation
    task: str
    metric_from: float
    n_examples: int
    complete: bool = True


@dataclass(frozen=True)
class _Group:
    """The candidates of one site in one layer: (head, position), None for all of them."""

    site: Site
    layer: int
    places: list[tuple[int | None, int | None]]


def patching_sweep(
    model: Transformer,
    task: Task,
    site: Site = "head",
    *,
    by_position: bool = False,
    direction: Direction = "noising",
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> PatchingSweep:
    """Replace every head, attention, MLP or residual stream in turn, at all positions or at each.

    Args:
        model: any hooked model.
        task: pairs of prompts; effects are means over them.
        site: what is replaced.
        by_position: at one position at a time; prompts of unlike length are aligned at their first token.
        direction: ``noising`` (clean run, the activation ablated) or ``denoising`` (corrupted run, the clean one).
        ablation: what it is replaced by in noising; denoising has ``resample`` only.
        budget: bytes beside the model.
        progress: called after every layer of every batch of prompts; returning False keeps the layers that are done.

    Raises:
        ValueError: an unknown site, direction or ablation, or a site that the model does not have.
        Stopped: stopped before one layer was done.
    """
    check_direction(direction, ablation)
    if site not in get_args(Site):
        raise ValueError(f"Unknown site '{site}'; choose one of {', '.join(get_args(Site))}.")
    if site == "mlp" and model.cfg.attn_only:
        raise ValueError(f"{model.name} has no MLPs; choose another site.")
    cfg, width = model.cfg, n_positions(model, task.clean)
    heads = range(cfg.n_heads) if site == "head" else [None]
    positions = range(width) if by_position else [None]
    layers = cfg.n_layers + (site == "residual")
    groups = [_Group(site, layer, [(h, p) for h in heads for p in positions]) for layer in range(layers)]
    sizes = {"layer": layers, "head": cfg.n_heads * (site == "head"), "position": width * by_position}
    shape = [size for size in sizes.values() if size]
    values, done, metric = torch.full(shape, torch.nan), 0, 0.0
    for group, effects, base in _effects(model, task, groups, direction, ablation, budget, progress):
        values[group.layer] = effects.view(values.shape[1:])
        done, metric = done + 1, base
    if not done:
        raise Stopped("Stopped before one layer was done; nothing was kept.")
    axes = tuple(name for name, size in sizes.items() if size)
    return PatchingSweep(
        site, values, axes, direction, ablation, task.name, metric, len(task), complete=done == len(groups)
    )


def activation_patching(
    model: Transformer,
    task: Task,
    *,
    direction: Direction = "noising",
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by the effects of replacing what its two nodes write: one forward for each node.

    An edge carries the effect of that end which is worth less (:func:`workbench.circuits.sweep.spread`), so that the
    edges above a threshold are those between the nodes above it.

    Args:
        model: any model whose graph has edges.
        task, direction, ablation, budget: as in :func:`patching_sweep`.
        progress: called after every layer of every batch of prompts; returning False keeps the layers that are done
            (edges of others have score 0).
        resume: what ``keep`` was given by an earlier call with the same settings; only the rest is computed.
        keep: called every few seconds with the effects found so far, each in the row of its node; NaN where there
            are none.

    Raises:
        ValueError: an unknown direction or ablation, or ``resume`` of another run.
        Stopped: stopped before one layer was done.
    """
    check_direction(direction, ablation)
    graph = graph_of(model)
    settings = {"direction": direction, "ablation": ablation}
    rest = Partial(graph, task, "activation-patching", settings, resume, keep)
    writers: dict[tuple[Site, int], list[int]] = {("residual", 0): [0]}  # what enters the first layer is the input
    for layer in range(graph.n_layers):
        writers["head", layer] = list(range(*graph.attention_writers(layer).indices(len(graph.writers))))
        if graph.has_mlp:
            writers["mlp", layer] = [graph.mlp_writer(layer)]
    groups = [
        _Group(site, layer, [(h if site == "head" else None, None) for h in range(len(found))])
        for (site, layer), found in reversed(writers.items())
        if rest.open_writer(found[0])
    ]
    for group, effects, _ in _effects(model, task, groups, direction, ablation, budget, progress):
        for writer, value in zip(writers[group.site, group.layer], effects.tolist(), strict=True):
            rest.fill_writer(writer, value)
    found = rest.result()
    nodes = found.values[:, -1]  # every node is read by logits
    return replace(found, values=spread(graph, nodes, nodes[graph.reader_node]))


def _effects(
    model: Transformer,
    task: Task,
    groups: Sequence[_Group],
    direction: Direction,
    ablation: Ablation,
    budget: int,
    progress: ProgressFn | None,
) -> Iterator[tuple[_Group, Float[Tensor, " places"], float]]:
    """Each group with its mean effects, and the mean metric of the run that was patched; fewer if asked to stop."""
    size = batch_size_for(model, task, budget // 2)
    ablator = Ablator(model, task, ablation, size)
    batches = [swapped(batch) if direction == "denoising" else batch for batch in task.batches(size)]
    report = Reporter(progress, len(groups) * len(batches), "patching nodes")
    held = _Nodes(model, batches[0], ablator, budget // 2) if len(batches) == 1 and groups else None
    sign = -1 if direction == "denoising" else 1
    for group in groups:
        total, count, base = torch.zeros(2, len(group.places), dtype=torch.float64), 0, 0.0
        for batch in batches:
            if not report.going:
                return
            nodes = held or _Nodes(model, batch, ablator, budget // 2)
            effects = (nodes.base - nodes.metric(group)).double().cpu()
            real = torch.stack([torch.as_tensor(p or 0) < batch.lengths for _, p in group.places])
            total += torch.stack(((effects * real).sum(1), real.sum(1)))
            count, base = count + len(batch), base + float(nodes.base.double().sum())
            report.step()
        yield group, sign * total[0] / total[1].clamp(min=1), base / count


class _Nodes:
    """One batch, ready for replacing what its nodes write."""

    def __init__(self, model: Transformer, batch: Task, ablator: Ablator, budget: int) -> None:
        self.model, self.rows = model, Repeated(model, batch, batch.clean)
        self.size, n = candidates_that_fit(model, batch, budget), model.cfg.n_layers
        names = [f"blocks.{layer}.hook_resid_pre" for layer in range(n)]
        with torch.no_grad():
            self.other = ablator(batch)
            end, cache = model.run_with_cache(
                self.rows.inputs, names, attention_mask=self.rows.mask(1), stop_at_layer=n
            )
            self.streams = [*(cache[name] for name in names), end]
            self.other_streams, _ = ablated_streams(model, self.other, end)
            self.base = self.rows.scores(self.rows.answers(self.rows.read(end[None])))[0]

    @torch.no_grad()
    def metric(self, group: _Group) -> Float[Tensor, "places batch"]:
        """The metric of each example with each place replaced."""
        parts = [group.places[i : i + self.size] for i in range(0, len(group.places), self.size)]
        return torch.cat([self._run(group.site, group.layer, part) for part in parts])

    def _run(self, site: Site, layer: int, places: list[tuple[int | None, int | None]]) -> Tensor:
        c, n, taps = len(places), self.model.cfg.n_layers, {}
        resid = self.streams[layer].repeat(c, 1, 1)
        if site == "residual":
            resid = _replaced(resid, self.other_streams[layer], places)
        elif site == "mlp":
            taps[f"blocks.{layer}.hook_mlp_out"] = _tap(self.other.mlp[layer], places)
        else:
            taps[f"blocks.{layer}.attn.hook_z"] = _tap(self.other.z[layer], places)
        if layer < n:
            resid = self.model(resid, taps, attention_mask=self.rows.mask(c), start_at_layer=layer, stop_at_layer=n)
        return self.rows.scores(self.rows.answers(self.rows.read(split(resid, c))))


def _tap(other: Tensor, places: list[tuple[int | None, int | None]]) -> Tap:
    return lambda value: _replaced(value, other, places)


def _replaced(value: Tensor, other: Tensor, places: list[tuple[int | None, int | None]]) -> Tensor:
    """``value`` [candidate x batch, pos, ...] with each candidate's place as in ``other`` [batch, pos, ...]."""
    new = split(value.clone(), len(places))
    other = other.expand_as(new[0])
    for one, (head, position) in zip(new, places, strict=True):
        at = (slice(None), slice(None) if position is None else position, *([] if head is None else [head]))
        one[at] = other[at]
    return new.flatten(0, 1)


__all__ = ["PatchingSweep", "activation_patching", "patching_sweep"]
