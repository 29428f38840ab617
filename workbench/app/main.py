"""The page that ``workbench app`` serves."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from workbench.app import known, layout, links, model


def main() -> None:
    """Lay out the pages."""
    # A file of ours: Streamlit would fetch a named icon for the browser's tab from another host.
    icon = Path(__file__).with_name("icon.png")
    st.set_page_config(page_title="workbench", page_icon=str(icon), layout="wide")
    st.html(layout.STYLE)
    pages = [
        links.page_of("circuits"),
        links.page_of("head"),
        links.page_of("attention"),
        links.page_of("decomposition"),
        links.page_of("paths"),
        links.page_of("lens"),
        st.Page(model.page, title="Model", icon=":material/deployed_code:", url_path="model"),
        st.Page(known.page, title="Known circuits", icon=":material/verified:", url_path="known"),
        links.page_of("runs"),
    ]
    st.navigation(pages).run()


main()
