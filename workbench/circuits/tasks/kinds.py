"""What a model can be asked: words, a class, a vector, or what an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from workbench.models import Transformer
from workbench.models.registry import records as registry

Kind = Literal["decoder", "masked-lm", "classifier", "encoder", "vision"]
KIND_NAMES: dict[Kind, str] = {
    "decoder": "decoder",
    "masked-lm": "masked language model",
    "classifier": "classifier of text",
    "encoder": "sentence encoder",
    "vision": "vision model",
}
_REGISTERED: dict[Kind, registry.Kind] = {"decoder": "decoder", "encoder": "encoder", "vision": "vision"}
# Of these no model is bundled or fetched by name; any from the hub will do.
_ELSEWHERE: dict[Kind, str] = {
    "masked-lm": "any BertForMaskedLM or RobertaForMaskedLM",
    "classifier": "any BertForSequenceClassification or RobertaForSequenceClassification",
}


def kind_of(model: Transformer) -> Kind:
    """What sort of answer a model gives: the next word, a masked word, a class of a text or an image, or a vector."""
    cfg = model.cfg
    if cfg.image is not None:
        return "vision"
    if cfg.head == "none":
        return "encoder"
    if cfg.pooling != "none":
        return "classifier"
    return "decoder" if cfg.causal else "masked-lm"


def models_for(kinds: Sequence[Kind]) -> str:
    """Models of these kinds, in words: one by name for each."""
    named = {kind: registry.names(of)[0] for kind, of in _REGISTERED.items()}
    return " or ".join(named[kind] if kind in named else _ELSEWHERE[kind] for kind in kinds)


def refuse_other_kinds(name: str, kinds: Sequence[Kind], model: Transformer, instead: Sequence[str] = ()) -> None:
    """See that a task can be put to a model.

    Args:
        name: key of the task.
        kinds: kinds of model that it asks.
        model: the model.
        instead: tasks that this model can be asked.

    Raises:
        ValueError: it cannot; models that can be asked are named.
    """
    kind = kind_of(model)
    if kind not in kinds:
        asked = " or a ".join(KIND_NAMES[wanted] for wanted in kinds)
        other = f" (what {model.name} can be asked: {', '.join(instead)})" if instead else ""
        raise ValueError(
            f"The task '{name}' asks a {asked}, and {model.name} is a {KIND_NAMES[kind]}; "
            f"use {models_for(kinds)}{other}."
        )
