"""The script that makes a figure answer clicks; the app and the HTML export use the same one."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def interaction_js() -> str:
    """JavaScript that defines ``attach(root, onSelect)``; see ``interaction.js`` beside this file."""
    return files(__package__).joinpath("interaction.js").read_text(encoding="utf-8")
