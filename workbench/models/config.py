"""What a hooked transformer is made of, in one frozen record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


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
        rotary_scale: factor on the rotary cosines and sines (long-context scalings); 1 for most models.
        attn_scale: factor on query-key products; ``d_head ** -0.5`` for most models.
        attn_softcap: scores go through ``cap * tanh(scores / cap)``; None for most models.
        windows: for each layer how many keys, itself included, a query may look back on; None sees all.
        rotary_kinds: for each layer which row of the inverse frequencies it turns by; None where there is one.
        qk_norm: queries and keys of each head are normalised before they are turned.
        parallel: attention and MLP read the same residual stream.
        shared_norm: in a parallel block, they read it through one norm.
        post_norms: what attention and MLP write is normalised before it is added.
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
    attn_softcap: float | None = None
    windows: tuple[int | None, ...] | None = None
    rotary_kinds: tuple[int, ...] | None = None
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

    def __post_init__(self) -> None:
        if self.n_heads % self.n_key_value_heads:
            raise ValueError(
                f"{self.n_heads} query heads cannot share {self.n_key_value_heads} key-value heads evenly; "
                "n_heads must be a multiple of n_key_value_heads."
            )

    @property
    def group_size(self) -> int:
        """How many query heads share one key-value head."""
        return self.n_heads // self.n_key_value_heads

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a run's record and for the fingerprint."""
        return asdict(self)
