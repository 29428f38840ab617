"""One vector for each text, from an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models.taps import Tap

if TYPE_CHECKING:
    from workbench.models.transformer import Transformer

Pool = Literal["mean", "first", "max"]


def pool(
    resid: Float[Tensor, "batch pos d_model"], mask: Int[Tensor, "batch pos"] | None, how: Pool = "mean"
) -> Float[Tensor, "batch d_model"]:
    """One vector for each text, from the vectors of its real tokens.

    Args:
        resid: what the encoder gives.
        mask: 1 for real tokens; None if all are.
        how: ``mean`` or ``max`` over real tokens, or the ``first`` token's.

    Raises:
        ValueError: another ``how``.
    """
    if how not in get_args(Pool):
        raise ValueError(f"Unknown pooling '{how}'; choose one of {', '.join(get_args(Pool))}.")
    if how == "first":
        return resid[:, 0]
    real = resid.new_ones(resid.shape[:2]) if mask is None else mask.to(resid)
    if how == "max":
        return resid.masked_fill(real[..., None] == 0, -torch.inf).amax(1)
    return torch.einsum("bpd,bp->bd", resid, real) / real.sum(1, keepdim=True)


def sentence_embeddings(
    model: Transformer,
    texts: str | Sequence[str],
    *,
    how: Pool = "mean",
    normalise: bool = True,
    taps: Mapping[str, Tap] | None = None,
) -> Float[Tensor, "batch d_model"]:
    """A vector for each text, as sentence-transformers makes them (Reimers and Gurevych 2019): pooled, of length 1.

    The dot product of two is the cosine similarity of the texts.

    Args:
        model: an encoder such as ``minilm-l6``; of one with a head, what its last block gives is pooled.
        texts: one or several.
        how: see :func:`pool`.
        normalise: scale each to length 1.
        taps: functions by activation name.

    Raises:
        ValueError: a text is empty or too long, or the model is no encoder of text.
    """
    if model.cfg.causal or model.images is not None:
        raise ValueError(f"{model.name} is no encoder of text; use one such as minilm-l6.")
    given = model.to_inputs(texts)
    _, cache = model.run_with_cache(names=["ln_final.hook_out"], taps=taps, **given)
    resid = cache["ln_final.hook_out"]
    vectors = pool(resid, given["attention_mask"], how)
    return torch.nn.functional.normalize(vectors, dim=-1) if normalise else vectors
