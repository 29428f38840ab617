"""What pages call a run."""

from __future__ import annotations

from datetime import datetime

from workbench.app.model_detail import escaped
from workbench.runs import RunInfo

MARKS = {"done": "✓", "running": "…", "stopped": "◐", "interrupted": "◐", "failed": "✗"}


def title_of(info: RunInfo, markdown: bool = True) -> str:
    """What a run is called: its own title, else what it asked; escaped where the label is Markdown."""
    text = info.title
    if info.title == info.id:
        text = f"{info.task.get('name')} · {info.method} · {info.size}"
    return escaped(text) if markdown else text


def asked_of(info: RunInfo) -> str:
    """The line below a run's title: what it asked, as far as the title does not say it, of which model, on what."""
    own = [f"{info.task.get('name')} · {info.method} · {info.size}"] if info.title != info.id else []
    pairs = f"{info.task.get('n')} pairs" if info.task.get("n") is not None else ""
    return escaped(" · ".join(part for part in (*own, str(info.model.get("name") or ""), pairs) if part))


def when(info: RunInfo) -> str:
    """Status, model, when it was begun, and its id."""
    return f"{info.status} · {escaped(str(info.model.get('name')))} · {begun(info)} · `{info.id}`"


def begun(info: RunInfo) -> str:
    """When a run was begun, on this machine's clock."""
    try:
        return datetime.fromisoformat(info.created).astimezone().strftime("%d %B %Y, %H:%M")
    except ValueError:
        return info.created
