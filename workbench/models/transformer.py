"""The hooked transformer: ``model(tokens, taps)`` is a pure function of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.models.attention import Positions, softcap
from workbench.models.blocks import ACTIVATIONS, Block
from workbench.models.cache import ActivationCache
from workbench.models.checks import check_fit, check_input
from workbench.models.config import ModelConfig
from workbench.models.embedding import embed_image, embed_tokens, positions_of
from workbench.models.images import Images, Patches, Pixels
from workbench.models.norm import Norm
from workbench.models.past import Past
from workbench.models.readout import Head, pooled
from workbench.models.taps import (
    NO_TAPS,
    Hook,
    HookFunction,
    Keep,
    NameFilter,
    Tap,
    Taps,
    check_names,
    model_hook_names,
    select_names,
)
from workbench.models.tokens import Tokens
from workbench.models.weights import Weights

Logits = Float[Tensor, "batch pos d_vocab"]


class Transformer(Weights):
    """A decoder, an encoder or a vision transformer whose every activation has a name.

    Weights are frozen: a run keeps no graph unless a tap brings in a tensor that wants gradients. Nothing is
    stored on the module by a call, so one model serves many threads at once.

    Args:
        cfg: sizes and choices.
        weights: one tensor for every parameter, by the names of ``state_dict``; taken over without a copy. None
            leaves the parameters without values, on the meta device.
        tokenizer: a Hugging Face tokenizer, needed only to turn text into tokens and back; for a vision model its
            image processor, needed only to turn pictures into pixels.
        name: how the model is called in results.

    Raises:
        ValueError: weights are missing, surplus or of another shape than the configuration says; all are listed.
    """

    def __init__(
        self, cfg: ModelConfig, weights: Mapping[str, Tensor] | None, tokenizer: Any = None, name: str = "model"
    ) -> None:
        super().__init__()
        self.cfg, self.name = cfg, name
        self.text = Tokens(tokenizer if cfg.image is None else None, cfg.n_ctx, cfg.d_vocab)
        self.images = None if cfg.image is None else Images(cfg.image, tokenizer)
        with torch.device("meta"):
            self._build(cfg)
        given = dict(weights or {})
        # No buffer: in half precision, angles of late positions would be off by whole turns.
        frequencies = given.pop("inverse_frequencies", None)
        self.inverse_frequencies = None if frequencies is None else frequencies.float()
        if weights is not None:
            check_fit(self, given)
            self.load_state_dict(given, assign=True)
        if cfg.tied:
            self.unembedding.weight = self.embed.weight
        self.requires_grad_(False)
        self.eval()

    def _build(self, cfg: ModelConfig) -> None:
        d, image = cfg.d_model, cfg.image
        for act in (cfg.act_fn, cfg.head_act):
            if act is not None and act not in ACTIVATIONS:
                raise ValueError(f"The activation '{act}' is not supported; supported are {', '.join(ACTIVATIONS)}.")
        self.embed = nn.Embedding(cfg.d_vocab, d) if image is None else cast(nn.Embedding, None)
        self.patch_embed = None if image is None else nn.Linear(image.patch_numbers, d)
        self.prefix = nn.Embedding(len(image.prefix), d) if image is not None and image.prefix else None
        self.pos_embed = nn.Embedding(cfg.n_ctx + (cfg.pad_token is not None), d) if cfg.positions != "rotary" else None
        self.type_embed = nn.Embedding(cfg.n_token_types, d) if cfg.n_token_types else None
        self.embed_norm = Norm(cfg.norm, d, cfg.norm_eps) if cfg.embed_norm else None
        self.blocks: Sequence[Block] = nn.ModuleList(Block(cfg, i) for i in range(cfg.n_layers))  # type: ignore[assignment]
        self.ln_final = Norm(cfg.norm if cfg.norm_place == "pre" else "none", d, cfg.norm_eps)
        self.head = Head(cfg, cfg.head_act) if cfg.head_act is not None else None
        width = cfg.d_pooled if self.head is None else d
        self.unembedding = (
            nn.Linear(width, cfg.n_out, bias=cfg.unembed_bias) if cfg.head == "unembed" else cast(nn.Linear, None)
        )

    # --- text -------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        return self.text.tokenizer

    def to_tokens(
        self, texts: str | Sequence[str], *, side: Literal["left", "right"] = "right"
    ) -> Int[Tensor, "batch pos"]:
        """Tokens of one or several texts, padded to the longest; on the left, :meth:`to_inputs` gives the mask as well.

        Causal attention never looks right, so padding there changes no real position. An encoder sees it, and masks the
        padding that the tokenizer has a token of its own for.

        Raises:
            ValueError: a text is empty or too long; there is no tokenizer; or texts of unlike length are for an encoder
                that could not tell padding from text.
        """
        self._needs_text()
        tokens, lengths = self.text.batch(texts, side)
        if not self.cfg.causal and len(set(lengths.tolist())) > 1 and self.text.own_pad is None:
            raise ValueError(
                f"The tokenizer of {self.name} has no token for padding alone, so padding could not be told from text; "
                "use model(**model.to_inputs(texts)), which gives the mask."
            )
        return tokens.to(self.device)

    def _needs_text(self) -> None:
        if self.images is not None:
            raise ValueError(f"{self.name} reads images, not text; use to_pixels.")

    def to_inputs(
        self, texts: str | Sequence[str | tuple[str, str]], *, side: Literal["left", "right"] = "right"
    ) -> dict[str, Tensor]:
        """``tokens``, ``attention_mask``, ``token_types`` [batch, pos] of texts or pairs of texts, padded.

        For encoders: ``model(**model.to_inputs([("Who wrote it?", "Mary did.")]))``.
        """
        self._needs_text()
        given = {name: tensor.to(self.device) for name, tensor in self.text.inputs(texts, side).items()}
        return given if self.cfg.n_token_types else {k: v for k, v in given.items() if k != "token_types"}

    def to_str_tokens(self, text: str | Tensor | Sequence[int]) -> list[str]:
        """The tokens of a text (or of token ids), each as the text that it stands for."""
        return self.text.pieces(text)

    def to_single_token(self, word: str) -> int:
        """The one token of ``word``; ValueError if it is not exactly one."""
        return self.text.single(word)

    def to_pixels(self, images: Any) -> Pixels:
        """Pixel values [batch, channel, height, width] of one or several pictures, as the model wants them.

        See :meth:`workbench.models.images.Images.pixels`.

        Raises:
            ValueError: this model reads no images, or the image does not fit it.
        """
        return self._vision().pixels(images).to(self.device)

    def to_patches(self, images: Any) -> Patches:
        """Patches [batch, patch, channel, height, width] of one or several images, row by row; the model runs on them.

        Raises:
            ValueError: this model reads no images, or the image does not fit it.
        """
        return self._vision().to_patches(images).to(self.device)

    def to_image(self, patches: Patches, grid: tuple[int, int] | None = None) -> Pixels:
        """Patches put together again: the inverse of :meth:`to_patches`; ``grid`` (rows, columns) for another size."""
        return self._vision().to_image(patches, grid)

    def _vision(self) -> Images:
        if self.images is None:
            raise ValueError(f"{self.name} reads text, not images; use a vision model such as digits-vit.")
        return self.images

    # --- running ----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the computation starts; of a model spread over devices, the first."""
        return next((p.device for p in self.parameters() if p.device.type != "meta"), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the weights."""
        return self.blocks[0].attn.q.weight.dtype if len(self.blocks) else next(self.parameters()).dtype

    @cached_property
    def hook_names(self) -> list[str]:
        """Every activation that can be tapped, in the order of computation."""
        return model_hook_names(self.cfg)

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"] | Pixels | Patches,
        taps: Mapping[str, Tap] | None = None,
        *,
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        token_types: Int[Tensor, "batch pos"] | None = None,
        past: Past | None = None,
        start_at_layer: int = 0,
        stop_at_layer: int | None = None,
        logits_at: Int[Tensor, " batch"] | None = None,
    ) -> Tensor:
        """Run the model.

        Args:
            tokens: token ids; for a vision model pixels [batch, channel, height, width], or patches as
                :meth:`to_patches` gives them; with ``start_at_layer > 0`` the residual stream that enters that block.
            taps: functions by activation name; what one returns replaces the activation.
            attention_mask: 1 for real tokens, 0 for padding, on either side. Positions count real tokens only. An
                encoder without one takes the padding that its tokenizer put there for padding; give it with
                ``start_at_layer``, for a residual stream does not tell.
            token_types: which segment each token belongs to (BERT); all 0 by default.
            past: keys and values of the tokens before these; this call adds its own. The mask then covers both.
            start_at_layer: the first block to run.
            stop_at_layer: the block to stop before; the residual stream [batch, pos, d_model] is returned.
                Negative numbers count from the end.
            logits_at: one position for each example: logits [batch, 1, d_vocab] are made there only.

        Returns:
            Logits [batch, pos, d_vocab], those of a classifier [batch, class], of a model without a head the residual
            stream [batch, pos, d_model]; or what ``stop_at_layer`` and ``logits_at`` say.

        Raises:
            ValueError: an unknown tap, a layer out of range, tokens that are too many or not of this vocabulary, an
                image of the wrong size.
        """
        if taps:
            check_names(taps, self.hook_names)
        tap = Taps(taps)
        layers = range(self._layer(start_at_layer, 0), self._layer(stop_at_layer, self.cfg.n_layers))
        tokens = check_input(self, tokens, layers, logits_at, stop_at_layer is not None)
        is_resid = tokens.is_floating_point() and tokens.ndim == 3
        if attention_mask is None and not self.cfg.causal and not is_resid:
            attention_mask = self.text.mask_of(tokens)
        read = self._check_past(past, layers)
        positions, ids = self.positions(tokens, attention_mask, tap, past)
        try:
            resid = tokens if is_resid else self.embedding(tokens, ids, tap, token_types)
            for layer in layers:
                resid = self.blocks[layer](resid, tap, f"blocks.{layer}", positions[layer])
            return resid if stop_at_layer is not None else self.logits(resid, tap, logits_at, attention_mask)
        except BaseException:
            if past is not None:
                past.cut(read)
            raise

    @property
    def needs_whole_text(self) -> bool:
        """Whether a token's activations depend on later ones, or on all queries at once: no key-value cache then."""
        whole = any(block.attn.mechanism.whole for block in self.blocks)
        # RoBERTa counts positions by the tokens that are not padding, which a later call does not see.
        return whole or not self.cfg.causal or self.cfg.pad_token is not None

    def _check_past(self, past: Past | None, layers: range) -> int:
        if past is None:
            return 0
        if self.needs_whole_text:
            raise ValueError(f"{self.name} needs the whole text at once; it cannot use a key-value cache.")
        return past.read_by(layers)

    def embedding(self, tokens: Tensor, ids: Tensor, tap: Taps = NO_TAPS, types: Tensor | None = None) -> Tensor:
        """The residual stream [batch, pos, d_model] that enters block 0."""
        if tokens.is_floating_point():
            return embed_image(self, tokens, tap)
        return embed_tokens(self, tokens, ids, types, tap)

    def logits(
        self, resid: Tensor, tap: Taps = NO_TAPS, at: Tensor | None = None, mask: Tensor | None = None
    ) -> Logits:
        """What a residual stream gives: final norm, pooling, head; at all positions or at one of each example.

        A classifier of text reads the first position that is real by ``mask`` [batch, pos].
        """
        if at is not None:
            if self.cfg.pooling != "none":
                raise ValueError(f"{self.name} gives one answer for each example; leave logits_at out.")
            resid = resid[torch.arange(len(resid), device=resid.device), at.to(resid.device)][:, None]
        normed: Tensor = self.ln_final(resid, tap, "ln_final")
        if self.cfg.head == "none":
            return normed
        if self.cfg.pooling != "none":
            normed = tap("hook_pooled", pooled(normed, self.cfg, mask))
        return tap("hook_unembed", self.unembed(normed, tap))

    def unembed(self, normed: Tensor, tap: Taps = NO_TAPS) -> Logits:
        """Logits of what went through the final norm, and was pooled where the model pools."""
        read = normed if self.head is None else self.head(normed, tap)
        return softcap(self.unembedding(read), self.cfg.logit_softcap)

    def positions(
        self, tokens: Tensor, attention_mask: Tensor | None = None, tap: Taps = NO_TAPS, past: Past | None = None
    ) -> tuple[list[Positions], Tensor]:
        """Rotary angles and visibility of one call for each layer, and the position ids [1 or batch, pos].

        Raises:
            ValueError: the prompt is empty or longer than the context.
        """
        return positions_of(self, tokens, attention_mask, past, tap)

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

        given = dict(taps or {})
        chosen = {name: Keep(kept, name, given.get(name)) for name in select_names(names, self.hook_names)}
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
            found_names = select_names(name, self.hook_names)
            if not found_names:
                raise ValueError("A hook's predicate matches no activation; model.hook_names lists them.")
            for found in found_names:
                by_name.setdefault(found, []).append(function)
        return cast(Tensor, self(tokens, {name: _chain(name, fns) for name, fns in by_name.items()}, **kwargs))

    def generate(
        self, tokens: str | Sequence[str] | Int[Tensor, "batch pos"], n: int = 20, **options: Any
    ) -> Int[Tensor, "batch pos_and_new"]:
        """Texts or tokens, as tokens, with up to ``n`` new ones behind; see :mod:`workbench.models.generate`."""
        from workbench.models.generate import generate

        return generate(self, tokens, n, **options)

    def with_attention(
        self,
        key: str,
        *,
        heads: Sequence[tuple[int, int]] | None = None,
        layers: Sequence[int] | None = None,
        **options: float,
    ) -> Transformer:
        """The same model, weights shared, with another attention mechanism; see :func:`variants.with_attention`."""
        from workbench.models.variants import with_attention

        return with_attention(self, key, heads=heads, layers=layers, **options)

    def _layer(self, layer: int | None, default: int) -> int:
        if layer is None:
            return default
        n = self.cfg.n_layers
        if not -n <= layer <= n:
            raise ValueError(f"Layer {layer} does not exist: {self.name} has layers 0 to {n - 1}.")
        return layer + n if layer < 0 else layer


def _chain(name: str, functions: Sequence[HookFunction]) -> Tap:
    def tap(value: Tensor) -> Tensor:
        for function in functions:
            replaced = function(value, Hook(name))
            value = value if replaced is None else replaced
        return value

    return tap
