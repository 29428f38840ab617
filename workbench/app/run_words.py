"""What pages call a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from workbench.app.model_detail import escaped
from workbench.runs import RunInfo

MARKS = {"done": "✓", "running": "…", "stopped": "◐", "interrupted": "◐", "failed": "✗"}


def title_of(info: RunInfo, markdown: bool = True) -> str:
    """What a run is called: its own title, else what it asked; escaped where the label is Markdown."""
    text = info.title
    if info.title == info.id:
        text = f"{info.task.get('name')} · {info.method} · {info.size}"
    return escaped(text) if markdown else text


def titles_of(found: Sequence[RunInfo]) -> list[str]:
    """What runs in one list are called: those that would be called alike also say in what they differ."""
    named = [title_of(info) for info in found]
    return [
        name if named.count(name) == 1 else f"{name} · {escaped(_apart(info, [o for o in found if o is not info]))}"
        for name, info in zip(named, found, strict=True)
    ]


def _apart(info: RunInfo, others: Sequence[RunInfo]) -> str:
    """The first of a run's traits that no other run of that title has; else when it was begun."""
    alike = [other for other in others if title_of(other) == title_of(info)]
    for trait in (_model, _pairs, _ablation, _options):
        own = trait(info)
        if own and own not in map(trait, alike):
            return own
    return begun(info)


def _model(info: RunInfo) -> str:
    return Path(str(info.model.get("name") or "")).name


def _pairs(info: RunInfo) -> str:
    return f"{info.task.get('n')} pairs, seed {info.seed}"


def _ablation(info: RunInfo) -> str:
    return str(info.settings.get("ablation", ""))


def _options(info: RunInfo) -> str:
    return ", ".join(f"{name} {value}" for name, value in info.settings.get("options", {}).items())


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
        return datetime.fromisoformat(info.created).astimezone().strftime("%d %b %Y, %H:%M")
    except ValueError:
        return info.created
