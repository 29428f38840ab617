"""The page that ``workbench app`` serves."""

from __future__ import annotations

import streamlit as st

from workbench.app import circuits


def main() -> None:
    """Lay out the pages."""
    st.set_page_config(page_title="workbench", page_icon=":material/hub:", layout="wide")
    pages = [st.Page(circuits.page, title="Circuits", icon=":material/hub:", url_path="circuits", default=True)]
    st.navigation(pages).run()


main()
