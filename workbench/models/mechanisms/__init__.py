"""Attention mechanisms: ways from queries and keys to a pattern, by name.

``find("sparsemax").weights(scores, call)`` turns masked scores [batch head query key] into a pattern of that shape.
"""

from __future__ import annotations

import math

from workbench.models.lookup import pick
from workbench.models.mechanisms import outputs, pointwise, softmaxes, sparse, tiled
from workbench.models.mechanisms.record import (
    Call,
    Mechanism,
    Parameter,
    hidden,
    options_of,
    parameter_shapes,
)

__all__ = ["MECHANISMS", "Call", "Mechanism", "Parameter", "find", "hidden", "options_of", "parameter_shapes"]

POSITIVE = (1e-12, math.inf)

MECHANISMS: list[Mechanism] = [
    Mechanism(
        key="softmax",
        title="Softmax",
        formula="softmax(s)",
        reference="Vaswani et al. 2017, arXiv 1706.03762",
        weights=softmaxes.softmax,
    ),
    Mechanism(
        key="temperature",
        title="Temperature",
        formula="softmax(s / temperature)",
        reference="Hinton et al. 2015, arXiv 1503.02531",
        weights=softmaxes.temperature,
        options={"temperature": 1.0},
        ranges={"temperature": POSITIVE},
    ),
    Mechanism(
        key="adaptive-temperature",
        title="Adaptive temperature",
        formula="softmax(β s), β = max(polynomial(H), 1) where the entropy H of softmax(s) > 0.5, else 1",
        reference="Velickovic et al. 2024, arXiv 2410.01104",
        weights=softmaxes.adaptive_temperature,
    ),
    Mechanism(
        key="ssmax",
        title="Scalable softmax",
        formula="softmax(c log(n) s)",
        reference="Nakanishi 2025, arXiv 2501.19399",
        weights=softmaxes.ssmax,
        parameters=(Parameter("c", (), 0.43),),
    ),
    Mechanism(
        key="clipped",
        title="Clipped softmax",
        formula="clip((ζ - γ) softmax(s) + γ, 0, 1)",
        reference="Bondarenko et al. 2023, arXiv 2306.12929",
        weights=softmaxes.clipped,
        options={"gamma": -0.03, "zeta": 1.0},
        ranges={"gamma": (-math.inf, 0.0), "zeta": (1.0, math.inf)},
        rows="any",
    ),
    Mechanism(
        key="gated",
        title="Gated attention",
        formula="softmax(s), head output times sigmoid(w · x_h + bias)",
        reference="Bondarenko et al. 2023, arXiv 2306.12929",
        weights=softmaxes.softmax,
        output=outputs.gate,
        parameters=(Parameter("w", ("slice",), 0.0), Parameter("bias", (), 0.0)),
    ),
    Mechanism(
        key="softpick",
        title="Softpick",
        formula="relu(eˢ - 1) / (Σ abs(eˢ - 1) + ε)",
        reference="Zuhri et al. 2025, arXiv 2504.20966",
        weights=pointwise.softpick,
        tiled=tiled.softpick,
        options={"eps": 1e-6},
        ranges={"eps": POSITIVE},
        rows="at most one",
    ),
    Mechanism(
        key="sigmoid",
        title="Sigmoid",
        formula="sigmoid(s + bias - log_n log(n))",
        reference="Ramapuram et al. 2024, arXiv 2409.04431",
        weights=pointwise.sigmoid,
        tiled=tiled.sigmoid,
        options={"bias": 0.0, "log_n": 1.0},
        rows="any",
    ),
    Mechanism(
        key="relu",
        title="ReLU",
        formula="relu(s) / n",
        reference="Wortsman et al. 2023, arXiv 2309.08586",
        weights=pointwise.relu,
        rows="any",
    ),
    Mechanism(
        key="sparsemax",
        title="Sparsemax",
        formula="[s - τ]₊",
        reference="Martins and Astudillo 2016, arXiv 1602.02068",
        weights=sparse.sparsemax,
        tiled=tiled.sparsemax,
    ),
    Mechanism(
        key="entmax15",
        title="1.5-entmax",
        formula="[s / 2 - τ]₊²",
        reference="Peters et al. 2019, arXiv 1905.05702",
        weights=sparse.entmax15,
        tiled=tiled.entmax15,
    ),
    Mechanism(
        key="entmax",
        title="α-entmax",
        formula="[(α - 1) s - τ]₊ to the power 1 / (α - 1)",
        reference="Correia et al. 2019, arXiv 1909.00015",
        weights=sparse.entmax,
        tiled=tiled.entmax,
        options={"iterations": float(sparse.STEPS)},
        ranges={"iterations": (1.0, 1000.0)},
        parameters=(Parameter("alpha", (), 1.5),),
    ),
    Mechanism(
        key="sinkhorn",
        title="Sinkhorn",
        formula="rows and columns of eˢ normalised in turn, rows last",
        reference="Sander et al. 2022, arXiv 2110.11773",
        weights=pointwise.sinkhorn,
        options={"iterations": 3.0},
        ranges={"iterations": (0.0, 1000.0)},
        whole=True,
    ),
    Mechanism(
        key="cosine",
        title="Cosine",
        formula="softmax(exp(log_scale) cos(q, k))",
        reference="Henry et al. 2020, arXiv 2010.04245; Liu et al. 2022, arXiv 2111.09883",
        weights=softmaxes.softmax,
        scores=softmaxes.cosine_scores,
        parameters=(Parameter("log_scale", (), math.log(10)),),
    ),
    Mechanism(
        key="linear",
        title="Linear attention",
        formula="s / Σ s with s = φ(q) · φ(k), φ = elu + 1",
        reference="Katharopoulos et al. 2020, arXiv 2006.16236",
        weights=pointwise.linear,
        scores=pointwise.linear_scores,
    ),
    Mechanism(
        key="selective",
        title="Selective attention",
        formula="softmax(s - F), F = Σ over earlier queries of relu(scores of head 0)",
        reference="Leviathan et al. 2024, arXiv 2410.02703",
        weights=softmaxes.selective,
        whole=True,
    ),
    Mechanism(
        key="value-residual",
        title="Value residual",
        formula="softmax(s) over the values a v + b v_first",
        reference="Zhou et al. 2024, arXiv 2410.17897",
        weights=softmaxes.softmax,
        values=outputs.mixed_values,
        parameters=(Parameter("a", (), 0.5), Parameter("b", (), 0.5)),
    ),
    Mechanism(
        key="differential",
        title="Differential attention",
        formula="softmax(s₁) - λ softmax(s₂), head output normalised",
        reference="Ye et al. 2024, arXiv 2410.05258",
        weights=softmaxes.differential,
        scores=softmaxes.differential_scores,
        output=outputs.head_norm,
        options={"eps": 1e-5},
        ranges={"eps": POSITIVE},
        parameters=(
            # Not zero: the gradient of a product of two zeros is zero, and lambda would never move.
            *(Parameter(name, ("half",), 0.1) for name in ("q1", "k1", "q2", "k2")),
            Parameter("gain", ("d_head",), 1.0),
        ),
        rows="any",
    ),
]


def find(key: str) -> Mechanism:
    """The mechanism called ``key``.

    Raises:
        ValueError: there is none; the message suggests the closest.
    """
    return pick(MECHANISMS, key, "attention mechanism")
