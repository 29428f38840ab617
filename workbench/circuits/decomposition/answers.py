"""Targets as a person writes them: ``logit: Mary - John``, ``class: 7``, ``similarity``, ``a9.h6<q>@-1``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workbench.circuits.decomposition.targets import Logits, Node, Similarity, Target, node
from workbench.models import Transformer
from workbench.models.lookup import pick
from workbench.models.sentences import sentence_embeddings

_WRITTEN = re.compile(r"(?P<kind>logit|class)\s*:\s*(?P<right>.*?)(?:\s+[-−]\s+(?P<wrong>.+))?\s*", re.DOTALL)
_FORMS = "write 'logit: Mary - John', 'class: 7', 'similarity', or a place such as a9.h6<q>@-1 or m4"


@dataclass(frozen=True)
class Label:
    """A class that a target may name."""

    key: str
    index: int


def answer(model: Transformer, tensor: Tensor, said: str = "", other: str = "") -> tuple[Target, str]:
    """The target that a person wrote, and in a sentence what was chosen where it was left open.

    Args:
        model: any hooked model.
        tensor: one input.
        said: ``logit: A - B`` or ``logit: A`` (words, of models that predict tokens), ``class: A - B`` or ``class: A``
            (names or numbers), ``similarity`` with ``other``, or a place. Empty: the model's own first answer less its
            second, at the last position (at the mask for a masked model); for a model of vectors the similarity.
        other: the second text of a similarity.

    Raises:
        ValueError: the target is not written in one of these ways, names an answer that the model does not have, or is
            none that this model gives.
    """
    said = said.strip()
    if said == "similarity" or (not said and gives_vectors(model)):
        return _similarity(model, other), ""
    if other:
        remedy = f"leave the target '{said}' out" if said else "leave it out, or choose an encoder such as minilm-l6"
        raise ValueError(f"A second text is compared by similarity; {remedy}.")
    inside, match = place(model, said), _WRITTEN.fullmatch(said)
    if inside is not None:
        return inside, ""
    if gives_vectors(model):
        raise ValueError(f"{model.name} gives vectors, no logits; ask for 'similarity' with a second text, or a place.")
    where = answer_position(model, tensor)
    at = None if where is None else torch.tensor([where], device=model.device)
    if match is None:
        return _own(model, tensor, where, at)
    kind, right, wrong = match["kind"], match["right"], match["wrong"]
    if (kind == "class") != (where is None):
        instead = "class: 7" if where is None else "logit: Mary - John"
        what = "classes" if where is None else "words"
        raise ValueError(f"{model.name} answers with {what}; write a target such as '{instead}', not '{said}'.")
    if not right:
        raise ValueError(f"'{said}' names no answer; {_FORMS}.")
    chosen = [answer_index(model, name) for name in (right, wrong) if name]
    return _logits(model, chosen, where, at), ""


def place(model: Transformer, said: str) -> Node | None:
    """The place inside the model that a target names; None where it is read at the output.

    Raises:
        ValueError: the target is not written in one of the ways of :func:`answer`, or the model has no such place.
    """
    said = said.strip()
    if not said or said == "similarity" or _WRITTEN.fullmatch(said):
        return None
    if ":" in said or " " in said:
        raise ValueError(f"'{said}' is no target; {_FORMS}.")
    return node(said, model)


def gives_vectors(model: Transformer) -> bool:
    """Whether the model has no answers of its own."""
    return model.cfg.head == "none"


def answer_position(model: Transformer, tensor: Tensor) -> int | None:
    """Where the answer is read; None where there is one for the whole input.

    Raises:
        ValueError: the model fills in masks and there is none, or more than one.
    """
    if model.cfg.pooling != "none":
        return None
    mask = getattr(model.tokenizer, "mask_token_id", None)
    if model.cfg.causal or mask is None:
        return int(tensor.shape[1]) - 1
    places = (tensor[0] == mask).nonzero().flatten().tolist()
    if len(places) != 1:
        raise ValueError(
            f"{model.name} fills in a word; the text has {len(places)} masks and needs one: write "
            f"{model.tokenizer.mask_token} where the word is missing."
        )
    return int(places[0])


def answer_index(model: Transformer, name: str) -> int:
    """Number of a token or a class. A bare word is taken with the space before it where that is one token.

    Raises:
        ValueError: there is none of that name.
    """
    quoted = len(name) > 1 and name[0] in "'\"" and name[-1] == name[0]
    bare = name[1:-1] if quoted else name.strip()
    n = model.cfg.n_out
    if model.cfg.pooling == "none" and model.tokenizer is not None:
        spaced = f" {bare}"
        return model.text.single(spaced if not quoted and model.text.is_single(spaced) else bare)
    labels = [str(label) for label in model.cfg.labels or ()]
    if bare in labels:
        return labels.index(bare)
    if bare.isdecimal() and not labels:
        if int(bare) < n:
            return int(bare)
        raise ValueError(f"There is no answer {bare}: {model.name} has 0 to {n - 1}.")
    if not labels:
        raise ValueError(f"'{bare}' is no answer: those of {model.name} are the numbers 0 to {n - 1}.")
    return pick([Label(label, i) for i, label in enumerate(labels)], bare, "class").index


def answer_name(model: Transformer, index: int) -> str:
    """The text of an answer: a token with its space, a class by name, or a number."""
    if model.cfg.labels:
        return str(model.cfg.labels[index])
    if model.tokenizer is None or model.cfg.pooling != "none":
        return str(index)
    return model.text.pieces([index])[0]


def _logits(model: Transformer, chosen: list[int], where: int | None, at: Tensor | None) -> Logits:
    names = " − ".join(answer_name(model, index).strip() or repr(answer_name(model, index)) for index in chosen)
    right, *wrong = (torch.tensor([index], device=model.device) for index in chosen)
    name = f"class {names}" if where is None else f"logit of {names}"
    return Logits(right, wrong[0] if wrong else None, at, name=name, unit="logits")


@torch.no_grad()
def _own(model: Transformer, tensor: Tensor, where: int | None, at: Tensor | None) -> tuple[Target, str]:
    """The model's first answer less its second."""
    out = model(tensor.to(model.device), logits_at=at) if at is not None else model(tensor.to(model.device))
    logits = out.flatten().float()
    if len(logits) < 2:
        return _logits(model, [0], where, at), ""
    share = logits.softmax(0)
    first, second = share.topk(2).indices.tolist()
    told = [f"'{answer_name(model, i).strip() or ' '}' ({float(share[i]):.0%})" for i in (first, second)]
    what = "class" if where is None else ("next word" if model.cfg.causal else "missing word")
    note = f"The target is the model's own first choice of the {what}, {told[0]}, less its second, {told[1]}."
    return _logits(model, [first, second], where, at), note


def _similarity(model: Transformer, other: str) -> Similarity:
    if model.cfg.causal or model.images is not None:
        raise ValueError(
            f"{model.name} is no encoder of text; the similarity of sentences needs one such as minilm-l6."
        )
    if not other.strip():
        raise ValueError("A similarity needs a second text to compare with; give one.")
    with torch.no_grad():
        vectors = sentence_embeddings(model, other)
    return replace(Similarity(vectors), name=f"similarity with “{other}”")
