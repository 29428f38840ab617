"""From one page to another, with what the other is to show."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from workbench.app.state import LONGEST

Where = Literal["circuits", "head", "attention", "decomposition", "paths", "lens", "runs"]


def page_of(where: Where) -> Any:
    """The page as the navigation knows it: pages are told apart by their path."""
    # Each page links to the others.
    from workbench.app.attention import page as attention
    from workbench.app.circuits import page as circuits
    from workbench.app.decomposition import page as decomposition
    from workbench.app.head import page as head
    from workbench.app.lens import page as lens
    from workbench.app.paths import page as paths
    from workbench.app.runs import page as runs

    made = {
        "circuits": circuits,
        "head": head,
        "attention": attention,
        "decomposition": decomposition,
        "paths": paths,
        "lens": lens,
        "runs": runs,
    }
    titles = {key: key.capitalize() for key in made}
    icons = {
        "circuits": ":material/hub:",
        "head": ":material/center_focus_strong:",
        "attention": ":material/grid_view:",
        "decomposition": ":material/call_split:",
        "paths": ":material/route:",
        "lens": ":material/layers:",
        "runs": ":material/history:",
    }
    return st.Page(made[where], title=titles[where], icon=icons[where], url_path=where, default=where == "circuits")


def link(label: str, where: Where, *, help: str | None = None, icon: str | None = None, **parameters: str) -> None:
    """A link to a page at an address."""
    st.page_link(page_of(where), label=label, help=help, icon=icon, query_params=parameters)


def what_feeds(model: str, layer: int, head: int, at: str = "-1", **shown: str) -> None:
    """A link to what the words, heads and MLPs give to a head's queries.

    Args:
        model: name of the model.
        layer, head: of the head.
        at: position of the queries, as in the name of a place.
        shown: the input in the address: ``text``, ``tokens`` by number, or ``sample`` of a vision model.
    """
    if any(len(value) > LONGEST for value in shown.values()):
        return
    place = {"look-at": model, "explained": "place", "place": f"a{layer}.h{head}<q>@{at}", "from": "own"}
    about = "What words, heads and MLPs give to its queries."
    link("What feeds it", "decomposition", help=about, icon=":material/call_split:", **place, **shown)


def go(where: Where, **parameters: str) -> None:
    """Turn to a page at an address."""
    st.switch_page(page_of(where), query_params=parameters)
