"""Prompts of the tasks that a model can do, for pages that offer them beside a text of one's own."""

from __future__ import annotations

import streamlit as st

from workbench.circuits import Task, tasks
from workbench.circuits.tasks.registry import TaskRecord
from workbench.models import Transformer

_PROMPTS = 8  # of each task


def identity(model: Transformer) -> tuple[str, int]:
    """What tells a model from others in a cache."""
    return model.name, id(model)


@st.cache_resource(max_entries=8, show_spinner=False, hash_funcs={Transformer: identity})
def records(model: Transformer) -> list[TaskRecord]:
    """The tasks that fit a model."""
    return tasks.for_model(model)


@st.cache_resource(max_entries=16, show_spinner=False, hash_funcs={Transformer: identity})
def task(model: Transformer, key: str) -> Task:
    """A few prompts of a task."""
    return tasks.load(key, model, n=_PROMPTS)


def answers(model: Transformer, asked: Task, prompt: int) -> tuple[str, str] | None:
    """The right and the wrong next token of a prompt, where there is one of each."""
    right, wrong = set(asked.right[prompt].tolist()), set(asked.wrong[prompt].tolist())
    if len(right) != 1 or len(wrong) != 1:
        return None
    return model.text.pieces([*right])[0], model.text.pieces([*wrong])[0]
