"""What the Paths page and the Lens page ask: the model, the input, and the answer; all of it stands in the address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from workbench import inspection
from workbench.app import state, task_prompts
from workbench.app.image import ask_image
from workbench.app.model_detail import escaped
from workbench.circuits.tasks.kinds import kind_of
from workbench.figures import show_token
from workbench.inspection import Given
from workbench.models import Transformer, registry

OWN = "own"
_USUAL = "ioi"
_PIXELS = 120
_HELP = (
    "The answer whose logit is read. The model's first answer is taken against its second: what raises both says "
    "nothing of the choice."
)


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        name: of the model, as it was asked for.
        model: the model.
        given: the input as the model reads it.
        subject: the text, or of an image the number of the sample or the name of the file.
        uploaded: whether it is an uploaded image, which no address can name.
        right: the answer as text or number; empty for the model's own first answer.
        wrong: what is subtracted; empty for nothing.
    """

    name: str
    model: Transformer
    given: Given
    subject: str
    uploaded: bool
    right: str = ""
    wrong: str = ""

    @property
    def shown(self) -> Mapping[str, str]:
        """The input as another page's address names it; empty where it cannot."""
        if self.uploaded or len(self.subject) > state.LONGEST:
            return {}
        if self.model.images is not None:
            return {"sample": self.subject}
        return {"tokens" if self.model.tokenizer is None else "text": self.subject}


def ask() -> Asked:
    """Draw the form.

    Raises:
        ValueError: the model or the input cannot be used; one sentence.
    """
    name, model = state.chosen_model()
    if model.cfg.head == "none":
        raise ValueError(f"{model.name} gives a vector and no answers; take a language model or a classifier.")
    pair: tuple[str, str] | None = None
    number: int | None = None
    if model.images is not None:
        given, number = ask_image(model, "paths-upload")
        subject = given.subject if number is None else str(number)
        _show(given)
    else:
        subject, pair = _text(model, name)
        given = inspection.read(model, subject)
    right, wrong = _target(model, given, pair)
    return Asked(name, model, given, subject, model.images is not None and number is None, right, wrong)


# -- the input -------------------------------------------------------------------------------------------------


def _show(given: Given) -> None:
    """The image as the model is shown it, its pixels sharp."""
    if given.image is None:
        return
    sharp = max(1, _PIXELS // given.image.shape[-1])
    pixels = given.image.repeat_interleave(sharp, 1).repeat_interleave(sharp, 2).permute(1, 2, 0).clamp(0, 1)
    st.image(pixels.cpu().numpy().squeeze(-1) if pixels.shape[-1] == 1 else pixels.cpu().numpy(), width=_PIXELS)


def _text(model: Transformer, name: str) -> tuple[str, tuple[str, str] | None]:
    """The text; and the answers that a task's prompt is about."""
    if model.tokenizer is None:
        return state.written("Token numbers", "0 1 2", "tokens"), None
    records = (
        {record.key: record.title for record in task_prompts.records(model)} if kind_of(model) == "decoder" else {}
    )
    if records:
        titles = {OWN: "my own text"} | records
        # A text in the address is meant to be read, though no task is named beside it.
        if _USUAL in records and state.parameter("text") is None:
            titles = {_USUAL: records[_USUAL]} | titles
        key = state.choice("Text from", titles, "from", "A prompt of a task, or any text.")
        if key != OWN:
            task = task_prompts.task(model, key)
            prompt = state.numbered("Prompt", task.clean_text, "prompt")
            st.caption(escaped(task.clean_text[prompt]))
            return task.clean_text[prompt], task_prompts.answers(model, task, prompt)
    known = registry.find(name).example if name in registry.names() else ""
    return state.written("Text", known or registry.MODELS[0].example, "text"), None


# -- the answer ------------------------------------------------------------------------------------------------


def _target(model: Transformer, given: Given, pair: tuple[str, str] | None) -> tuple[str, str]:
    """The answer that is explained, and what it is compared with."""
    titles: dict[str, str] = {}
    if pair is not None:
        titles["task"] = f"{show_token(pair[0].strip())} against {show_token(pair[1].strip())}"
    first = () if kind_of(model) == "masked-lm" else _first(model, given)
    if len(first) == 2:
        words = [show_token(text.strip() or text) for text, _ in first]
        titles["answer"] = f"its first answer, {words[0]}, against {words[1]}"
    titles |= {"alone": "its first answer alone"}
    titles |= {"class": "one class or another"} if model.cfg.pooling != "none" else {"tokens": "one token or another"}
    kind = state.choice("What is explained", titles, "explained", _HELP)
    if kind == "task" and pair is not None:
        return quoted(pair[0]), quoted(pair[1])
    if kind == "answer":
        return first[0][1], first[1][1]
    if kind == "tokens":
        row = st.columns(2)
        return _word(row[0], "Token", "right"), _word(row[1], "less", "wrong")
    return _classes(model) if kind == "class" else ("", "")


def quoted(piece: str) -> str:
    """A token's text as an answer's name: the space before a word belongs to it."""
    return f"'{piece}'"


@st.cache_resource(
    max_entries=64,
    show_spinner=False,
    hash_funcs={
        Transformer: task_prompts.identity,
        Given: lambda given: (given.subject, given.tensor.cpu().numpy().tobytes()),
    },
)
def _first(model: Transformer, given: Given) -> tuple[tuple[str, str], ...]:
    """The first two answers: as text, and as a request names them; empty where one of them has no name."""
    found = inspection.answers(model, inspection.look(model, given), k=2)
    if model.cfg.pooling != "none":
        return tuple((answer.text, answer.text if model.cfg.labels else str(answer.index)) for answer in found)
    if model.tokenizer is None:
        return tuple((str(answer.index), str(answer.index)) for answer in found)
    pieces = model.text.pieces([answer.index for answer in found])
    if not all(model.text.is_single(piece) for piece in pieces):  # a part of a letter's bytes
        return ()
    return tuple((piece, quoted(piece)) for piece in pieces)


def _word(column: Any, label: str, key: str) -> str:
    text: str | None = column.text_input(label, key=key, bind="query-params")
    return (text or "").strip()


def _classes(model: Transformer) -> tuple[str, str]:
    """One class and another."""
    names = [str(name) for name in model.cfg.labels or range(model.cfg.n_out)]
    row = st.columns(2)
    with row[0]:
        right = state.choice("Class", {name: name for name in names}, "right-class")
    with row[1]:
        others = {"": "nothing"} | {name: name for name in names if name != right}
        wrong = state.choice("less", others, "wrong-class")
    return right, wrong


# -- which view ------------------------------------------------------------------------------------------------
