"""The functions that users call: split a run in two, or ask what many sources give to one target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, Ablator, batch_size_for
from workbench.circuits.decomposition import baselines, flow, targets
from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.checks import MEANS, check_baseline, check_prompts, check_sources, check_target
from workbench.circuits.decomposition.contributions import Carried, Contributions, carry, prompts_that_fit
from workbench.circuits.decomposition.propagate import Prompts, Source, Sweep
from workbench.circuits.decomposition.rules import find
from workbench.circuits.decomposition.sites import parse
from workbench.circuits.decomposition.targets import Target, check_before
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.circuits.sweep import BUDGET
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.config import ModelConfig
from workbench.models.embedding import n_positions
from workbench.models.taps import check_names

Sources = Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]]
KEPT = ("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")
"""Activations of a block that a decomposition can keep in their parts."""


@dataclass(frozen=True)
class Decomposition:
    """A run in two parts.

    Attributes:
        relevant, irrelevant: [batch, pos, d_vocab] (of a classifier [batch, class], of a model without a head
            [batch, pos, d_model]); they sum to what the model gives.
        sources: where the relevant part comes from.
        rule: key of the rule.
        baseline: what the sources were compared with.
        activations: the relevant and the irrelevant part of each activation that was asked for, by hook name.
    """

    relevant: Float[Tensor, "batch *rest"]
    irrelevant: Float[Tensor, "batch *rest"]
    sources: tuple[str, ...]
    rule: str
    baseline: str
    activations: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        """Both parts of an activation that was kept."""
        return self.activations[name]


def decompose(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor,
    sources: Sequence[str],
    *,
    rule: str = "shapley",
    baseline: str | Tensor = "zero",
    keep: Sequence[str] = (),
    attention_mask: Int[Tensor, "batch pos"] | None = None,
) -> Decomposition:
    """Split every activation of a run into what comes from the sources together and the rest (Hsu et al. 2025).

    Args:
        model: any hooked model.
        tokens: as the model takes them; pixels for a vision model.
        sources: places such as ``a9.h6``, ``a9.h6@-1``, ``m4``, ``resid7``, ``input@2-5``
            (:mod:`workbench.circuits.decomposition.sites`).
        rule: how parts are carried, see :data:`RULES`.
        baseline: what the sources are compared with: ``zero``, ``mean`` (over all positions of these prompts), ``rest``
            (the mean over all positions but each prompt's first, where attention parks and activations can be hundreds
            of times as large), or other tokens of the same shape.
        keep: hook names of block activations whose parts are wanted, see :data:`KEPT`.
        attention_mask: as for the model.

    Raises:
        ValueError: no source, one that does not exist, an unknown rule or baseline, or a rule that the model's
            attention does not admit.
    """
    carrier = find(rule)
    flow.check_rule(carrier, model)
    if isinstance(sources, str):
        raise ValueError(f"Sources are a list of places, not one text; write ['{sources}'].")
    source = source_of(list(sources), model.cfg)
    check_names(keep, [name for name in model.hook_names if name.endswith(KEPT)])
    check_sources([source], *check_prompts(model, tokens, attention_mask))
    check_baseline(baseline, tokens)
    prompts = Prompts.run(model, tokens.to(model.device), attention_mask)
    values = baseline_of(prompts, baseline)
    sweep = Sweep(carrier, prompts, [source], values)
    with torch.no_grad():
        last, kept = sweep.run(keep)
        out = sweep.logits(last)
    activations = {
        name: (parts.joined_by(1).relevant[0], parts.joined_by(1).irrelevant[0]) for name, parts in kept.items()
    }
    return Decomposition(
        out.relevant[0], out.irrelevant[0], tuple(sources), carrier.key, name_of(baseline), activations
    )


def contributions(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor,
    sources: Sources,
    target: str | Target,
    *,
    rule: str = "shapley",
    baseline: str | Tensor = "zero",
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Contributions:
    """What each of many sources gives to a target.

    Args:
        model, tokens, rule, baseline, attention_mask: as for :func:`decompose`.
        sources: each a place or several that count as one; a mapping gives them names.
        target: a place such as ``a9.h6<q>@-1``, ``m4`` or ``resid7``, or one of
            :mod:`workbench.circuits.decomposition.targets`.
        budget: bytes beside the model and one run's streams.
        progress: called after every source; returning False keeps those that are done.

    Raises:
        ValueError: as :func:`decompose`, a source that comes after the target, or a budget too small for one source.
    """
    carrier = find(rule)
    flow.check_rule(carrier, model)
    chosen = sources_of(sources, model.cfg)
    read: Target = targets.node(target, model) if isinstance(target, str) else target
    check_before([(site.name, site.order) for source in chosen for site in source.sites], read)
    lengths, width = check_prompts(model, tokens, attention_mask)
    check_sources(chosen, lengths, width)
    check_target(read, model, lengths, width)
    check_baseline(baseline, tokens)
    n = len(tokens)
    size = prompts_that_fit(model, width, n, budget, carrier)
    report = Reporter(progress, len(chosen) * math.ceil(n / size), "carrying sources")
    mean = (
        baseline_of(Prompts.run(model, tokens.to(model.device), attention_mask), baseline)
        if isinstance(baseline, str) and baseline in MEANS
        else None
    )
    found: list[Carried] = []
    for start in range(0, n, size):
        part = slice(start, start + size)
        if not report.going:
            found.append(_not_reached(len(chosen), len(tokens[part])))
            continue
        mask = None if attention_mask is None else attention_mask[part]
        prompts = Prompts.run(model, tokens[part].to(model.device), mask)
        values = mean or baseline_of(prompts, baseline[part] if isinstance(baseline, Tensor) else baseline)
        rows = read.rows(start, start + size)
        found.append(carry(carrier, prompts, chosen, values, rows, budget=budget, report=report))
    return _joined(found, chosen, read.name, read.unit, carrier.key, name_of(baseline))


def task_contributions(
    model: Transformer,
    task: Task,
    sources: Sources | None = None,
    *,
    rule: str = "shapley",
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Contributions:
    """What each source gives to a task's metric.

    Args:
        model, task: what is run is the clean side.
        sources: as for :func:`contributions`; all heads and MLPs by default.
        rule: how parts are carried.
        ablation: what sources are compared with.
        budget: bytes beside the model; prompts and sources are taken in batches that fit.
        progress: called after every source of every batch of prompts; returning False keeps what is done.

    Raises:
        ValueError: as :func:`contributions`, or an unknown ablation.
    """
    carrier = find(rule)
    flow.check_rule(carrier, model)
    chosen = sources_of(all_nodes(model.cfg) if sources is None else sources, model.cfg)
    width = n_positions(model, task.clean)
    check_sources(chosen, task.lengths, width)
    size = min(
        prompts_that_fit(model, width, len(task), budget, carrier),
        batch_size_for(model, task, budget),
    )
    ablator = Ablator(model, task, ablation, size)
    batches = list(task.batches(size))
    report = Reporter(progress, len(chosen) * len(batches), "carrying sources")
    found: list[Carried] = []
    for batch in batches:
        if not report.going:
            found.append(_not_reached(len(chosen), len(batch)))
            continue
        prompts = Prompts.run(model, batch.clean.to(model.device), stream.attention_mask(model, batch), batch.lengths)
        values, metric = Baseline.of(ablator(batch)), targets.Metric(batch)
        found.append(carry(carrier, prompts, chosen, values, metric, budget=budget, report=report))
    return _joined(found, chosen, task.metric_name, task.metric_name, carrier.key, ablation)


def _not_reached(n: int, size: int) -> Carried:
    """What stands for a batch of prompts that a stop left out."""
    return torch.full((n, size), torch.nan), torch.full((size,), torch.nan), torch.zeros(n, dtype=torch.bool)


def _joined(
    found: Sequence[Carried], sources: Sequence[Source], target: str, unit: str, rule: str, baseline: str
) -> Contributions:
    """The batches as one."""
    values, whole, reached = zip(*found, strict=True)
    there = torch.cat([one[:, None].expand_as(of) for one, of in zip(reached, values, strict=True)], 1)
    names = tuple(source.name for source in sources)
    return Contributions(torch.cat(values, 1), torch.cat(whole), names, target, unit, rule, baseline, there)


def all_nodes(cfg: ModelConfig) -> list[str]:
    """Every head and MLP, layer by layer."""
    names = []
    for layer in range(cfg.n_layers):
        names += [f"a{layer}.h{head}" for head in range(cfg.n_heads)]
        names += [] if cfg.attn_only else [f"m{layer}"]
    return names


def source_of(places: str | Sequence[str], cfg: ModelConfig, name: str | None = None) -> Source:
    """One source of one place or several.

    Raises:
        ValueError: there is none, or one does not exist.
    """
    given = [places] if isinstance(places, str) else list(places)
    if not given:
        raise ValueError("There is no source: name at least one place, such as a9.h6, m4 or input@3.")
    return Source(name or " + ".join(given), tuple(parse(place, cfg) for place in given))


def sources_of(given: Sources, cfg: ModelConfig) -> list[Source]:
    """Several sources, with their names.

    Raises:
        ValueError: there is none, or one does not exist.
    """
    if isinstance(given, str):
        raise ValueError(f"Sources are a list of places, not one text; write ['{given}'].")
    named = given.items() if isinstance(given, Mapping) else [(None, places) for places in given]
    sources = [source_of(places, cfg, name) for name, places in named]
    if not sources:
        raise ValueError("There is no source: name at least one place, such as a9.h6, m4 or input@3.")
    return sources


def baseline_of(prompts: Prompts, given: str | Tensor) -> Baseline:
    """Values to compare sources with.

    Raises:
        ValueError: an unknown name, or tokens of another shape.
    """
    check_baseline(given, prompts.tokens)
    if isinstance(given, str) and given == "zero":
        return baselines.nothing(prompts.model)
    model, layers = prompts.model, range(prompts.model.cfg.n_layers)
    tokens = given.to(model.device) if isinstance(given, Tensor) else prompts.tokens
    z = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    mlp = [] if model.cfg.attn_only else [f"blocks.{layer}.hook_mlp_out" for layer in layers]
    resid = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
    with torch.no_grad():
        last, cache = model.run_with_cache(
            tokens, [*z, *mlp, *resid], attention_mask=prompts.mask, stop_at_layer=len(layers)
        )
    values = Baseline(
        [*(cache[name] for name in resid), last], [cache[name] for name in z], [cache[name] for name in mlp]
    )
    if isinstance(given, Tensor):
        return values
    places = torch.arange(prompts.width, device=prompts.lengths.device)
    real = places < prompts.lengths[:, None]
    if given == "rest" and prompts.width > 1:
        real = real & (places > 0)
    return baselines.mean_of(values, real)


def name_of(baseline: str | Tensor) -> str:
    """A baseline in a word."""
    return baseline if isinstance(baseline, str) else "other tokens"
