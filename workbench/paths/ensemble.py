"""What an expansion by path lengths found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Ensemble:
    """What all paths of each length carry of a target. Tensors are float64 on the CPU.

    The lengths sum to what the model says: the direct path from the embedding and what the readout adds have length 0,
    a path that begins at a bias has the length 1 at the sublayer that has the bias.

    Attributes:
        model: name of the model.
        target: what was read.
        unit: ``logits``, or ``residual`` for a direction.
        by: ``length`` or ``kind``.
        keep: the longest length by itself.
        depth: the length of the model's longest path.
        at: [batch] the position that the target was read at; None for models that answer once.
        labels: [length] ``0``, ``1``, ... and, where longer paths are in one, ``9+``.
        by_prompt: [batch, length].
        bias_by_prompt: [batch, length], the part of ``by_prompt`` that begins at biases of sublayers; None where it was
            not told apart.
        readout_bias: [batch], the part of length 0 that the final norm's shift and the unembedding's bias give.
        kinds_by_prompt: [batch, attentions, MLPs] by the number of each on the way, 0 where both are more than
            ``keep``; None by length.
        by_position_by_prompt: [batch, length, pos] the same target read at every position; None for models that answer
            once.
        value: [batch] what the model itself says.
        counts: [length] how many paths there are from the embedding, by heads.
        dtype: number type of the computation.
        rule: how what is not linear is held.
    """

    model: str
    target: str
    unit: str
    by: str
    keep: int
    depth: int
    at: list[int] | None
    labels: list[str]
    by_prompt: Float[Tensor, "batch length"]
    bias_by_prompt: Float[Tensor, "batch length"] | None
    readout_bias: Float[Tensor, " batch"]
    kinds_by_prompt: Float[Tensor, "batch attn mlp"] | None
    by_position_by_prompt: Float[Tensor, "batch length pos"] | None
    value: Float[Tensor, " batch"]
    counts: list[int]
    dtype: str = "float32"
    rule: str = "frozen: patterns, norm scales and gates f(x) / x held at the values of this run"

    @property
    def by_length(self) -> Float[Tensor, " length"]:
        """What each length carries, as a mean over prompts."""
        return self.by_prompt.mean(0)

    @property
    def bias_by_length(self) -> Float[Tensor, " length"] | None:
        """The part of it that begins at biases."""
        return None if self.bias_by_prompt is None else self.bias_by_prompt.mean(0)

    @property
    def kinds(self) -> Float[Tensor, "attn mlp"] | None:
        """By attentions and MLPs on the way, as a mean over prompts."""
        return None if self.kinds_by_prompt is None else self.kinds_by_prompt.mean(0)

    @property
    def by_position(self) -> Float[Tensor, "length pos"] | None:
        """The target read at every position, as a mean over prompts."""
        return None if self.by_position_by_prompt is None else self.by_position_by_prompt.mean(0)

    @property
    def direct(self) -> Float[Tensor, " batch"]:
        """What the embedding gives straight to the target."""
        return self.by_prompt[:, 0] - self.readout_bias

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The sum over lengths."""
        return self.by_prompt.sum(1)

    @property
    def error(self) -> Float[Tensor, " batch"]:
        """The sum less what the model says: rounding."""
        return self.total - self.value

    @property
    def relative_error(self) -> float:
        """The largest error of a prompt, as a part of what the model says there."""
        return float((self.error.abs() / self.value.abs().clamp(min=1e-300)).max())

    @property
    def truncated(self) -> bool:
        """Whether the last entry holds all longer paths."""
        return self.keep < self.depth

    @property
    def cancellation(self) -> float:
        """Sum over lengths of absolute contributions over the absolute value: how much larger the parts are."""
        return float((self.by_prompt.abs().sum(1) / self.value.abs().clamp(min=1e-300)).mean())

    def to_dict(self) -> dict[str, Any]:
        """Means over prompts as plain numbers and lists; counts as text, for they pass what JSON readers hold."""
        plain = {
            name: getattr(self, name)
            for name in ("model", "target", "unit", "rule", "dtype", "by", "keep", "depth", "at")
        }
        tensors = {
            "by_length": self.by_length,
            "by_prompt": self.by_prompt,
            "bias_by_length": self.bias_by_length,
            "readout_bias": self.readout_bias,
            "kinds": self.kinds,
            "by_position": self.by_position,
            "value": self.value,
            "error": self.error,
        }
        lists = {name: None if tensor is None else tensor.tolist() for name, tensor in tensors.items()}
        return plain | {"labels": self.labels, "counts": [str(n) for n in self.counts]} | lists
