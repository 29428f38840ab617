"""From the residual stream after the last block to the model's output."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.models.blocks import ACTIVATIONS
from workbench.models.config import ModelConfig
from workbench.models.norm import Norm
from workbench.models.taps import NO_TAPS, Taps


class Head(nn.Module):
    """The dense layer between the residual stream and the logits of encoders: ``ln(act(dense(x)))``.

    Masked language models have all three parts, BERT's classifiers no norm.
    """

    def __init__(self, cfg: ModelConfig, act: str) -> None:
        super().__init__()
        self.dense = nn.Linear(cfg.d_pooled, cfg.d_model)
        self.act = ACTIVATIONS[act]
        self.ln = Norm(cfg.norm, cfg.d_model, cfg.norm_eps) if cfg.head_norm else None

    def forward(self, x: Tensor, tap: Taps = NO_TAPS) -> Tensor:
        """What the unembedding reads, at the positions of ``x`` [..., d_model]."""
        post = tap("head.hook_post", self.act(tap("head.hook_pre", self.dense(x))))
        return post if self.ln is None else self.ln(post, tap, "head.ln")


def pooled(x: Float[Tensor, "batch pos d_model"], cfg: ModelConfig, mask: Tensor | None = None) -> Tensor:
    """What the head reads: [batch, pos, d_model], or one vector [batch, d_pooled] for each example.

    The first position is the first that is real by ``mask`` [batch, pos].
    """
    if cfg.pooling == "first":
        return x[:, 0] if mask is None else x[torch.arange(len(x), device=x.device), mask.long().argmax(1).to(x.device)]
    if cfg.pooling == "first-two":
        return x[:, :2].flatten(1)
    if cfg.pooling == "first-and-mean":
        assert cfg.image is not None
        return torch.cat((x[:, 0], x[:, len(cfg.image.prefix) :].mean(1)), -1)
    return x
