"""A figure of the Known circuits page: clickable, and without the slider for the strongest edges.

Which edges are compared is the page's own choice there, and edges of a data flow have no strength.
"""

from __future__ import annotations

import streamlit as st

from workbench.app.figure import _CSS, _ON_DARK
from workbench.figures import Figure, interaction_js

_HTML = """
<div class="wb-root"><div class="wb-canvas"></div></div>
"""

# As in workbench.app.figure: our own SVG, in which every text is escaped; the same picture keeps its listeners.
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
    const handle = attach(root, (id, kind) => setStateValue("selected", id === null ? null : { id, kind }));
    now = { svg: data.svg, handle };
    mounted.set(root, now);
  }
  for (const [name, colour] of Object.entries(data.colours)) root.style.setProperty(name, colour);
  now.handle.select(data.selected);
}
"""


def show(figure: Figure, key: str, selected: str | None = None) -> None:
    """Show a figure; :func:`workbench.app.state.clicked` says what was clicked in it.

    Args:
        figure: what to show.
        key: of the component; the same place on the page keeps the same key.
        selected: id of the node or edge to lift.
    """
    component = st.components.v2.component("wb_known_figure", html=_HTML, css=_CSS, js=_JS % interaction_js())
    colours = _ON_DARK if st.context.theme.type == "dark" else {}
    component(
        data={"svg": figure.svg, "selected": selected, "colours": colours},
        key=key,
        on_selected_change=lambda: None,
    )
