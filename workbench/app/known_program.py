"""A learned program on the Known circuits page: its data flow, its file, how good it is, and a box to try it."""

from __future__ import annotations

import random
from typing import Any

import streamlit as st

from workbench import known_view
from workbench.app import known_detail, state
from workbench.app.downloads import downloads
from workbench.app.figure import show as show_figure
from workbench.app.layout import beside
from workbench.app.model_detail import escaped
from workbench.circuits.known.programs import BundledProgram
from workbench.circuits.known.registry import KnownModel

FLOW = "known-flow"  # key of the figure
_DRAWN = 20  # inputs


def show(record: KnownModel, program: BundledProgram) -> None:
    """The whole page below the choice of the model.

    Args:
        record: of the program.
        program: what it loads.
    """
    picture, side = beside("program")
    flow = known_view.program_picture(program)
    assert flow.figure is not None
    names = {one["id"] for kind in ("nodes", "edges") for one in flow.figure.data[kind]}
    selected = state.selected(FLOW, "part")
    with picture:
        st.subheader(escaped(f"{record.key}: {record.title}"))
        show_figure(flow.figure, FLOW, selected if selected in names else None, slider=False)
        known_detail.try_it(record.key, _example(program), lambda text: known_view.try_program(program, text))
    with side:
        _figures(program.card)
        if selected in names:
            _part(program, str(selected))
        else:
            st.info("Click a module to see its part of the program.", icon=":material/ads_click:")
        st.subheader(f"{program.task.module}.py")
        st.caption("The whole program; it needs nothing but Python.")
        st.code(program.text, language="python", height=420)
        st.download_button(
            "Download the program",
            program.text,
            file_name=f"{program.task.module}.py",
            mime="text/x-python",
            width="stretch",
            on_click="ignore",
        )
        downloads({"Data flow": flow}, record.key, "known-flow-download")


def _example(program: BundledProgram) -> str:
    """The first of a few drawn inputs on which the program is right: what it does comes before where it fails."""
    source = random.Random(0)
    drawn = [" ".join(program.task.draw(source)) for _ in range(_DRAWN)]
    return next((text for text in drawn if not known_view.try_program(program, text).errors), drawn[0])


def _figures(card: dict[str, Any]) -> None:
    """How often it is right, beside the paper."""
    row, figures = st.container(horizontal=True), card["figures"]
    row.metric(
        "answers right",
        f"{figures['accuracy']:.2%}",
        border=True,
        help="Of held-out inputs that nothing was chosen by.",
        width="content",
    )
    row.metric(
        "in the paper",
        f"{card['paper']:.2%}",
        border=True,
        help="Friedman, Wettig and Chen 2023, Table 1.",
        width="content",
    )
    st.caption(f"All answers are right in {figures['whole']:.2%} of the held-out inputs.")


def _part(program: BundledProgram, selected: str) -> None:
    """The function of the selected module, or who reads the selected variable."""
    if "->" in selected:
        source, _, reader = selected.partition("->")
        st.subheader(escaped(f"{source} → {reader}"))
        selected = reader
    else:
        st.subheader(escaped(selected))
    reads = [edge.split("->")[0] for edge in sorted(program.true_edges) if edge.endswith(f"->{selected}")]
    read = [edge.split("->")[1] for edge in sorted(program.true_edges) if edge.startswith(f"{selected}->")]
    for words, names in (("reads", reads), ("is read by", read)):
        if names:
            st.markdown(f"**{words}** " + ", ".join(f"`{name}`" for name in names))
    if function := known_view.source_of(program, selected):
        st.code(function, language="python", height=260 if function.count("\n") > 12 else "content")
