"""Parts of a model switched off with a click, and what becomes of the behaviour at once; the set is in the address."""

from __future__ import annotations

from typing import cast, get_args

import streamlit as st

from workbench import jobs
from workbench.app import state
from workbench.app.model_detail import escaped
from workbench.circuits import Task
from workbench.circuits.activations import Ablation
from workbench.figures import show_token
from workbench.figures.svg import number
from workbench.live import Effect, check_parts, switch_off
from workbench.models import Transformer
from workbench.runs import Run

# A bar has no room beside its number in these narrow columns.
_SHARE = st.column_config.NumberColumn(format="percent", width="small")
_MOST = 64  # parts in an address
# Prompts of a run that are taken, so that a click is answered at once; patching edges costs several times more.
_MOST_PROMPTS, _MOST_FOR_EDGES = 16, 6


def parts(run: Run) -> list[str]:
    """What the address says is off; what the run's model does not have is taken out of the address."""
    found = []
    for name in state.names("off")[:_MOST]:
        try:
            check_parts(run.graph, [name])
        except ValueError:
            continue
        found.append(name)
    state.set_names("off", found)
    return found


def switch(name: str, off: list[str]) -> None:
    """A button that switches a node or an edge off, or puts it back."""
    is_off = name in off
    label, icon = ("Put it back", ":material/undo:") if is_off else ("Ablate it now", ":material/power_settings_new:")
    said = "Every reader gets its ablated output." if "->" not in name else "This reader gets the ablated output."
    if st.button(label, key=f"switch-{name}", icon=icon, help=f"{said} The model is run at once."):
        state.set_names("off", [one for one in off if one != name] if is_off else [*off, name])
        st.rerun()


def panel(run: Run, off: list[str]) -> None:
    """What is off, and what that does."""
    if not off:
        return
    with st.container(border=True):
        st.markdown("**Switched off**")
        with st.container(horizontal=True):
            for name in off:
                if st.button(shown(name), key=f"back-{name}", icon=":material/close:", help="Put it back."):
                    state.set_names("off", [one for one in off if one != name])
                    st.rerun()
            if len(off) > 1 and st.button("Put all back", key="back-all", type="tertiary"):
                state.set_names("off", [])
                st.rerun()
        own = str(run.info.settings.get("ablation", "resample"))
        kinds = [own, *(kind for kind in get_args(Ablation) if kind != own)]
        kind = state.choice("They carry", {k: k for k in kinds}, "by", "What a part that is off gives its readers.")
        try:
            with st.spinner("Running the patched model ..."):
                effect = effect_of(run, tuple(off), kind, state.number("prompt"))
        except ValueError as error:
            st.warning(escaped(str(error)))
            return
        texts = run.info.prompts.get("clean", [])
        say(effect, number_of(state.number("prompt"), texts) if texts else None)


def number_of(prompt: int, texts: list[str]) -> int:
    """The number of a prompt as the address and a list of prompts mean it: the first where there are not so many."""
    return prompt if prompt < len(texts) else 0


def shown(name: str) -> str:
    """A part as its button says it."""
    return escaped(name.replace("->", " → "))


def effect_of(run: Run, off: tuple[str, ...], kind: str, prompt: int) -> Effect:
    """What switching parts of a run's model off does on its prompts.

    Raises:
        ValueError: the model is another by now, or its prompts cannot be made again.
    """
    model = state.model(run.info.load_name)
    jobs.check_same_model(run, model)
    task = _task(run, model)
    # A prompt that is not there is the first, as in the list of prompts.
    return _effect(run, model, off, kind, prompt if prompt < len(task) else 0)


@st.cache_resource(
    max_entries=4, show_spinner=False, hash_funcs={Run: lambda run: run.id, Transformer: lambda m: m.fingerprint}
)
def _task(run: Run, model: Transformer) -> Task:
    return jobs.task_of(run, model)


@st.cache_data(
    max_entries=64, show_spinner=False, hash_funcs={Run: lambda run: run.id, Transformer: lambda m: m.fingerprint}
)
def _effect(run: Run, model: Transformer, off: tuple[str, ...], kind: str, prompt: int) -> Effect:
    task = _task(run, model)
    # Means are over all prompts that are taken; the one that is shown must be among them.
    most = _MOST_FOR_EDGES if any("->" in part for part in off) else _MOST_PROMPTS
    start = max(0, prompt - most + 1)
    some = task.rows(start, start + most)
    return switch_off(model, some, off, cast(Ablation, kind), prompt=prompt - start)


def moved(change: float, unit: str = "") -> str | None:
    """A change as a metric takes it: its own minus, from which the arrow follows; None where nothing moved."""
    return f"{change:+.3g} {unit}".strip() if abs(change) > 5e-4 else None


def say(effect: Effect, prompt: int | None) -> None:
    """The metric and the top answers before and after.

    Args:
        effect: of switching parts off.
        prompt: number of the prompt whose answers are shown; None where prompts are no texts.
    """
    row = st.container(horizontal=True)
    row.metric(
        effect.unit,
        number(effect.after),
        moved(effect.after - effect.before),
        border=True,
        help=f"Mean over {effect.n_examples} pairs; {number(effect.before)} in the whole model.",
        width="content",
    )
    if not effect.answers:  # vectors: there is no right and wrong among them
        return
    if effect.accuracy_before is not None and effect.accuracy_after is not None:
        row.metric(
            "right above wrong",
            f"{effect.accuracy_after:.0%}",
            moved(100 * (effect.accuracy_after - effect.accuracy_before), "points"),
            border=True,
            help=f"{effect.accuracy_before:.0%} in the whole model.",
            width="content",
        )
    rows = [{"answer": show_token(one.text), "before": one.before, "after": one.after or 0.0} for one in effect.answers]
    st.dataframe(rows, hide_index=True, width="stretch", column_config={"before": _SHARE, "after": _SHARE})
    if prompt is not None:
        metric = f"{effect.unit} {number(effect.prompt_before)} before, {number(effect.prompt_after)} after"
        st.caption(escaped(f"The next token of prompt {prompt}: {metric}."))
