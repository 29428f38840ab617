"""What the Decomposition page asks: the model, the input, the target and the rule; all of it stands in the address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from workbench import decomposing, inspection
from workbench.app import state, task_prompts
from workbench.app.image import ask_image
from workbench.app.model_detail import escaped
from workbench.circuits.decomposition import RULES
from workbench.circuits.tasks.kinds import Kind, kind_of
from workbench.decomposing import Request
from workbench.figures import show_token
from workbench.inspection import Given
from workbench.models import Transformer, registry

OWN = "own"
_EXAMPLE = registry.MODELS[0].example
_SECOND = "The central bank increased its interest rates."

RULE_WORDS = {
    "shapley": "Where two things are multiplied or bent together, each side gets half of what they do together.",
    "exact": "What is lost when the source is taken away: activation patching, with all that stands in for it.",
    "tangent": "A gradient times what the source writes: how fast the target moves if the source grows a little.",
    "frozen": "Attention patterns, norms and gates stay as they are; only what flows through them counts.",
    "paper": "CD-T as it was published; kept to compare.",
}
"""The rules in a sentence each."""

_HELP = (
    "The target: what contributions add to. Its own answer is taken against the runner-up; a place is what a "
    "head, an MLP or a stream computes."
)
_PLACE = "a place in the model"
_TARGETS: dict[str, dict[str, str]] = {
    "decoder": {"answer": "its own next token", "tokens": "one token or another", "place": _PLACE},
    "class": {"answer": "its own class", "class": "one class or another", "place": _PLACE},
    "encoder": {"answer": "the similarity", "place": _PLACE},
}


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        model: the model.
        given: the input as the model reads it.
        uploaded: the input again where it is an uploaded image, which a request cannot name.
        request: everything else; sources are the view's.
    """

    model: Transformer
    given: Given
    uploaded: Given | None
    request: Request


def ask() -> Asked:
    """Draw the form.

    Raises:
        ValueError: the model or the input cannot be used; one sentence.
    """
    name, model = state.chosen_model()
    uploaded: Given | None = None
    answers: tuple[str, str] | None = None
    if model.images is not None:
        given, number = ask_image(model, "decomposition-upload")
        uploaded = given if number is None else None
        request = Request(name, image=given.subject if number is None else str(number))
    else:
        request, answers = _text(model, name)
        given = inspection.read(model, request.text)
    target = _target(model, answers)
    if target:
        request = replace(request, other="")  # a second text is compared by similarity alone
    rule, baseline = _rule()
    return Asked(model, given, uploaded, replace(request, target=target, rule=rule, baseline=baseline))


# -- the input -------------------------------------------------------------------------------------------------


def _text(model: Transformer, name: str) -> tuple[Request, tuple[str, str] | None]:
    """The text, the second sentence of an encoder; and the answers that a task's prompt is about."""
    if model.tokenizer is None:
        return Request(name, text=state.written("Token numbers", "0 1 2", "tokens")), None
    kind = kind_of(model)
    example = (registry.find(name).example if name in registry.names() else "") or _EXAMPLE
    if kind == "decoder" and (records := task_prompts.records(model)):
        titles = {OWN: "my own text"} | {record.key: record.title for record in records}
        key = state.choice("Text from", titles, "from", "A prompt of a task, or any text.")
        if key != OWN:
            task = task_prompts.task(model, key)
            prompt = state.numbered("Prompt", task.clean_text, "prompt")
            return Request(name, text=task.clean_text[prompt]), task_prompts.answers(model, task, prompt)
    text = state.written("Text", example, "text")
    other = state.written("Second sentence", _SECOND, "other") if kind == "encoder" else ""
    return Request(name, text=text, other=other), None


# -- the target and the rule -----------------------------------------------------------------------------------


def explain(place: str) -> None:
    """Make a place the target; for the callback of a button."""
    st.session_state["explained"], st.session_state["place"] = "place", place


def _target(model: Transformer, answers: tuple[str, str] | None) -> str:
    """What is explained."""
    kinds: dict[Kind, str] = {"vision": "class", "classifier": "class", "encoder": "encoder"}
    titles = dict(_TARGETS[kinds.get(kind_of(model), "decoder")])
    if answers is not None:
        titles = {"task": f"{show_token(answers[0].strip())} against {show_token(answers[1].strip())}"} | titles
    kind = state.choice("What is explained", titles, "explained", _HELP)
    if kind == "task" and answers is not None:
        return f"logit: '{answers[0]}' - '{answers[1]}'"  # quoted, for the space before a word belongs to it
    if kind == "tokens":
        row = st.columns(2)
        right, wrong = _word(row[0], "Token", "right"), _word(row[1], "less", "wrong")
        return "" if not right else f"logit: {right} - {wrong}" if wrong else f"logit: {right}"
    if kind == "class":
        return _classes(model)
    if kind == "place":
        layer = 2 * model.cfg.n_layers // 3
        return _place(f"a{layer}.h0<q>")
    return ""


def _word(column: Any, label: str, key: str) -> str:
    text: str | None = column.text_input(label, key=key, bind="query-params")
    return (text or "").strip()


def _classes(model: Transformer) -> str:
    """One class and another."""
    names = [*(model.cfg.labels or map(str, range(model.cfg.n_out)))]
    row = st.columns(2)
    with row[0]:
        right = state.choice("Class", {str(name): str(name) for name in names}, "right-class")
    with row[1]:
        others = {"": "nothing"} | {str(name): str(name) for name in names if str(name) != right}
        wrong = state.choice("less", others, "wrong-class")
    return f"class: {right} - {wrong}" if wrong else f"class: {right}"


def _place(example: str) -> str:
    """A place in the model; what the address says, else an example."""
    if "place" not in st.session_state:
        st.session_state["place"] = state.parameter("place") or example
    text = st.text_input(
        "Place",
        key="place",
        help="a9.h6 is what head 6 of layer 9 writes, a9.h6<q> its queries (k keys, v values), m4 an MLP, resid7 the "
        "stream that enters layer 7; @-1 behind it means the last position alone.",
    )
    state.set_parameter("place", text)
    return str(text).strip()


def _rule() -> tuple[str, str]:
    """The rule and the baseline; the usual ones are the first."""
    records = {rule.key: rule for rule in RULES}
    key = state.choice(
        "Rule",
        _usual_first({key: rule.title for key, rule in records.items()}, decomposing.RULE),
        "rule",
        "How contributions pass what is not linear.",
    )
    st.caption(escaped(f"{RULE_WORDS.get(key, '')} {records[key].reference}."))
    baseline = state.choice(
        "Sources compared with",
        _usual_first(decomposing.BASELINES, decomposing.BASELINE),
        "against",
        "What stands in a source's place without it. The mean leaves out the first position of a causal model, where "
        "activations can be hundreds of times as large.",
    )
    return key, baseline


def _usual_first(titles: Mapping[str, str], usual: str) -> dict[str, str]:
    return {usual: titles[usual]} | dict(titles)
