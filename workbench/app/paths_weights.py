"""The last view of the Paths page: components cut or weighted in what the final norm reads, with what that changes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import streamlit as st
import torch
from torch import Tensor

from workbench import figures
from workbench.app import paths_work as work
from workbench.app import state
from workbench.app.model_detail import escaped
from workbench.app.paths_detail import one_line, word
from workbench.app.paths_search import head_links
from workbench.app.paths_shown import Shown
from workbench.circuits.decomposition.answers import answer_name
from workbench.figures.svg import number
from workbench.lens import DirectAttribution
from workbench.models import Transformer

_LEVELS: dict[str, str] = {"sublayer": "attentions and MLPs", "head": "heads and MLPs"}
_MOST = 2.0
_ANSWERS = 8
_SMALL = 1e-3
_BARS = "paths-direct"
_TURN = "paths-weights-turn"  # another table after weights were set elsewhere
_APART = ";"
_ABOUT = (
    "Each component's part of what the final norm reads is multiplied by its weight: 0 cuts it, 1 leaves it, 2 counts "
    "it twice. Later components still read it as it is. The norm then takes the scale of the new sum."
)


def weights(shown: Shown) -> None:
    """The table of weights, and the answers before and after."""
    asked = shown.asked
    level: Any = state.choice("Weigh", _LEVELS, "level", _ABOUT)
    try:
        names = work.components(asked.model, level)
    except ValueError as error:
        st.error(escaped(str(error)))
        return
    split = work.direct(asked)
    if split is None:
        return
    parts = by_component(split, names)
    told = _told(names)
    told = _clicked(told, parts)
    with shown.side:
        told = _table(parts, told, level)
    before, after = work.weighted(asked, level, {}), work.weighted(asked, level, told)
    if before is None or after is None:
        return
    _effect(shown, split, before, after, told)
    chosen = [name for name, weight in told.items() if weight != 1]
    bars = sorted(parts.items(), key=lambda one: -abs(one[1]))
    caption = f"{asked.model.name} · {one_line(split.target)} · direct contributions with the final norm's scale held."
    figure = figures.signed_bars(bars, unit="logits", whole=float(split.whole[0]), selected=chosen, caption=caption)
    shown.draw("Direct contributions", figure, _key(_BARS), {"direct": parts, "weights": told})
    st.caption("Click a bar to cut it, again to bring it back.")
    if len(chosen) == 1:
        with shown.side:
            head_links(shown, chosen[0])


def by_component(split: DirectAttribution, names: tuple[str, ...]) -> dict[str, float]:
    """What each component gives the answer directly, at the level of the names; biases go with their component."""
    found = dict.fromkeys(names, 0.0)
    for name, value in zip(split.components, split.values[:, 0].tolist(), strict=True):
        bare = name.removeprefix("bias ")
        home = next((one for one in (name, bare, bare.partition(".")[0]) if one in found), None)
        if home is not None:
            found[home] += value
    return found


# -- weights -----------------------------------------------------------------------------------------------------


def _key(name: str) -> str:
    return f"{name}-{st.session_state.get(_TURN, 0)}"


def _told(names: tuple[str, ...]) -> dict[str, float]:
    """The weights so far, by component; at first those in the address. The rest have weight 1."""
    kept: dict[str, float] | None = st.session_state.get("paths-weights")
    if kept is None:
        kept = parsed(state.parameter("weights") or "")
    return {name: weight for name, weight in kept.items() if name in names}


def parsed(text: str) -> dict[str, float]:
    """Weights as the address has them, ``a3:0;m5:1.5``; what is none is left out."""
    found: dict[str, float] = {}
    for one in text.split(_APART):
        name, _, value = one.partition(":")
        try:
            weight = float(value)
        except ValueError:
            continue
        if math.isfinite(weight):
            found[name] = min(max(weight, 0.0), _MOST)
    return found


def _clicked(told: Mapping[str, float], parts: Mapping[str, float]) -> dict[str, float]:
    """A bar that was just clicked is cut, or brought back."""
    key = _key(_BARS)
    click = state.clicked(key)
    found = dict(told)
    if click is not None and click in parts and click != st.session_state.get(f"seen-{key}"):
        found[click] = 0.0 if found.get(click, 1.0) != 0 else 1.0
        _set(found)
    st.session_state[f"seen-{key}"] = click
    return found


def _set(told: Mapping[str, float]) -> None:
    """Other weights than those typed in; the table begins anew from them."""
    st.session_state["paths-weights"] = {name: weight for name, weight in told.items() if weight != 1}
    st.session_state[_TURN] = st.session_state.get(_TURN, 0) + 1


def _table(parts: Mapping[str, float], told: Mapping[str, float], level: str) -> dict[str, float]:
    """A row for each component, the strongest first, with its weight to edit."""
    st.subheader("Weights", help=_ABOUT)
    against = {name: 0.0 for name, value in parts.items() if value < 0}
    with st.container(horizontal=True):
        help = "All components that give the answer something negative directly get weight 0."
        st.button("Cut what speaks against it", key="cut-negative", on_click=_set, args=(against,), help=help)
        st.button("All back to 1", key="weights-back", on_click=_set, args=({},))
    order = sorted(parts, key=lambda name: -abs(parts[name]))
    # A table that is edited must be given the same rows again, or its edits are lost: it keeps those of its turn.
    key = f"{_key('weights')}-{level}-{zlib.crc32(' '.join(order).encode())}"
    if key not in st.session_state:
        st.session_state["paths-weights-base"] = dict(told)
    base = st.session_state["paths-weights-base"]
    rows = [{"component": name, "direct": parts[name], "weight": base.get(name, 1.0)} for name in order]
    edited: Any = st.data_editor(
        rows,
        key=key,
        hide_index=True,
        width="stretch",
        height=min(38 + 35 * len(rows), 420),
        disabled=["component", "direct"],
        column_config={
            "direct": st.column_config.NumberColumn(format="%+.3g", help="What it adds to the answer, in logits."),
            "weight": st.column_config.NumberColumn(min_value=0.0, max_value=_MOST, step=0.05, help=_ABOUT),
        },
    )
    found = {row["component"]: 1.0 if row["weight"] is None else float(row["weight"]) for row in edited}
    found = {name: weight for name, weight in found.items() if weight != 1}
    st.session_state["paths-weights"] = found
    said = _APART.join(f"{name}:{weight:g}" for name, weight in found.items())
    state.set_parameter("weights", said if said and len(said) <= state.LONGEST else None)
    return found


# -- what it changes ---------------------------------------------------------------------------------------------


def _effect(shown: Shown, split: DirectAttribution, before: Tensor, after: Tensor, told: Mapping[str, float]) -> None:
    """The answer's logit, and the probabilities of the first answers, before and after."""
    right = int(split.right[0])
    wrong = None if split.wrong is None else int(split.wrong[0])
    was, now = _said(before, right, wrong), _said(after, right, wrong)
    row = st.container(horizontal=True)
    row.metric(
        escaped(one_line(split.target)),
        number(now),
        delta=None if not told else f"{now - was:+.3g}",
        border=True,
        width="content",
        help=f"In logits; {number(was)} with all weights 1.",
    )
    old, new = before.softmax(-1), after.softmax(-1)
    name = _name(shown.asked.model, right)
    row.metric(
        f"probability of {escaped(name)}",
        _share(new[right]),
        delta=None if not told else f"{100 * float(new[right] - old[right]):+.3g} points",
        border=True,
        width="content",
    )
    row.metric("rank", str(_rank(after, right)), border=True, width="content", help=f"{_rank(before, right)} before.")
    ids = sorted({right, *([] if wrong is None else [wrong]), *_best(old), *_best(new)}, key=lambda i: -float(old[i]))
    rows = [(_name(shown.asked.model, i), float(old[i]), float(new[i]), math.nan, math.nan) for i in ids]
    caption = f"{shown.asked.model.name} · first answers, all weights 1 and as in the table."
    moved = f"“{name}” goes from {_share(old[right])} to {_share(new[right])}"
    title = moved if told else f"“{name}” has a probability of {_share(old[right])}; no weight is changed yet"
    figure = figures.before_after(rows, unit="probability", better=None, title=title, caption=caption)
    data = {"weights": dict(told), "answers": [{"answer": n, "before": b, "after": a} for n, b, a, *_ in rows]}
    shown.draw("Answers", figure, "paths-answers", data)


def _said(logits: Tensor, right: int, wrong: int | None) -> float:
    return float(logits[right] - (0 if wrong is None else logits[wrong]))


def _best(probabilities: Tensor) -> list[int]:
    found: list[int] = probabilities.topk(min(_ANSWERS // 2 + 1, len(probabilities))).indices.tolist()
    return found


def _rank(logits: Tensor, right: int) -> int:
    return 1 + int(torch.count_nonzero(logits > logits[right]))


def _name(model: Transformer, index: int) -> str:
    return word(answer_name(model, index))


def _share(probability: Tensor) -> str:
    return f"{float(probability):.1%}" if float(probability) >= _SMALL else f"{100 * float(probability):.1g}%"
