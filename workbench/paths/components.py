"""What paths are made of: starts, heads, biases of attention sublayers, MLPs, and the order in which they come.

A path is a word. It begins with ``embed`` or ``bias`` and goes on with the components that it passes, in the order of
computation: heads ``a9.h6`` and MLPs ``m3``; what it does not name it goes around, along the residual stream. What a
sublayer adds that depends on nothing begins a path there: ``bias a9.h6`` (from the head's values), ``bias a9`` (from
the output bias of layer 9's attention), ``bias m3``. The word ``bias`` alone is what the readout adds: the final norm's
shift and the bias of the unembedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from workbench.models import ModelConfig, Transformer
from workbench.models.blocks import Block
from workbench.models.norm import Norm

Kind = Literal["a", "m"]
EMBED, BIAS = 0, 1
"""The symbols that a word begins with."""


@dataclass(frozen=True)
class Sublayer:
    """An attention (``a``) or an MLP (``m``).

    Attributes:
        kind: which of the two.
        layer: of which block.
        symbols: its components: its heads and, last, the attention as a whole; or the MLP.
        starts: the components at which a path from a bias can begin.
    """

    kind: Kind
    layer: int
    symbols: tuple[int, ...]
    starts: tuple[int, ...] = ()

    @property
    def passed(self) -> tuple[int, ...]:
        """The components that a path can pass: the attention as a whole only begins one."""
        return self.symbols[:-1] if self.kind == "a" else self.symbols


@dataclass(frozen=True)
class Alphabet:
    """The components of a model.

    Attributes:
        n_layers, n_heads: as in the model.
        has_mlp: False for models of attention alone.
        parallel: attention and MLP of a block read the same stream, so that no path goes from one to the other.
        biases: for each layer whether its heads, its attention beside the heads, and its MLP add a constant.
        readout_bias: whether the readout does.
    """

    n_layers: int
    n_heads: int
    has_mlp: bool = True
    parallel: bool = False
    biases: tuple[tuple[bool, bool, bool], ...] = ()
    readout_bias: bool = False

    @classmethod
    def of(cls, model: Transformer | ModelConfig | Alphabet) -> Alphabet:
        """That of a model, or of a configuration, which does not tell where there are biases: then without."""
        if isinstance(model, Alphabet):
            return model
        if isinstance(model, ModelConfig):
            return cls(model.n_layers, model.n_heads, not model.attn_only, model.parallel)
        cfg = model.cfg
        biases = tuple(_constants(block) for block in model.blocks)
        readout = [model.ln_final.bias, getattr(model.unembedding, "bias", None)]
        if model.head is not None:
            readout += [model.head.dense.bias, None if model.head.ln is None else model.head.ln.bias]
        if cfg.head == "none":
            readout = readout[:1]
        return cls(cfg.n_layers, cfg.n_heads, not cfg.attn_only, cfg.parallel, biases, any(map(_some, readout)))

    @cached_property
    def symbols(self) -> list[str]:
        """Names of all components by number, in the order of computation; the two starts first."""
        names = ["embed", "bias"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)] + [f"a{layer}"]
            names += [f"m{layer}"] * self.has_mlp
        return names

    @cached_property
    def index(self) -> dict[str, int]:
        """Number of each component."""
        return {name: number for number, name in enumerate(self.symbols)}

    @cached_property
    def stages(self) -> list[list[Sublayer]]:
        """Sublayers in order; those that read the same stream stand together."""
        width = self.n_heads + 1 + self.has_mlp
        found: list[list[Sublayer]] = []
        for layer in range(self.n_layers):
            first = 2 + layer * width
            heads, beside, fed = self.biases[layer] if self.biases else (False, False, False)
            own = tuple(range(first, first + self.n_heads + 1))
            attention = Sublayer("a", layer, own, own[:-1] * heads + own[-1:] * beside)
            mlp = (first + self.n_heads + 1,)
            block = [attention, *([Sublayer("m", layer, mlp, mlp * fed)] if self.has_mlp else [])]
            found += [block] if self.parallel else [[sublayer] for sublayer in block]
        return found

    @property
    def depth(self) -> int:
        """Sublayers on the longest path."""
        return len(self.stages)

    @property
    def has_biases(self) -> bool:
        """Whether a path can begin at a bias of a sublayer."""
        return any(any(layer) for layer in self.biases)


def _constants(block: Block) -> tuple[bool, bool, bool]:
    """Whether a block's heads, its attention beside them, and its MLP add something that depends on nothing."""
    pre = block.cfg.norm_place == "pre"
    attn, mlp = block.attn, block.mlp

    def shift(norm: Norm | None) -> bool:
        return norm is not None and _some(norm.bias)

    heads = _some(attn.v.bias) or (pre and shift(block.ln1))
    beside = _some(attn.o.bias) or shift(block.ln1_post) or (not pre and shift(block.ln1))
    if mlp is None:
        return heads, beside, False
    fed = _some(mlp.up.bias) or _some(mlp.out.bias) or shift(mlp.ln) or shift(block.ln2_post) or shift(block.mlp_norm)
    return heads, beside, fed


def _some(bias: Tensor | None) -> bool:
    """Whether a bias is there and not all 0."""
    return bias is not None and bool((bias != 0).any())
