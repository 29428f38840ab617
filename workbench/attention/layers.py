"""Queries, keys and values of one layer after the other while a model runs: no pattern, never two layers at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.models import Transformer
from workbench.models.attention import Positions
from workbench.models.checks import check_input
from workbench.models.embedding import n_positions
from workbench.models.mechanisms import hidden
from workbench.models.taps import Tap

Text = str | Sequence[str]


@dataclass(frozen=True)
class LayerAttention:
    """What attention in one layer works on.

    Attributes:
        layer: index of the layer, from 0.
        q: queries as they meet keys: normalised and turned where the model does that.
        k: keys likewise, one head for each group of query heads.
        v: values; None where the mechanism mixes them with others.
        real: False for padding; None where every position is real.
        causal, window, scale, softcap: as in :func:`workbench.kernels.attention_statistics`.
        scores, pattern: [batch, head, query, key], for a mechanism other than softmax, whose pattern was made.
    """

    layer: int
    q: Float[Tensor, "batch head pos d_head"]
    k: Float[Tensor, "batch kv_head pos d_head"]
    v: Float[Tensor, "batch kv_head pos d_head"] | None
    real: Bool[Tensor, "batch pos"] | None
    causal: bool
    window: int | None
    scale: float
    softcap: float | None
    scores: Float[Tensor, "batch head query key"] | None = None
    pattern: Float[Tensor, "batch head query key"] | None = None

    @property
    def visible(self) -> Bool[Tensor, "batch head query key"] | None:
        """True where a query looks, for a mechanism whose pattern was made."""
        return None if self.scores is None else ~hidden(self.scores)


@dataclass(frozen=True)
class Given:
    """An input in the form that a model takes.

    Attributes:
        tokens: token ids [batch, pos]; for a vision model pixels or patches.
        real: False for padding; None where every position is real.
        token_types: segments (BERT), or None.
        n: positions of the residual stream.
    """

    tokens: Tensor
    real: Bool[Tensor, "batch pos"] | None
    token_types: Int[Tensor, "batch pos"] | None
    n: int

    @property
    def ids(self) -> Int[Tensor, "batch pos"] | None:
        """Token ids, or None for images."""
        return None if self.tokens.is_floating_point() else self.tokens

    def rows(self, first: int, last: int) -> Given:
        """Some examples of the batch; where those have no padding, without a mask."""
        real = None if self.real is None else self.real[first:last]
        types = None if self.token_types is None else self.token_types[first:last]
        return Given(self.tokens[first:last], None if real is None or bool(real.all()) else real, types, self.n)


def taken(
    model: Transformer,
    tokens: Tensor | Text,
    attention_mask: Tensor | None = None,
    token_types: Tensor | None = None,
) -> Given:
    """Text, tokens or images in the model's own form, with what is real in them.

    Tokens without a mask: what the tokenizer has a padding token of its own for counts as padding.

    Raises:
        ValueError: an empty input, one longer than the context, or a mask that does not fit or leaves nothing.
    """
    if not isinstance(tokens, Tensor):
        inputs = model.to_inputs(tokens)
        tokens, attention_mask, token_types = inputs["tokens"], inputs["attention_mask"], inputs.get("token_types")
    tokens = check_input(model, tokens, range(model.cfg.n_layers), None, True)
    n = n_positions(model, tokens)
    if n == 0 or len(tokens) == 0:
        raise ValueError("The prompt is empty: it has no tokens.")
    if n > model.cfg.n_ctx:
        model.positions(tokens[:1])  # whose sentence says how many it reads
    if attention_mask is None and not tokens.is_floating_point():
        attention_mask = model.text.mask_of(tokens)
    real = None
    if attention_mask is not None:
        real = attention_mask.bool()
        if tuple(real.shape) != (len(tokens), n):
            raise ValueError(f"The attention mask is {list(real.shape)}; for this input it is [{len(tokens)}, {n}].")
        if not bool(real.any(-1).all()):
            row = int((~real.any(-1)).nonzero()[0])
            raise ValueError(f"The attention mask leaves nothing of example {row}; leave that example out.")
        if bool((real.long().diff(dim=-1).abs().sum(-1) > real.logical_not()[:, [0, -1]].sum(-1)).any()):
            raise ValueError("There is padding between real tokens; statistics of attention take it before or after.")
        real = None if bool(real.all()) else real.to(tokens.device)
    return Given(tokens, real, token_types, n)


def require_rows_of_one(model: Transformer) -> None:
    """Refuse a mechanism whose rows are no distributions over keys.

    Raises:
        ValueError: naming it.
    """
    mechanism = model.blocks[0].attn.mechanism if len(model.blocks) else None
    if mechanism is not None and mechanism.rows != "one" and not all(block.attn.is_softmax for block in model.blocks):
        raise ValueError(
            f"{model.name} has '{mechanism.key}' attention, whose rows need not sum to 1 and so have no entropy; "
            "take a model with softmax, or another mechanism whose rows do."
        )


@torch.no_grad()
def watch(
    model: Transformer,
    given: Given,
    see: Callable[[LayerAttention], None],
    taps: Mapping[str, Tap] | None = None,
) -> None:
    """Run the model up to its head, and show each layer's attention to ``see`` while the layer runs.

    Cost: one forward without the head. Where a layer uses softmax, neither scores nor a pattern are made for this.

    Args:
        model: any model whose attention rows sum to 1.
        given: the input.
        see: called once for each layer, in order.
        taps: further taps, on other activations.
    """
    require_rows_of_one(model)
    own: dict[str, Tap] = {}
    for layer in range(model.cfg.n_layers):
        own |= (
            _softmax_taps(model, layer, given, see)
            if model.blocks[layer].attn.is_softmax
            else _open_taps(model, layer, given, see)
        )
    mask = None if given.real is None else given.real.long()
    more: dict[str, Any] = {} if given.token_types is None else {"token_types": given.token_types}
    model(given.tokens, {**(taps or {}), **own}, attention_mask=mask, stop_at_layer=model.cfg.n_layers, **more)


def _softmax_taps(
    model: Transformer, layer: int, given: Given, see: Callable[[LayerAttention], None]
) -> dict[str, Tap]:
    cfg, attn, name = model.cfg, model.blocks[layer].attn, f"blocks.{layer}.attn"
    turned = cfg.positions == "rotary"
    held: dict[str, Tensor] = {}

    def keep(part: str, last: bool) -> Tap:
        def tap(x: Tensor) -> None:
            held[part] = x
            if not last:
                return
            q, k, v = held.pop("q"), held.pop("k"), held.pop("v")
            if not turned:  # nothing to turn, but a model may normalise what it does not turn
                q, k = attn.place(q, k, Positions())
            see(_layer(model, layer, given, q, k, v))

        return tap

    places = ("v", "rot_q", "rot_k") if turned else ("q", "k", "v")
    return {f"{name}.hook_{place}": keep(place[-1], place == places[-1]) for place in places}


def _open_taps(model: Transformer, layer: int, given: Given, see: Callable[[LayerAttention], None]) -> dict[str, Tap]:
    """For other mechanisms: the pattern itself, one layer's at a time."""
    attn, name = model.blocks[layer].attn, f"blocks.{layer}.attn"
    held: dict[str, Tensor] = {}

    def keep(part: str) -> Tap:
        def tap(x: Tensor) -> None:
            held[part] = x

        return tap

    def last(pattern: Tensor) -> None:
        q, k, v, scores = (held.pop(part) for part in ("q", "k", "v", "attn_scores"))
        mixed = attn.mechanism.values is not None
        see(_layer(model, layer, given, q, k, None if mixed else v, scores, pattern))

    taps: dict[str, Tap] = {f"{name}.hook_{part}": keep(part) for part in ("q", "k", "v", "attn_scores")}
    return taps | {f"{name}.hook_pattern": last}


def _layer(
    model: Transformer,
    layer: int,
    given: Given,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    scores: Tensor | None = None,
    pattern: Tensor | None = None,
) -> LayerAttention:
    cfg = model.cfg
    window = None if cfg.windows is None else cfg.windows[layer]
    window = window if window is not None and window < given.n else None
    return LayerAttention(
        layer,
        q.transpose(1, 2),
        k.transpose(1, 2),
        None if v is None else v.transpose(1, 2),
        given.real,
        # A window looks back, also in a model that looks both ways elsewhere.
        cfg.causal or window is not None,
        window,
        cfg.attn_scale,
        cfg.attn_softcap,
        scores,
        pattern,
    )
