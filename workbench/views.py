"""From a run to its pictures: what the page shows and ``workbench export`` writes is made here, once."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from workbench.export import Exportable
from workbench.figures import (
    Picture,
    attention_pair,
    attention_pattern,
    circuit_graph,
    faithfulness_curve,
    head_grid,
    patch_attention,
    patch_grid,
)
from workbench.runs import Run

if TYPE_CHECKING:
    from workbench.circuits import Circuit, Evaluation
    from workbench.head import HeadLook
    from workbench.inspection import Comparison, Given, Look
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
    is_marked = run.info.settings.get("construction") == "marked"
    own = n_edges is None or (n_edges == run.info.n_edges and not is_marked)
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


def given_of(run: Run, model: Transformer, prompt: int, side: str = "clean") -> Given:
    """One prompt of a run as its model reads it.

    Raises:
        ValueError: there is no such prompt, or the prompts cannot be made again.
    """
    from workbench import inspection
    from workbench.remake import task_of

    text = prompt_of(run, prompt, side)
    if model.cfg.causal and model.images is None and model.tokenizer is not None:
        return inspection.read(model, text)
    # An image, or a text that is more than its words: with a mask, or without a tokenizer.
    task = task_of(run, model).rows(prompt, prompt + 1)
    tensor = (task.clean if side == "clean" else task.corrupted).to(model.device)
    if model.images is not None:
        return inspection.see(model, tensor, text)
    tokens = tensor[:, : int(task.lengths[0])]
    names = model.to_str_tokens(tokens[0]) if model.tokenizer is not None else [str(t) for t in tokens[0].tolist()]
    return inspection.Given(tokens, tuple(names), text)


def head_view(found: HeadLook, model: str, subject: str, *, mute_first: bool = False) -> Exportable:
    """The pattern of a head on any input; the data beside it are all that is known of the head there.

    Args:
        found: what was looked at.
        model: its name, for the caption.
        subject: the input in words, for the caption.
        mute_first: leave the first token out of the colour scale.
    """
    subject = subject if len(subject) <= 120 else f"{subject[:119]}…"
    figure = attention_pattern(
        found.pattern,
        list(found.names),
        caption=f"{model} · “{subject}”.",
        mute_first=mute_first,
        layer=found.layer,
        head=found.head,
        causal=found.causal,
    )
    return Exportable(None, figure, {"model": model, "input": subject, "head": found.to_json()})


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
    given = given_of(run, model, prompt, side)
    text, tokens, name = given.subject, list(given.names), f"blocks.{layer}.attn.hook_pattern"
    _, cache = model.run_with_cache(given.tensor, [name], stop_at_layer=layer + 1)
    patterns, causal = cache[name][0], model.cfg.causal
    caption = f"{run.info.model['name']} · {side} prompt {prompt} · run {run.id}."
    data: dict[str, Any] = {"layer": layer, "head": head, "tokens": tokens, "prompt": text}
    if head is None:
        figure = head_grid(patterns, tokens, caption=caption, layer=layer, mute_first=mute_first, causal=causal)
        data["patterns"] = patterns.tolist()
    else:
        pattern = patterns[head]
        where: dict[str, Any] = {"layer": layer, "head": head, "causal": causal}
        figure = attention_pattern(pattern, tokens, caption=caption, mute_first=mute_first, **where)
        data["pattern"] = pattern.tolist()
    return Exportable(None, figure, origin(run) | {"attention": data})


# -- one input in a model, and in the same model with another attention mechanism ------------------------------


def layer_view(
    found: Comparison,
    layer: int,
    *,
    selected: int | None = None,
    query: int = 0,
    mute_first: bool = False,
    after: bool = True,
) -> Exportable:
    """All heads of a layer as small multiples.

    Args:
        found: what was run.
        layer: from 0.
        selected: the head to outline.
        query: for an image, the position whose attention is shown.
        mute_first: leave the first token (for an image, all before the patches) out of the colour scale.
        after: show the changed model, where there is one.

    Raises:
        ValueError: there is no such layer or query.
    """
    shown = found.after if after and found.after is not None else found.before
    _check_place(found.before, layer, selected)
    patterns, caption = shown.patterns[layer], _caption(found, shown is found.after)
    if found.image is None or found.grid is None:
        figure = head_grid(
            patterns,
            shown.names,
            caption=caption,
            layer=layer,
            mute_first=mute_first,
            causal=shown.causal,
            selected=selected,
        )
    else:
        picture = Picture(found.image, found.grid, found.prefix)
        figure = patch_grid(
            picture,
            patterns,
            query=query,
            caption=caption,
            layer=layer,
            mute_prefix=mute_first,
            selected=selected,
        )
    return Exportable(None, figure, found.to_json() | {"layer": layer, "patterns": patterns.tolist()})


def swap_view(
    found: Comparison, layer: int, head: int | None, *, query: int = 0, mute_first: bool = False
) -> Exportable:
    """One head large, before and after side by side on one scale; for an image, over its patches.

    Args:
        found: what was run; without a swap there is one panel.
        layer: from 0.
        head: from 0; None for the mean of the layer's heads.
        query: for an image, the position whose attention is shown.
        mute_first: as in :func:`layer_view`.

    Raises:
        ValueError: there is no such head or query.
    """
    _check_place(found.before, layer, head)
    looks = {"before" if found.after is not None else "attention": found.before}
    if found.after is not None:
        looks[f"after: {found.swap}"] = found.after
    patterns = {
        name: one.patterns[layer].mean(0) if head is None else one.patterns[layer, head] for name, one in looks.items()
    }
    data = {"layer": layer, "head": head, "patterns": {name: one.tolist() for name, one in patterns.items()}}
    place: dict[str, Any] = {"caption": _caption(found, False), "layer": layer, "head": head}
    if found.image is not None and found.grid is not None:
        picture = Picture(found.image, found.grid, found.prefix)
        figure = patch_attention(picture, list(patterns.items()), query=query, mute_prefix=mute_first, **place)
    else:
        names, *shown = tuple(patterns), *patterns.values()
        place |= {"mute_first": mute_first, "causal": found.before.causal}
        tokens = found.before.names
        if len(shown) == 1:
            figure = attention_pattern(shown[0], tokens, **place)
        else:
            figure = attention_pair(shown[0], shown[1], tokens, names=(names[0], names[1]), **place)
    return Exportable(None, figure, found.to_json() | data)


def _check_place(look: Look, layer: int, head: int | None) -> None:
    layers, heads = look.patterns.shape[:2]
    if not 0 <= layer < layers or (head is not None and not 0 <= head < heads):
        raise ValueError(
            f"There is no {'layer' if head is None else 'head'} {layer}{'' if head is None else f'.{head}'}: "
            f"the model has layers 0 to {layers - 1} and heads 0 to {heads - 1}."
        )


def _caption(found: Comparison, is_swapped: bool) -> str:
    """Model, input and mechanism, in one line."""
    subject = found.subject if len(found.subject) <= 120 else f"{found.subject[:119]}…"
    parts = [found.model, f"“{subject}”" if found.image is None else subject]
    return " · ".join([*parts, *([found.swap] if is_swapped else [])]) + "."
