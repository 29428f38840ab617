"""How pages are laid out: the picture has the width that there is, and what belongs to it stands beside or below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

# Below this width of the window a picture beside its details is too small to be read.
_NARROW = 1280

# Room for pictures below the bar; the main button of a page within the first screen; long words in buttons wrap.
STYLE = f"""
<style>
.stMainBlockContainer {{ padding: 3.5rem 2rem 3rem; }}
[data-testid=stSidebarHeader] {{ height: 2.5rem; margin-bottom: 0; }}
[data-testid=stSidebarUserContent] [data-testid=stVerticalBlock] {{ gap: 0.7rem; }}
[data-testid=stPageLink] p {{ white-space: normal; overflow: visible; }}
.st-key-runs-list button, .st-key-runs-list button > div {{ justify-content: flex-start; text-align: left; }}
.st-key-runs-list button > div {{ width: 100%; }}
@media (max-width: {_NARROW}px) {{
  [class*=st-key-beside] > [data-testid=stLayoutWrapper] > [data-testid=stHorizontalBlock] {{ flex-wrap: wrap; }}
  [class*=st-key-beside] > [data-testid=stLayoutWrapper] > [data-testid=stHorizontalBlock]
    > [data-testid=stColumn] {{ min-width: 100%; }}
}}
</style>
"""


def beside(key: str, *, halves: bool = False) -> tuple[DeltaGenerator, DeltaGenerator]:
    """A place for the picture and one for what belongs to it: beside each other, or below where the window is narrow.

    Args:
        key: of the place, one for each page.
        halves: both are pictures and get as much room.
    """
    with st.container(key=f"beside-{key}"):
        left, right = st.columns(2 if halves else [3, 2], gap="medium")
    return left, right
