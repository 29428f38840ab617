"""The hooked decoder: ``model(tokens, taps)`` is a pure function of its arguments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.models.blocks import NO_TAPS, Block, Norm, Positions, softcap
from workbench.models.cache import ActivationCache
from workbench.models.config import ModelConfig
from workbench.models.taps import (
    Hook,
    HookFunction,
    NameFilter,
    Tap,
    Taps,
    block_hook_names,
    check_names,
    norm_hook_names,
    select_names,
)
from workbench.models.tokens import Tokens

Logits = Float[Tensor, "batch pos d_vocab"]


class Transformer(nn.Module):
    """A decoder of the GPT-2 or the LLaMA kind whose every activation has a name.

    Weights are frozen: a run keeps no graph unless a tap brings in a tensor that wants gradients. Nothing is
    stored on the module by a call, so one model serves many threads at once.

    Args:
        cfg: sizes and choices.
        weights: one tensor for every parameter, by the names of ``state_dict``; taken over without a copy.
        tokenizer: a Hugging Face tokenizer, needed only to turn text into tokens and back.
        name: how the model is called in results.
    """

    def __init__(
        self, cfg: ModelConfig, weights: Mapping[str, Tensor], tokenizer: Any = None, name: str = "model"
    ) -> None:
        super().__init__()
        self.cfg, self.name = cfg, name
        self.text = Tokens(tokenizer, cfg.n_ctx)
        with torch.device("meta"):
            self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
            self.pos_embed = nn.Embedding(cfg.n_ctx, cfg.d_model) if cfg.positions != "rotary" else None
            self.blocks: Sequence[Block] = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))  # type: ignore[assignment]
            self.ln_final = Norm(cfg.norm, cfg.d_model, cfg.norm_eps)
            self.unembedding = nn.Linear(cfg.d_model, cfg.d_vocab_out or cfg.d_vocab, bias=cfg.unembed_bias)
        given = dict(weights)
        # No buffer: in half precision, angles of late positions would be off by whole turns.
        frequencies = given.pop("inverse_frequencies", None)
        self.inverse_frequencies = None if frequencies is None else frequencies.float()
        self.load_state_dict(given, assign=True)
        if cfg.tied:
            self.unembedding.weight = self.embed.weight
        self.requires_grad_(False)
        self.eval()

    # --- text -------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        return self.text.tokenizer

    def to_tokens(self, texts: str | Sequence[str]) -> Int[Tensor, "batch pos"]:
        """Tokens of one or several texts, padded on the right to the longest.

        Causal attention never looks right, so padding there changes no real position.
        """
        return self.text.batch(texts)[0].to(self.device)

    def to_str_tokens(self, text: str | Tensor | Sequence[int]) -> list[str]:
        """The tokens of a text (or of token ids), each as the text that it stands for."""
        return self.text.pieces(text)

    def to_single_token(self, word: str) -> int:
        """The one token of ``word``; ValueError if it is not exactly one."""
        return self.text.single(word)

    # --- running ----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the weights."""
        return self.embed.weight.dtype

    @cached_property
    def hook_names(self) -> list[str]:
        """Every activation that can be tapped, in the order of computation."""
        names = ["hook_embed"] + ["hook_pos_embed"] * (self.cfg.positions != "rotary")
        for layer in range(self.cfg.n_layers):
            names += block_hook_names(layer, self.cfg)
        return [*names, *norm_hook_names("ln_final", self.cfg), "hook_unembed"]

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        taps: Mapping[str, Tap] | None = None,
        *,
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        start_at_layer: int = 0,
        stop_at_layer: int | None = None,
        logits_at: Int[Tensor, " batch"] | None = None,
    ) -> Tensor:
        """Run the model.

        Args:
            tokens: token ids; with ``start_at_layer > 0`` the residual stream that enters that block.
            taps: functions by activation name; what one returns replaces the activation.
            attention_mask: 1 for real tokens, 0 for padding, on either side. Positions count real tokens only.
            start_at_layer: the first block to run.
            stop_at_layer: the block to stop before; the residual stream [batch, pos, d_model] is returned.
                Negative numbers count from the end.
            logits_at: one position for each example: logits [batch, 1, d_vocab] are made there only.

        Returns:
            Logits [batch, pos, d_vocab], or what ``stop_at_layer`` and ``logits_at`` say.

        Raises:
            ValueError: an unknown tap, a layer out of range, tokens that are too many or not of this vocabulary.
        """
        if taps:
            check_names(taps, self.hook_names)
        tap = Taps(taps)
        stop = self._layer(stop_at_layer, self.cfg.n_layers)
        start = self._layer(start_at_layer, 0)
        positions, ids = self.positions(tokens, attention_mask, tap)
        resid = tokens if tokens.is_floating_point() else self.embedding(tokens, ids, tap)
        if not tokens.is_floating_point() and start:
            raise ValueError(f"start_at_layer={start} needs the residual stream [batch, pos, d_model], not tokens.")
        for layer in range(start, stop):
            resid = self.blocks[layer](resid, tap, f"blocks.{layer}", positions[layer])
        return resid if stop_at_layer is not None else self.logits(resid, tap, logits_at)

    def embedding(self, tokens: Int[Tensor, "batch pos"], ids: Tensor, tap: Taps) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that enters block 0."""
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.cfg.d_vocab:
            raise ValueError(
                f"Token ids must lie between 0 and {self.cfg.d_vocab - 1}; got {tokens.min()} to {tokens.max()}."
            )
        resid = self.embed(tokens)
        if self.cfg.embed_scale != 1:
            resid = resid * torch.tensor(self.cfg.embed_scale, dtype=resid.dtype)
        resid = tap("hook_embed", resid)
        if self.pos_embed is not None and self.cfg.positions == "learned":
            added = self.pos_embed(ids).expand(len(tokens), -1, -1)
            resid = resid + tap("hook_pos_embed", added)
        return resid

    def logits(self, resid: Tensor, tap: Taps = NO_TAPS, at: Tensor | None = None) -> Logits:
        """Final norm and unembedding of a residual stream, at all positions or one of each example."""
        if at is not None:
            resid = resid[torch.arange(len(resid), device=resid.device), at.to(resid.device)][:, None]
        return tap("hook_unembed", self.unembed(self.ln_final(resid, tap, "ln_final")))

    def unembed(self, normed: Tensor) -> Logits:
        """Logits of a residual stream that went through the final norm."""
        return softcap(self.unembedding(normed), self.cfg.logit_softcap)

    def positions(
        self, tokens: Tensor, attention_mask: Tensor | None = None, tap: Taps = NO_TAPS
    ) -> tuple[list[Positions], Tensor]:
        """Rotary angles and visibility of one call for each layer, and the position ids [1 or batch, pos].

        Raises:
            ValueError: the prompt is empty or longer than the context.
        """
        n, device = tokens.shape[1], tokens.device
        if n == 0 or len(tokens) == 0:
            raise ValueError("The prompt is empty: it has no tokens.")
        if n > self.cfg.n_ctx:
            raise ValueError(
                f"The prompt has {n} tokens; {self.name} reads at most {self.cfg.n_ctx}. Shorten the prompt."
            )
        ids, visible = torch.arange(n, device=device)[None], None
        if attention_mask is not None and not (self.cfg.causal and _pads_right_only(attention_mask)):
            real = attention_mask.bool()
            ids = (real.long().cumsum(-1) - 1).clamp(min=0)
            reach = torch.ones(n, n, dtype=torch.bool, device=device)
            # A padded query sees itself, so that no row is without a key.
            itself = torch.eye(n, dtype=torch.bool, device=device)
            visible = ((reach.tril() if self.cfg.causal else reach) & real[:, None, None, :]) | itself
        added = None
        if self.pos_embed is not None and self.cfg.positions == "shortformer":
            added = tap("hook_pos_embed", self.pos_embed(ids).expand(len(tokens), -1, -1))
        kinds = self.cfg.rotary_kinds or (0,) * self.cfg.n_layers
        # A window that holds the whole prompt is none.
        windows = [w if w is not None and w < n else None for w in self.cfg.windows or (None,) * self.cfg.n_layers]
        layers = list(zip(kinds, windows, strict=True))
        # Layers of one kind share one record.
        made = {
            (kind, window): Positions(*self._angles(ids, kind), _within(visible, window, n, device), added)
            for kind, window in set(layers)
        }
        return [made[layer] for layer in layers], ids

    def _angles(self, ids: Tensor, kind: int) -> tuple[Tensor | None, Tensor | None]:
        """Cosines and sines [1|b p 1 e/2] of the rotary angles."""
        if self.inverse_frequencies is None:
            return None, None
        frequencies = self.inverse_frequencies.view(-1, self.inverse_frequencies.shape[-1])[kind]
        angles = ids[..., None].float() * frequencies.to(ids.device)
        cos, sin = angles.cos() * self.cfg.rotary_scale, angles.sin() * self.cfg.rotary_scale
        return cos[:, :, None].to(self.dtype), sin[:, :, None].to(self.dtype)

    def run_with_cache(
        self, tokens: Tensor, names: NameFilter = None, *, taps: Mapping[str, Tap] | None = None, **kwargs: Any
    ) -> tuple[Tensor, ActivationCache]:
        """Run and keep activations.

        Args:
            tokens: as in :meth:`forward`.
            names: None for every activation that costs no copy per head, a name, a list of names, or a predicate
                on the name. ``hook_result``, ``hook_k_heads`` and ``hook_v_heads`` are kept only when asked for.
            taps: further taps; the cache holds what they leave.
            **kwargs: further arguments of :meth:`forward`.

        Returns:
            What :meth:`forward` returns, and the cache.

        Raises:
            ValueError: a name does not exist.
        """
        kept: dict[str, Tensor] = {}

        def keep(name: str, first: Tap | None) -> Tap:
            def tap(value: Tensor) -> Tensor | None:
                replaced = first(value) if first else None
                kept[name] = value if replaced is None else replaced
                return replaced

            return tap

        given = dict(taps or {})
        chosen = {name: keep(name, given.get(name)) for name in select_names(names, self.hook_names)}
        out = self(tokens, {**given, **chosen}, **kwargs)
        return out, ActivationCache(kept)

    def run_with_hooks(
        self,
        tokens: Tensor,
        fwd_hooks: Sequence[tuple[str | Callable[[str], bool], HookFunction]] = (),
        **kwargs: Any,
    ) -> Tensor:
        """Run with TransformerLens-style hooks: ``fn(activation, hook) -> activation | None``.

        A name may be a predicate; several hooks on one name run in the order given.

        Raises:
            ValueError: a name does not exist.
        """
        by_name: dict[str, list[HookFunction]] = {}
        for name, function in fwd_hooks:
            for found in select_names(name, self.hook_names):
                by_name.setdefault(found, []).append(function)
        return cast(Tensor, self(tokens, {name: _chain(name, fns) for name, fns in by_name.items()}, **kwargs))

    # --- weights, shaped as in TransformerLens ------------------------------------------------------------------

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Token embedding."""
        return self.embed.weight

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """Unembedding."""
        return self.unembedding.weight.T

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights; a stacked copy."""
        return torch.stack([block.attn.heads_of(block.attn.q).transpose(1, 2) for block in self.blocks])

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights as each query head sees them; a stacked copy."""
        return torch.stack([block.attn.heads_of(block.attn.k).transpose(1, 2) for block in self.blocks])

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights as each query head sees them; a stacked copy."""
        return torch.stack([block.attn.heads_of(block.attn.v).transpose(1, 2) for block in self.blocks])

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights of each head; a stacked copy."""
        return torch.stack([block.attn.W_O for block in self.blocks])

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of configuration and weights: the same model gives the same."""
        # Only what differs from the defaults: a field that a later version adds leaves old fingerprints as they are.
        told = {f.name: getattr(self.cfg, f.name) for f in fields(self.cfg) if getattr(self.cfg, f.name) != f.default}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for name, parameter in sorted(self.named_parameters()):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def _layer(self, layer: int | None, default: int) -> int:
        if layer is None:
            return default
        n = self.cfg.n_layers
        if not -n <= layer <= n:
            raise ValueError(f"Layer {layer} does not exist: {self.name} has layers 0 to {n - 1}.")
        return layer + n if layer < 0 else layer


def _within(visible: Tensor | None, window: int | None, n: int, device: torch.device) -> Tensor | None:
    """What is visible [batch, 1, query, key] and not further back than ``window`` tokens, the query's own included."""
    if window is None:
        return visible
    causal = torch.ones(n, n, dtype=torch.bool, device=device).tril()
    near = (causal & causal.triu(1 - window))[None, None]
    return near if visible is None else visible & near


def _pads_right_only(attention_mask: Tensor) -> bool:
    """True if no real token comes after padding: causality alone then hides the padding from real tokens."""
    mask = attention_mask.long()
    return bool((mask[:, 1:] <= mask[:, :-1]).all())


def _chain(name: str, functions: Sequence[HookFunction]) -> Tap:
    def tap(value: Tensor) -> Tensor:
        for function in functions:
            replaced = function(value, Hook(name))
            value = value if replaced is None else replaced
        return value

    return tap
