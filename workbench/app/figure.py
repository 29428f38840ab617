"""A figure in the page: our SVG, clickable, in the theme's colours."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from workbench.figures import Figure, interaction_js
from workbench.figures.colours import DARK

# Figures read these variables; text and ground follow the theme, the rest is mixed from them.
_CSS = """
.wb-root {
  --wb-ground: var(--st-background-color);
  --wb-text: var(--st-text-color);
  --wb-muted: color-mix(in srgb, var(--st-text-color) 62%, var(--st-background-color));
  --wb-faint: color-mix(in srgb, var(--st-text-color) 16%, var(--st-background-color));
  --wb-node: color-mix(in srgb, var(--st-text-color) 92%, var(--st-background-color));
  --wb-node-text: var(--st-background-color);
  color: var(--st-text-color);
  font-family: var(--st-font);
}
.wb-canvas svg { width: 100%; height: auto; display: block; }
.wb-root .wb-node.wb-ablated { fill-opacity: 1; stroke-opacity: 1; }
.wb-root .wb-node.wb-ablated .wb-shape { fill: transparent; stroke: #D55E00; stroke-width: 2; stroke-dasharray: 3 2; }
.wb-root .wb-node.wb-ablated text { fill: #D55E00; }
.wb-root .wb-edge.wb-ablated { stroke: #D55E00; stroke-dasharray: 1 5; stroke-opacity: 0.9; }
.wb-root .wb-outline > * { fill: none; stroke: #56B4E9; stroke-width: 3; pointer-events: none; }
.wb-controls { display: flex; gap: 0.75rem; align-items: center; font-size: 0.85rem; margin-bottom: 0.25rem; }
.wb-controls[hidden] { display: none; }
.wb-controls input { flex: 1; accent-color: var(--st-primary-color); }
"""

_HTML = """
<div class="wb-root">
  <div class="wb-controls" hidden>
    <label for="wb-shown">strongest edges</label>
    <input id="wb-shown" class="wb-slider" type="range" min="1" step="1" aria-label="number of edges shown">
    <span class="wb-slider-count"></span>
  </div>
  <div class="wb-canvas"></div>
</div>
"""

# The SVG comes from our own figures, which escape every token; it is laid in as it is. A rerun with the same
# picture keeps the listeners and the slider where they are.
_JS = """
%s
const mounted = new WeakMap();
export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const root = parentElement.querySelector(".wb-root");
  let now = mounted.get(root);
  if (!now || now.svg !== data.svg) {
    if (now) now.handle.detach();
    root.querySelector(".wb-canvas").innerHTML = data.svg;
    const edges = root.querySelectorAll(".wb-edge").length;
    root.querySelector(".wb-controls").hidden = !data.slider || edges < 2;
    const slider = root.querySelector(".wb-slider");
    slider.max = String(Math.max(1, edges));
    const handle = attach(root, (id, kind) => setStateValue("selected", id === null ? null : { id, kind }));
    now = { svg: data.svg, handle };
    mounted.set(root, now);
    if (data.slider) handle.show(edges);
    // The page hears of the number once it is let go of.
    slider.onchange = () => setStateValue("shown", { edges: Number(slider.value) });
  }
  root.querySelector(".wb-canvas").style.maxWidth = data.widest ? `${data.widest}px` : "";
  for (const [name, colour] of Object.entries(data.colours)) root.style.setProperty(name, colour);
  const off = new Set(data.off);
  for (const mark of root.querySelectorAll(".wb-node, .wb-edge")) {
    mark.classList.toggle("wb-ablated", off.has(mark.dataset.id));
  }
  const chosen = new Set(data.chosen);
  for (const old of root.querySelectorAll(".wb-outline")) old.remove();
  for (const mark of root.querySelectorAll("[data-id]")) {
    mark.classList.toggle("wb-chosen", chosen.has(mark.dataset.id));
  }
  // Behind all marks, or their neighbours would cover a part of it. A copy: moving the mark itself would cost it the
  // focus, and its place in the order of the keyboard.
  for (const mark of root.querySelectorAll(".wb-chosen")) {
    const shape = mark.querySelector(".wb-shape, :scope > path:last-of-type");
    if (!shape) continue;
    const copy = mark.cloneNode(false);
    for (const name of [...copy.getAttributeNames()]) if (name !== "transform") copy.removeAttribute(name);
    copy.setAttribute("class", "wb-outline");
    copy.append(shape.cloneNode(false));
    mark.parentNode.append(copy);
  }
  now.handle.select(data.selected);
}
"""


# Brighter edges on a dark ground; the theme's own colours say nothing of these.
_ON_DARK = {f"--wb-{name}": DARK[name] for name in ("q", "k", "v", "mlp", "logits", "first", "second")}


def show(
    figure: Figure,
    key: str,
    selected: str | None = None,
    off: Sequence[str] = (),
    *,
    chosen: Sequence[str] = (),
    slider: bool = True,
    widest: int | None = None,
) -> None:
    """Show a figure; :func:`workbench.app.state.clicked` says what was clicked in it.

    Args:
        figure: what to show.
        key: of the component; the same place on the page keeps the same key.
        selected: id of the node or edge to lift.
        off: ids of nodes and edges that are switched off.
        chosen: ids of marks to outline, any number.
        slider: offer to show the strongest edges only.
        widest: pixels that it takes at most, for what needs no more; None for all the width that there is.
    """
    component = st.components.v2.component("wb_figure", html=_HTML, css=_CSS, js=_JS % interaction_js())
    colours = _ON_DARK if st.context.theme.type == "dark" else {}
    component(
        data={
            "svg": figure.svg,
            "selected": selected,
            "colours": colours,
            "off": list(off),
            "chosen": list(chosen),
            "slider": slider,
            "widest": widest,
        },
        key=key,
        on_selected_change=lambda: None,
        on_shown_change=lambda: None,
    )
