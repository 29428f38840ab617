"""From a run to its pictures: what the page shows and ``workbench export`` writes is made here, once."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from workbench.export import Exportable
from workbench.figures import attention_pattern, circuit_graph, faithfulness_curve, head_grid
from workbench.runs import Run

if TYPE_CHECKING:
    from workbench.circuits import Circuit, Evaluation
    from workbench.models import Transformer


def origin(run: Run) -> dict[str, Any]:
    """Where a result comes from, without the result itself."""
    return {key: value for key, value in run.info.to_json().items() if key not in ("folder", "curve", "prompts", "pid")}


def circuit_view(run: Run, n_edges: int | None = None) -> Exportable:
    """The circuit graph of a run.

    Args:
        run: with scores.
        n_edges: edges before pruning; None for as many as the run asked for.

    Raises:
        ValueError: more edges than the graph has, or the run has no scores.
    """
    circuit = run.circuit(n_edges)
    own = n_edges in (None, run.info.n_edges)
    caption = f"{run.info.caption if own else run.info.short_caption} · run {run.id}"
    title = _finding(circuit, run.report) if own else None
    figure = circuit_graph(circuit, title=title, caption=caption, unit=run.info.prompts.get("metric", "metric"))
    return Exportable(circuit, figure, origin(run))


def _finding(circuit: Circuit, report: Evaluation | None) -> str | None:
    """What the run found, in one line; None where the circuit was not run."""
    if report is None or math.isnan(report.faithfulness):
        return None
    graph = circuit.graph
    heads = f"{len(circuit.heads)} of {graph.n_layers * graph.n_heads} heads"
    return f"{circuit.n_edges:,} edges between {heads} keep {report.faithfulness:.0%} of the behaviour"


def curve_view(run: Run) -> Exportable:
    """The faithfulness curve of a run.

    Raises:
        ValueError: the run has none.
    """
    curve = run.curve
    if curve is None:
        raise ValueError(f"Run '{run.id}' has no faithfulness curve; discover it again with one.")
    figure = faithfulness_curve(curve, caption=f"{run.info.short_caption} · run {run.id}.")
    return Exportable(None, figure, origin(run) | {"curve": asdict(curve)})


def prompt_of(run: Run, prompt: int, side: str = "clean") -> str:
    """One prompt of a run, counted from 0.

    Raises:
        ValueError: there is no such prompt.
    """
    texts: list[str] = run.info.prompts.get(side, [])
    if not 0 <= prompt < len(texts):
        raise ValueError(f"Run '{run.id}' has the prompts 0 to {len(texts) - 1}, not {prompt}.")
    return texts[prompt]


def attention_view(
    run: Run,
    model: Transformer,
    layer: int,
    head: int | None,
    *,
    prompt: int = 0,
    side: str = "clean",
    mute_first: bool = False,
) -> Exportable:
    """What a head (or every head of a layer) attends to on one prompt of a run.

    Args:
        run: with prompts.
        model: the run's model.
        layer: from 0.
        head: from 0; None for all heads of the layer side by side.
        prompt: which prompt, from 0.
        side: ``clean`` or ``corrupted``.
        mute_first: leave the first token out of the colour scale, for heads that park their attention on it.

    Raises:
        ValueError: there is no such prompt or head.
    """
    if not 0 <= layer < model.cfg.n_layers or (head is not None and not 0 <= head < model.cfg.n_heads):
        raise ValueError(
            f"There is no head {layer}.{head}: {model.name} has layers 0 to {model.cfg.n_layers - 1} "
            f"and heads 0 to {model.cfg.n_heads - 1}."
        )
    text = prompt_of(run, prompt, side)
    name = f"blocks.{layer}.attn.hook_pattern"
    _, cache = model.run_with_cache(model.to_tokens(text), [name], stop_at_layer=layer + 1)
    tokens, patterns = model.to_str_tokens(text), cache[name][0]
    caption = f"{run.info.model['name']} · {side} prompt {prompt} · run {run.id}."
    data: dict[str, Any] = {"layer": layer, "head": head, "tokens": tokens, "prompt": text}
    if head is None:
        figure = head_grid(patterns, tokens, caption=caption, layer=layer, mute_first=mute_first)
        data["patterns"] = patterns.tolist()
    else:
        pattern = patterns[head]
        figure = attention_pattern(pattern, tokens, caption=caption, layer=layer, head=head, mute_first=mute_first)
        data["pattern"] = pattern.tolist()
    return Exportable(None, figure, origin(run) | {"attention": data})
