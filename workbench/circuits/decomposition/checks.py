"""Refusals of what cannot be decomposed, in one sentence and before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.circuits.decomposition.sites import Site
from workbench.circuits.decomposition.targets import Logits, Metric, Node, Similarity, Target
from workbench.models import Transformer
from workbench.models.checks import check_input
from workbench.models.embedding import n_positions

if TYPE_CHECKING:
    from workbench.circuits.decomposition.propagate import Source


MEANS = ("mean", "rest")
"""Baselines that are a mean over positions."""


def check_prompts(
    model: Transformer, tokens: Tensor, mask: Int[Tensor, "batch pos"] | None
) -> tuple[Int[Tensor, " batch"], int]:
    """``(lengths [batch], width)``: positions of each prompt, and of the longest.

    Raises:
        ValueError: no prompt, not what the model reads, a mask of another shape, or padding that is not on the right.
    """
    check_input(model, tokens, range(model.cfg.n_layers), None, True)
    if not len(tokens):
        raise ValueError("There is no prompt: the batch is empty.")
    n, width = len(tokens), n_positions(model, tokens)
    if mask is None and not model.cfg.causal and not tokens.is_floating_point():
        mask = model.text.mask_of(tokens)
    if mask is None:
        return torch.full((n,), width), width
    if tuple(mask.shape) != (n, width):
        raise ValueError(f"The attention mask is {list(mask.shape)}; for these prompts it must be [{n}, {width}].")
    real = mask.bool().cpu()
    bad = (real[:, 1:] & ~real[:, :-1]).any(1) | ~real.any(1)
    if bool(bad.any()):
        raise ValueError(
            f"Prompt {int(bad.nonzero()[0])} is not padded on the right; positions are counted from the first token, "
            "so put all padding behind the text."
        )
    return real.long().sum(1), width


def check_sources(sources: Sequence[Source], lengths: Int[Tensor, " batch"], width: int) -> None:
    """Refuse positions that a prompt does not have.

    Raises:
        ValueError: naming the place and the prompt.
    """
    for source in sources:
        for site in source.sites:
            check_site(site, lengths, width)


def check_site(site: Site, lengths: Int[Tensor, " batch"], width: int) -> None:
    """Refuse positions that a prompt does not have.

    Raises:
        ValueError: naming the place and the prompt.
    """
    if site.positions is not None:
        site.where(lengths.cpu(), width)


def check_baseline(baseline: str | Tensor, tokens: Tensor) -> None:
    """Refuse what sources cannot be compared with.

    Raises:
        ValueError: an unknown name, or tokens of another shape.
    """
    if isinstance(baseline, str):
        if baseline not in ("zero", *MEANS):
            raise ValueError(f"Unknown baseline '{baseline}'; choose zero, mean, rest, or give other tokens.")
    elif not isinstance(baseline, Tensor):
        raise ValueError(f"A baseline is zero, mean, rest or a tensor of tokens, not {type(baseline).__name__}.")
    elif baseline.shape != tokens.shape:
        raise ValueError(
            f"The baseline's tokens are {list(baseline.shape)}, the prompt's {list(tokens.shape)}; give one "
            "baseline of the same length for each prompt."
        )


def check_target(target: Target, model: Transformer, lengths: Int[Tensor, " batch"], width: int) -> None:
    """Refuse a target that this model or these prompts do not have.

    Raises:
        ValueError: saying what the model gives, or what does not fit.
    """
    if isinstance(target, Logits):
        _check_logits(target, model, lengths)
    elif isinstance(target, Similarity):
        if model.cfg.head != "none":
            raise ValueError(f"{model.name} gives logits, not vectors of tokens; choose Logits as the target.")
        expected = [len(lengths), model.cfg.d_model]
        if list(target.vectors.shape) != expected:
            raise ValueError(
                f"Vectors to compare with must be {expected}, one for each prompt; got {list(target.vectors.shape)}."
            )
    elif isinstance(target, Metric):
        if len(target.task) != len(lengths):
            raise ValueError(f"The task has {len(target.task)} prompts, but {len(lengths)} are given; give its own.")
    elif isinstance(target, Node):
        check_site(target.site, lengths, width)


def _check_logits(target: Logits, model: Transformer, lengths: Int[Tensor, " batch"]) -> None:
    cfg, n = model.cfg, len(lengths)
    if cfg.head == "none":
        raise ValueError(f"{model.name} gives no logits; choose Similarity or an activation inside it as the target.")
    what = "class" if cfg.pooling != "none" else "token"
    for name, ids in (("right", target.right), ("wrong", target.wrong)):
        if ids is None:
            continue
        if tuple(ids.shape) != (n,) or ids.is_floating_point():
            raise ValueError(f"'{name}' is one {what} for each of the {n} prompts, [{n}]; got {list(ids.shape)}.")
        if n and not 0 <= int(ids.min()) <= int(ids.max()) < cfg.n_out:
            raise ValueError(f"'{name}' names a {what} that does not exist: {model.name} has 0 to {cfg.n_out - 1}.")
    if cfg.pooling != "none":
        if target.at is not None:
            raise ValueError(f"{model.name} gives one answer for each prompt; leave out 'at'.")
        return
    if target.at is None:
        raise ValueError(f"{model.name} gives logits at every position; say with 'at' which one is meant, [{n}].")
    if tuple(target.at.shape) != (n,) or target.at.is_floating_point():
        raise ValueError(f"'at' is one position for each of the {n} prompts, [{n}]; got {list(target.at.shape)}.")
    outside = (target.at.cpu() < 0) | (target.at.cpu() >= lengths.cpu())
    if bool(outside.any()):
        i = int(outside.nonzero()[0])
        raise ValueError(
            f"'at' names position {int(target.at[i])} of prompt {i}, which has 0 to {int(lengths[i]) - 1}."
        )
