"""From tokens or an image to the residual stream that enters block 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models.attention import Positions
from workbench.models.images import resized
from workbench.models.past import Past
from workbench.models.taps import NO_TAPS, Taps

if TYPE_CHECKING:
    from workbench.models.transformer import Transformer

Residual = Float[Tensor, "batch pos d_model"]


def embed_tokens(
    model: Transformer, tokens: Int[Tensor, "batch pos"], ids: Tensor, types: Tensor | None, tap: Taps
) -> Residual:
    """Token, type and position embeddings, added and normalised as the configuration says.

    Raises:
        ValueError: tokens or types that the tables do not have.
    """
    cfg = model.cfg
    if cfg.image is not None:
        raise ValueError(f"{model.name} reads images, not tokens: give [batch, channel, height, width].")
    _check_ids(tokens, cfg.d_vocab, "Token ids")
    resid = model.embed(tokens)
    if cfg.embed_scale != 1:
        resid = resid * torch.tensor(cfg.embed_scale, dtype=resid.dtype)
    resid = tap("hook_embed", resid)
    if model.type_embed is not None:
        types = torch.zeros_like(tokens) if types is None else types
        _check_ids(types, cfg.n_token_types, "Token types")
        resid = resid + tap("hook_token_type_embed", model.type_embed(types))
    elif types is not None:
        raise ValueError(f"{model.name} has no token types.")
    if model.pos_embed is not None and cfg.positions == "learned":
        resid = resid + tap("hook_pos_embed", model.pos_embed(ids).expand(len(tokens), -1, -1))
    return resid if model.embed_norm is None else model.embed_norm(resid, tap, "embed_norm")


def embed_image(model: Transformer, images: Tensor, tap: Taps) -> Residual:
    """Patches through one matrix, the model's own tokens before them, and their positions added.

    Args:
        model: a vision model.
        images: pixels [batch, channel, height, width], or patches [batch, patch, channel, height, width].
        tap: taps of this call.

    Raises:
        ValueError: the images do not fit the model.
    """
    if model.images is None or model.patch_embed is None or model.pos_embed is None:
        raise ValueError(f"{model.name} reads tokens [batch, pos], not images.")
    patches, grid = patches_of(model, images)
    embedded = model.patch_embed(patches.flatten(2).to(model.dtype))
    if model.prefix is not None:
        own = model.prefix(torch.arange(model.prefix.num_embeddings, device=embedded.device))
        embedded = torch.cat((own[None].expand(len(patches), -1, -1), embedded), 1)
    embedded = tap("hook_embed", embedded)
    # Asked for as a module, so that tables laid out on disk are fetched.
    table = model.pos_embed(torch.arange(model.pos_embed.num_embeddings, device=embedded.device))
    table = resized(table, model.images.cfg, grid)
    resid = embedded + tap("hook_pos_embed", table[None].expand(len(patches), -1, -1))
    return resid if model.embed_norm is None else model.embed_norm(resid, tap, "embed_norm")


def patches_of(model: Transformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Patches [batch, patch, channel, height, width] and their rows and columns."""
    assert model.images is not None
    cfg = model.images.cfg
    if images.ndim == 4:
        grid = images.shape[2] // cfg.patch_height, images.shape[3] // cfg.patch_width
        return model.images.to_patches(images), grid
    expected = (cfg.n_patches, cfg.channels, cfg.patch_height, cfg.patch_width)
    if tuple(images.shape[1:]) != expected:
        raise ValueError(
            f"{model.name} reads patches [batch, {', '.join(map(str, expected))}]; got {list(images.shape)}."
        )
    return images, cfg.grid


def _check_ids(ids: Tensor, n: int, what: str) -> None:
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < n:
        raise ValueError(f"{what} must lie between 0 and {n - 1}; got {ids.min()} to {ids.max()}.")


def positions_of(
    model: Transformer, given: Tensor, mask: Tensor | None, past: Past | None, tap: Taps = NO_TAPS
) -> tuple[list[Positions], Tensor]:
    """Rotary angles and visibility of one call for each layer, and the position ids [1 or batch, pos].

    Raises:
        ValueError: the prompt is empty or longer than the context, or the mask does not fit it.
    """
    cfg, device = model.cfg, given.device
    n, read = n_positions(model, given), 0 if past is None else len(past)
    if n == 0 or len(given) == 0:
        raise ValueError("The prompt is empty: it has no tokens.")
    if cfg.image is None and read + n > cfg.n_ctx:
        raise ValueError(
            f"The prompt has {read + n} tokens; {model.name} reads at most {cfg.n_ctx}. Shorten the prompt."
        )
    ids, visible = read + torch.arange(n, device=device)[None], None
    if mask is not None:
        if tuple(mask.shape) != (len(given), read + n):
            raise ValueError(
                f"The attention mask is {list(mask.shape)}; for this call it must be [{len(given)}, {read + n}]."
            )
        mask = mask.to(device)
        # A mechanism that sums over queries must not see padded ones, whichever side they are on.
        if not _pads_right_only(mask) or model.needs_whole_text:
            real = mask.bool()
            ids = (real.long().cumsum(-1) - 1).clamp(min=0)[:, read:]
            # A padded query sees itself and nothing else: no row is without a key, and none that is not real counts
            # where a mechanism sums over queries.
            itself = torch.ones(n, read + n, dtype=torch.bool, device=device).tril(read).triu(read)
            visible = (
                _reach(cfg.causal, n, read, device) & real[:, None, None, :] & real[:, None, read:, None]
            ) | itself
    if visible is None and read and n > 1:
        visible = _reach(cfg.causal, n, read, device)[None, None]
    if cfg.pad_token is not None and not given.is_floating_point():
        real = given != cfg.pad_token if mask is None else (given != cfg.pad_token) & mask.bool()
        ids = real.long().cumsum(-1) * real
    return _layers(model, given, ids, visible, past, read + n, tap), ids


def _layers(
    model: Transformer, given: Tensor, ids: Tensor, visible: Tensor | None, past: Past | None, total: int, tap: Taps
) -> list[Positions]:
    """One record a layer; layers of one kind share theirs."""
    cfg, added = model.cfg, None
    if model.pos_embed is not None and cfg.positions == "shortformer":
        added = tap("hook_pos_embed", model.pos_embed(ids).expand(len(given), -1, -1))
    kinds = cfg.rotary_kinds or (0,) * cfg.n_layers
    # A window that holds the whole prompt is none.
    windows = [w if w is not None and w < total else None for w in cfg.windows or (None,) * cfg.n_layers]
    layers = list(zip(kinds, windows, strict=True))
    first: dict[str, Tensor] = {}
    n = ids.shape[1]
    made = {
        (kind, window): Positions(
            *_angles(model, ids, kind), _within(visible, window, n, total, given.device), added, past, first
        )
        for kind, window in set(layers)
    }
    return [made[layer] for layer in layers]


def n_positions(model: Transformer, given: Tensor) -> int:
    """How many positions of the residual stream an input takes."""
    if given.ndim == 4 and model.cfg.image is not None:
        cfg = model.cfg.image
        return len(cfg.prefix) + (given.shape[2] // cfg.patch_height) * (given.shape[3] // cfg.patch_width)
    return given.shape[1] + (len(model.cfg.image.prefix) if given.ndim == 5 and model.cfg.image is not None else 0)


def _angles(model: Transformer, ids: Tensor, kind: int) -> tuple[Tensor | None, Tensor | None]:
    """Cosines and sines [1|b p 1 e/2] of the rotary angles."""
    if model.inverse_frequencies is None:
        return None, None
    frequencies = model.inverse_frequencies.view(-1, model.inverse_frequencies.shape[-1])[kind]
    angles = ids[..., None].float() * frequencies.to(ids.device)
    cos, sin = angles.cos() * model.cfg.rotary_scale, angles.sin() * model.cfg.rotary_scale
    return cos[:, :, None].to(model.dtype), sin[:, :, None].to(model.dtype)


def _reach(causal: bool, n: int, read: int, device: torch.device) -> Tensor:
    """Which keys [query, key] a query may look at, padding aside, when ``read`` tokens came before."""
    everything = torch.ones(n, read + n, dtype=torch.bool, device=device)
    return everything.tril(read) if causal else everything


def _within(visible: Tensor | None, window: int | None, n: int, total: int, device: torch.device) -> Tensor | None:
    """What is visible [batch, 1, query, key] and not further back than ``window`` tokens, the query's own included."""
    if window is None:
        return visible
    read = total - n
    near = torch.ones(n, total, dtype=torch.bool, device=device).tril(read).triu(read + 1 - window)[None, None]
    return near if visible is None else visible & near


def _pads_right_only(attention_mask: Tensor) -> bool:
    """True if no real token comes after padding: causality alone then hides the padding from real tokens."""
    mask = attention_mask.long()
    return bool((mask[:, 1:] <= mask[:, :-1]).all())
