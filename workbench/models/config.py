"""What a hooked transformer is made of, in one frozen record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Pooling = Literal["none", "first", "first-two", "first-and-mean"]


@dataclass(frozen=True)
class ImageConfig:
    """How an image becomes positions of the residual stream.

    Attributes:
        height, width: pixels of an image.
        channels: colours of an image.
        patch_height, patch_width: pixels of a patch.
        prefix: names of the tokens that stand before the patches, such as ``cls``, ``dist``, ``reg0``.
        resize: how positions are interpolated for images of another size; None refuses other sizes.
    """

    height: int
    width: int
    channels: int
    patch_height: int
    patch_width: int
    prefix: tuple[str, ...] = ("cls",)
    resize: Literal["bicubic", "bicubic-antialias"] | None = None

    def __post_init__(self) -> None:
        if self.height % self.patch_height or self.width % self.patch_width:
            raise ValueError(
                f"An image of {self.height}x{self.width} pixels cannot be cut into patches of "
                f"{self.patch_height}x{self.patch_width}; its sides must be multiples of the patch's."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.height // self.patch_height, self.width // self.patch_width

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_numbers(self) -> int:
        """Numbers in one patch: channels x height x width."""
        return self.channels * self.patch_height * self.patch_width


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and choices of one model. Names are TransformerLens's where it has one.

    Attributes:
        family: key of the family that the weights came from, such as ``llama``.
        n_key_value_heads: key and value heads; fewer than ``n_heads`` where query heads share them.
        n_ctx: the most positions a prompt may have.
        norm: ``layer`` (LayerNorm), ``rms`` (RMSNorm) or ``none``.
        act_fn: name of the activation, as in :data:`workbench.models.blocks.ACTIVATIONS`.
        gated_mlp: True for ``out(act(gate(x)) * in(x))`` (SwiGLU and kin), False for ``out(act(in(x)))``.
        positions: ``learned`` (added to the embedding), ``rotary`` (turns queries and keys) or ``shortformer``
            (learned, added to what queries and keys read, never to the residual stream).
        rotary_dim: how many numbers of each head are turned, the first ones; None for all.
        rotary_scale: factor on the rotary cosines and sines (long-context scalings); 1 for most models.
        attn_scale: factor on query-key products; ``d_head ** -0.5`` for most models.
        attn_rounding: what half precision rounds on the way to a score: the ``product``, which is then scaled; the
            scaled ``queries`` and the product (OPT); or ``nothing``, for the product is made in float32 (GPT-Neo).
        attn_softcap: scores go through ``cap * tanh(scores / cap)``; None for most models.
        windows: for each layer how many keys, itself included, a query may look back on; None sees all.
        rotary_kinds: for each layer which row of the inverse frequencies it turns by; None where there is one.
        qk_norm: queries and keys of each head are normalised before they are turned.
        parallel: attention and MLP read the same residual stream.
        shared_norm: in a parallel block, they read it through one norm.
        post_norms: what attention and MLP write is normalised before it is added.
        layer_scale: each number that attention and MLP write has a learned factor (DINOv2).
        embed_scale: factor on the token embedding.
        unembed_bias: bias on the logits.
        logit_softcap: as ``attn_softcap``, on the logits.
        attn_only: there are no MLPs.
        causal: a query sees no later key.
        d_vocab_out: number of logits; None for as many as tokens.
        attn_bias: biases on the query, key and value projections.
        out_bias: bias on the attention output projection.
        mlp_bias: biases in the MLP.
        tied: the unembedding is the embedding.
        exact_norms: in half precision norms multiply by their weight, kept in float32, before they round (Gemma).
        norm_place: ``pre`` (a sublayer reads through its norm), or ``post`` (what it wrote is added, and the sum
            normalised, as in BERT; there is no final norm then).
        embed_norm: the embedding goes through a norm.
        n_token_types: rows of the table of token types (BERT's segments); 0 for none.
        pad_token: tokens of this id take no position (RoBERTa); None for most models.
        image: what an image is cut into; None for models of text.
        pooling: which positions the head reads: ``none`` (every position has logits of its own), ``first``,
            ``first-two`` side by side (DeiT with teacher), ``first-and-mean`` (first beside the mean of the patches).
        head: ``unembed`` (logits), or ``none``: the residual stream is the output.
        head_act: the head has a dense layer with this activation before the logits; None for none.
        head_norm: and a norm after it (masked language models).
        labels: names of the classes of a classifier.
        attention: key of the attention mechanism, see :mod:`workbench.models.mechanisms`.
        attention_options: its settings, where they differ from its own defaults.
        attention_heads: (layer, head) pairs that use it while all others use softmax; None for every head.
        linear: ``plain``, or ``sigma`` for linear layers of a learned spectral norm (Zhai et al. 2023).
    """

    family: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    norm: Literal["layer", "rms", "none"]
    norm_eps: float
    act_fn: str
    gated_mlp: bool
    positions: Literal["learned", "rotary", "shortformer"]
    attn_scale: float
    rotary_base: float = 10_000.0
    rotary_scale: float = 1.0
    attn_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tied: bool = True
    attn_rounding: Literal["product", "queries", "nothing"] = "product"
    attn_softcap: float | None = None
    windows: tuple[int | None, ...] | None = None
    rotary_kinds: tuple[int, ...] | None = None
    rotary_dim: int | None = None
    qk_norm: bool = False
    parallel: bool = False
    shared_norm: bool = False
    post_norms: bool = False
    embed_scale: float = 1.0
    unembed_bias: bool = False
    logit_softcap: float | None = None
    attn_only: bool = False
    causal: bool = True
    d_vocab_out: int | None = None
    norm_place: Literal["pre", "post"] = "pre"
    embed_norm: bool = False
    n_token_types: int = 0
    pad_token: int | None = None
    image: ImageConfig | None = None
    pooling: Pooling = "none"
    head: Literal["unembed", "none"] = "unembed"
    head_act: str | None = None
    head_norm: bool = False
    labels: tuple[str, ...] | None = None
    layer_scale: bool = False
    exact_norms: bool = False
    attention: str = "softmax"
    attention_options: tuple[tuple[str, float], ...] = ()
    attention_heads: tuple[tuple[int, int], ...] | None = None
    linear: Literal["plain", "sigma"] = "plain"

    def __post_init__(self) -> None:
        if self.n_heads % self.n_key_value_heads:
            raise ValueError(
                f"{self.n_heads} query heads cannot share {self.n_key_value_heads} key-value heads evenly; "
                "n_heads must be a multiple of n_key_value_heads."
            )
        if self.positions == "rotary" and (self.rotary_dim or self.d_head) % 2:
            raise ValueError(f"Rotary positions turn pairs of numbers; {self.rotary_dim or self.d_head} is odd.")
        for name in ("windows", "rotary_kinds"):
            given = getattr(self, name)
            if given is not None and len(given) != self.n_layers:
                raise ValueError(f"{name} has {len(given)} entries for {self.n_layers} layers; give one for each.")

    @property
    def group_size(self) -> int:
        """How many query heads share one key-value head."""
        return self.n_heads // self.n_key_value_heads

    @property
    def n_out(self) -> int:
        """Number of logits: classes or words."""
        return self.d_vocab_out or self.d_vocab

    @property
    def d_pooled(self) -> int:
        """Width of what the head reads."""
        return 2 * self.d_model if self.pooling in ("first-two", "first-and-mean") else self.d_model

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a run's record and for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The configuration that :meth:`to_dict` wrote, also after a way through JSON.

        Raises:
            ValueError: fields are missing, surplus or contradict each other.
        """
        known = {field.name for field in fields(cls)}
        if surplus := sorted(set(data) - known):
            raise ValueError(f"The configuration has fields that this version does not know: {', '.join(surplus)}.")
        given = {name: _frozen(value) for name, value in data.items()}
        if data.get("image") is not None:
            given["image"] = ImageConfig(**{name: _frozen(value) for name, value in data["image"].items()})
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"The configuration is incomplete ({error}).") from None


def _frozen(value: Any) -> Any:
    """Lists, as JSON has them, as tuples."""
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list | tuple) else value
