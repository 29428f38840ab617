"""What a reader takes in, in every family: its own stream of the outputs of all earlier writers.

A stream starts with what the embedding wrote. Each sublayer below the reader then adds what its writers wrote (the
sum of its heads and the output bias, which belongs to no writer; or its MLP) and normalises where the model does:

    pre-norm (GPT-2, LLaMA, ViT, ...)   stream + written
    Gemma 2 and 3                       stream + norm(heads and bias);  stream + MLP
    post-norm (BERT, RoBERTa, MiniLM)   norm(stream + written)

Each reader has a stream of its own: to patch the edge u -> v is to put another output of u into the stream of v
alone, and the norms on the way are worked out on that stream. In a pre-norm model a stream is a plain sum, and nothing
below needs to be known about the way. Gemma normalises what one MLP wrote by itself, so that norm counts as the last
part of the MLP: the writer's output is what is added. Its heads share one norm, which therefore belongs to none.

To first order, a change of what u wrote reaches the readers above as J_n ... J_2 J_1 change, with the Jacobians of the
norms that it passes. :func:`push` applies one of them to the changes of many writers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models import Transformer
from workbench.models.blocks import Block
from workbench.models.norm import Norm
from workbench.models.readout import pooled
from workbench.models.taps import NO_TAPS, Taps

if TYPE_CHECKING:
    from workbench.circuits.task import Task

Stream = Float[Tensor, "*reader batch pos d_model"]


def is_sum(model: Transformer) -> bool:
    """Whether every stream is the plain sum of what was written."""
    return model.cfg.norm_place == "pre" and not model.cfg.post_norms


def after_attention(block: Block, stream: Stream, heads: Stream) -> Stream:
    """The stream behind a block's attention, from the one before and the sum of its heads and output bias."""
    if block.cfg.norm_place == "post":
        normed: Tensor = block.ln1(stream + heads)
        return normed
    return stream + (heads if block.ln1_post is None else block.ln1_post(heads))


def after_mlp(block: Block, stream: Stream, fed: Stream) -> Stream:
    """The stream behind a block's MLP, from the one before and the MLP's output."""
    return block.mlp_norm(stream + fed) if block.cfg.norm_place == "post" else stream + fed


def into_attention(block: Block, stream: Stream) -> Stream:
    """What queries, keys and values are made of."""
    return stream if block.cfg.norm_place == "post" else block.ln1(stream)


def mlp_output(block: Block, stream: Stream) -> Stream:
    """What the MLP writes when it reads ``stream``."""
    assert block.mlp is not None
    fed: Tensor = block.mlp(stream if block.cfg.norm_place == "post" else block.mlp_norm(stream))
    return fed if block.ln2_post is None else block.ln2_post(fed)


def check_sum(model: Transformer, what: str) -> None:
    """Refuse a model whose streams are no plain sums, for ``what`` cannot follow them.

    Raises:
        ValueError: naming the model.
    """
    if not is_sum(model):
        raise ValueError(
            f"{what} follows residual streams that are plain sums; {model.name} ({model.cfg.family}) normalises what "
            "is added. Choose a method such as eap-ig, or a model without such norms."
        )


def push(norm: Norm, changes: Float[Tensor, "writer batch pos d_model"], at: Tensor, *, frozen: bool = False) -> None:
    """Multiply small ``changes`` of a norm's input by its Jacobian, in place: what they change behind the norm.

    With x_hat and scale of the input ``at`` [batch, pos, d_model]:
    ``weight * (change - [mean(change)] - x_hat * mean(change * x_hat)) / scale``, the bracket for LayerNorm only.
    ``frozen`` holds the scale constant, and so leaves the last term out.
    """
    if norm.weight is None or not len(changes):
        return
    x_hat, scale = norm.standardise(at)
    if not frozen:
        along = torch.einsum("wbpd,bpd->wbp", changes, x_hat).unsqueeze(-1) / at.shape[-1]
    if norm.centred:
        changes -= changes.mean(-1, keepdim=True)
    if not frozen:
        changes.addcmul_(along, x_hat, value=-1)
    changes *= (norm.weight / scale).to(changes.dtype)


def push_past_attention(
    block: Block,
    changes: Float[Tensor, "writer batch pos d_model"],
    heads: slice,
    resid: Float[Tensor, "batch pos d_model"],
    z: Float[Tensor, "batch pos head d_head"],
    *,
    frozen: bool = False,
) -> None:
    """:func:`push` through the norm that lies behind a block's attention, where there is one.

    Args:
        block: the block.
        changes: of the writers in order, in place; at least those up to the block's heads.
        heads: the block's heads among the writers.
        resid: what the block reads.
        z: what its heads made of it.
        frozen: as in :func:`push`.
    """
    if block.cfg.norm_place == "post":
        push(block.ln1, changes[: heads.stop], resid + block.attn.write(z), frozen=frozen)
    elif block.ln1_post is not None:
        push(block.ln1_post, changes[heads], block.attn.write(z), frozen=frozen)


def attention_mask(model: Transformer, batch: Task) -> Int[Tensor, "batch pos"] | None:
    """1 for the real tokens of each example, for models that would see padding on the right; None for all others."""
    if model.cfg.image is not None or not model.needs_whole_text:
        return None
    places = torch.arange(batch.clean.shape[1])
    return (places < batch.lengths[:, None]).long().to(model.device)


def answers_once(model: Transformer) -> bool:
    """Whether the answer comes from all positions: of a model that pools, and of one without a head."""
    return model.cfg.pooling != "none" or model.cfg.head == "none"


def has_distribution(model: Transformer) -> bool:
    """Whether the answer is one of several, each with a probability."""
    return model.cfg.head != "none" and model.cfg.n_out > 1


def check_distribution(model: Transformer, instead: str) -> None:
    """Refuse to compare the probabilities of answers of a model that gives none.

    Raises:
        ValueError: saying what to choose ``instead``.
    """
    if not has_distribution(model):
        has = "gives vectors" if model.cfg.head == "none" else "has one output"
        raise ValueError(f"'kl' compares the probabilities of answers, but {model.name} {has}; choose {instead}.")


def share_of_answer(model: Transformer, batch: Task, n: int) -> Float[Tensor, "batch pos"]:
    """How much of the answer is read at each of ``n`` positions; the sum is 1 for each example.

    All of it where the task says; of a model that pools, where its head reads (of two positions half each; of the
    first beside the mean of the patches half at the first, the rest evenly); of one without a head, evenly over all
    real positions.
    """
    if not answers_once(model):
        return torch.nn.functional.one_hot(batch.last, n).to(model.device, model.dtype)
    if model.cfg.head == "none":
        real = (torch.arange(n) < batch.lengths[:, None]).to(model.device, model.dtype)
        return real / real.sum(1, keepdim=True)
    with torch.enable_grad():
        # Pooling is linear, so that its derivative says which positions it takes.
        x = torch.ones(len(batch), n, 1, device=model.device, dtype=model.dtype, requires_grad=True)
        (taken,) = torch.autograd.grad(pooled(x, model.cfg, attention_mask(model, batch)).sum(), x)
    return taken[..., 0] / taken[..., 0].sum(1, keepdim=True)


def where_answered(model: Transformer, batch: Task, resid: Float[Tensor, "batch pos d_model"]) -> Tensor:
    """The part of the last residual stream that the answer is made of: [batch, 1, d_model] or [batch, pos, d_model].

    A model with logits at every position is asked where the task says, all others everywhere.
    """
    if answers_once(model):
        return resid
    return resid[torch.arange(len(resid), device=resid.device), batch.last.to(resid.device)][:, None]


def answer(model: Transformer, batch: Task, read: Tensor, tap: Taps = NO_TAPS) -> Tensor:
    """What the task scores, from what :func:`where_answered` gave.

    Logits [batch, word] at the answer's place, those of a classifier [batch, class], or of a model without a head the
    residual stream behind its final norm [batch, pos, d_model].
    """
    if answers_once(model):
        return model.logits(read, tap, mask=attention_mask(model, batch))
    return model.logits(read, tap)[:, 0]


def answer_of(
    model: Transformer, batch: Task, resid: Float[Tensor, "batch pos d_model"], tap: Taps = NO_TAPS
) -> Tensor:
    """What the task scores, from the last residual stream; see :func:`answer`."""
    return answer(model, batch, where_answered(model, batch, resid), tap)
