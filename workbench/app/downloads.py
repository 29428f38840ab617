"""What the page shows, as files to take away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from workbench.export import FORMATS, Exportable, export


def downloads(files: Mapping[str, Exportable], stem: str, key: str = "download") -> None:
    """A choice of what and in which format, and a button.

    Args:
        files: what there is, by title; the first is the default.
        stem: start of the file's name.
        key: of the widgets, one for each page.
    """
    st.subheader("Download")
    what = st.selectbox("What", list(files), key=f"{key}-what")
    row = st.columns(2, vertical_alignment="bottom")
    bundle = files[what]
    usable = [f for f in FORMATS if f.needs != "circuit" or bundle.circuit is not None]
    chosen = row[0].selectbox(
        "Format", usable, key=f"{key}-format-{what}", format_func=lambda f: f.key.upper(), help=_formats()
    )
    suffix = "" if bundle.circuit is not None else f"-{what.lower().replace(' ', '-')}"

    def data() -> Any:
        return export(bundle, chosen.key)

    row[1].download_button(
        "Download",
        data,
        file_name=f"{stem}{suffix}{chosen.extension}",
        mime=chosen.mime,
        width="stretch",
        on_click="ignore",
    )


def _formats() -> str:
    return "; ".join(f"{f.key.upper()}: {f.title}" for f in FORMATS) + "."
