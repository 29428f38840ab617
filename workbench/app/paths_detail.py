"""Beside the lengths of paths: the answer and how the paths add up to it, and what was clicked."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from workbench.app import state
from workbench.app.model_detail import escaped
from workbench.figures import show_token
from workbench.figures.svg import number
from workbench.paths import Ensemble, mean_length

_MUCH = 5  # times the answer
_ABOUT = {
    "value": "What the model itself says.",
    "direct": "From the embedding straight to the answer, through no head and no MLP.",
    "biases": "Of paths that begin at a bias of a head or an MLP, and what the final norm and the unembedding add.",
}


def answer(ensemble: Ensemble) -> None:
    """What is read, and what of it is neither head nor MLP."""
    st.subheader("The answer")
    row = st.container(horizontal=True)
    row.metric(
        escaped(ensemble.target),
        number(float(ensemble.value.mean())),
        border=True,
        width="content",
        help=f"{_ABOUT['value']} In {ensemble.unit}.",
    )
    direct = number(float(ensemble.direct.mean()))
    row.metric("direct path", direct, border=True, width="content", help=_ABOUT["direct"])
    if ensemble.bias_by_length is not None and bool(ensemble.bias_by_length.any() or ensemble.readout_bias.any()):
        biases = float(ensemble.bias_by_length.sum() + ensemble.readout_bias.mean())
        row.metric("from biases", number(biases), border=True, width="content", help=_ABOUT["biases"])
    if ensemble.cancellation > _MUCH:
        st.caption(
            f"Lengths cancel: without their signs they sum to {number(ensemble.cancellation)} times the answer, so a "
            "single length says little by itself. A query that names a component says more."
        )


# -- what was clicked --------------------------------------------------------------------------------------------


def length(ensemble: Ensemble, chosen: str | None) -> None:
    """One bar: what it carries, how many paths it stands for, and the ways to them."""
    if chosen is None or chosen not in ensemble.labels:
        return
    at = ensemble.labels.index(chosen)
    rest = chosen.endswith("+")
    st.subheader(f"Length {chosen.removesuffix('+')}{' and more' if rest else ''}")
    row = st.container(horizontal=True)
    row.metric("carries", number(float(ensemble.by_length[at])), border=True, width="content", help=ensemble.unit)
    row.metric("paths", count(ensemble.counts[at]), border=True, width="content", help=_COUNT)
    if ensemble.bias_by_length is not None and bool(ensemble.bias_by_length[at]):
        biases = number(float(ensemble.bias_by_length[at]))
        row.metric("of it from biases", biases, border=True, width="content", help=_ABOUT["biases"])
    least = chosen.removesuffix("+")
    pattern = f".{{{least},}}" if rest else f".{{{least}}}"
    with st.container(horizontal=True):
        st.button("As a query", key="length-query", icon=":material/search:", on_click=to_query, args=(pattern,))
        if not rest and int(least):
            st.button(
                "Strongest up to it",
                key="length-top",
                icon=":material/route:",
                on_click=to_top,
                args=(int(least),),
                help="Single paths of at most this length, one by one.",
            )


def kind(ensemble: Ensemble, chosen: str | None) -> None:
    """One cell of the map: so many attentions and so many MLPs."""
    found = cell(chosen)
    if found is None or ensemble.kinds is None or max(found) >= len(ensemble.kinds) or sum(found) > ensemble.keep:
        return
    attentions, mlps = found
    st.subheader(f"{attentions} {_many('attention', attentions)}, {mlps} {_many('MLP', mlps)}")
    share = number(float(ensemble.kinds[attentions, mlps]))
    st.metric("carries", share, border=True, width="content", help=ensemble.unit)


def position(ensemble: Ensemble, names: Sequence[str], chosen: str | None) -> None:
    """All lengths at the position of a cell; at the answer's own where none was clicked."""
    if ensemble.by_position is None:
        return
    at = None if chosen is None else chosen.rpartition(",")[2]
    where = int(at) if at is not None and at.isdecimal() and int(at) < len(names) else _last(ensemble, names)
    st.subheader(f"After “{escaped(word(names[where]))}”")
    values = ensemble.by_position[:, where].tolist()
    st.caption(f"Position {where}; together {number(sum(values))} {ensemble.unit}.")
    _table([{"length": name, ensemble.unit: x} for name, x in zip(ensemble.labels, values, strict=True)], ensemble.unit)


def _last(ensemble: Ensemble, names: Sequence[str]) -> int:
    return ensemble.at[0] if ensemble.at else len(names) - 1


def table(ensemble: Ensemble) -> None:
    """Every length by number."""
    st.subheader("By number")
    rows: list[dict[str, object]] = []
    sofar = 0.0
    for i, name in enumerate(ensemble.labels):
        carried = float(ensemble.by_length[i])
        sofar += carried
        rows.append({"length": name, ensemble.unit: carried, "sum so far": sofar, "paths": count(ensemble.counts[i])})
    _table(rows, ensemble.unit, "sum so far")
    if not ensemble.truncated:
        st.caption(f"The mean path, each counted once, is {number(mean_length(ensemble.counts))} components long.")


def word(name: str) -> str:
    """A word as a label: nothing invisible in it, and no mark for the space before it."""
    return show_token(name.strip(), 24).replace("·", " ") if name.strip() else show_token(name)


def one_line(text: str) -> str:
    """A text without the spaces that belong to its tokens."""
    return " ".join(text.split())


_COUNT = "Paths from the embedding, heads told apart."


def count(n: int) -> str:
    """A number of paths, which can be astronomical."""
    if n < 10_000:
        return str(n)
    power = len(str(n)) - 1
    lead = round(n // 10 ** (power - 3) / 1000, 1)
    superscript = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{lead:g} · 10{superscript}"


def cell(chosen: str | None) -> tuple[int, int] | None:
    """The two numbers of a clicked cell; None where the address holds something else."""
    parts = (chosen or "").split(",")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 6 for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def to_query(pattern: str) -> None:
    """Turn to the Query view with a pattern; for callbacks."""
    st.session_state["pattern"] = pattern
    state.set_parameter("pattern", pattern)
    st.session_state["paths-view"] = "query"


def to_top(longest: int) -> None:
    """Turn to the strongest paths of at most a length; for callbacks."""
    for widget in [key for key in st.session_state if str(key).startswith("longest-")]:
        del st.session_state[widget]
    state.set_parameter("longest", str(longest))
    st.session_state["paths-view"] = "top"


def _many(what: str, n: int) -> str:
    return what if n == 1 else f"{what}s"


def _table(rows: list[dict[str, object]], *signed: str) -> None:
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        height=min(38 + 35 * len(rows), 480),
        column_config={name: st.column_config.NumberColumn(format="%+.3g") for name in signed},
    )
