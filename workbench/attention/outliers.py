"""Outliers of activations, weights and attention: how heavy tails are, where they lie, what removing them does.

Kurtosis ``E (x - mean)^4 / sd^4`` (3 for a normal distribution) and infinity norm ``max |x|`` are what Bondarenko et
al. 2023 ("Quantizable transformers", arXiv 2306.12929) measure outliers with; one is a number more than six standard
deviations from the mean, as in Bondarenko et al. 2021 (arXiv 2109.12948). A few dimensions and positions have nearly
all of them, the same ones through the layers (Sun et al. 2024, "Massive activations", arXiv 2402.17762).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.layers import Given, Text, taken
from workbench.attention.observed import ByHead, Statistics
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.taps import Tap

FAR = 6.0
"""Standard deviations from the mean beyond which a number is an outlier."""


def kurtosis(x: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """``E (x - mean)^4 / (E (x - mean)^2)^2`` over the last axis: 3 for a normal distribution; NaN left out."""
    centred = x.double() - x.double().nanmean(-1, keepdim=True)
    square = centred.square()
    return square.square().nanmean(-1) / square.nanmean(-1).square()


@dataclass(frozen=True)
class ActivationOutliers:
    """Outliers of the residual stream after each layer, at real positions.

    Attributes:
        kurtosis, infinity_norm: of all its numbers, [layer].
        where: (example, position, dimension) of the largest, for each layer.
        by_dimension: outliers in each dimension, [layer, d_model].
        by_position: outliers at each position of the input, [layer, batch, position].
        dimensions: those with an outlier in at least ``share`` of the layers, of most outliers first.
        positions: (example, position) likewise.
        far, share: the thresholds used.
    """

    kurtosis: Float[Tensor, " layer"]
    infinity_norm: Float[Tensor, " layer"]
    where: tuple[tuple[int, int, int], ...]
    by_dimension: Int[Tensor, "layer d_model"]
    by_position: Int[Tensor, "layer batch position"]
    dimensions: tuple[int, ...]
    positions: tuple[tuple[int, int], ...]
    far: float
    share: float


@torch.no_grad()
def activation_outliers(
    model: Transformer,
    tokens: Tensor | Text,
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    far: float = FAR,
    share: float = 0.5,
) -> ActivationOutliers:
    """Outliers of the residual stream after every layer, in one forward.

    Args:
        model: any model.
        tokens, attention_mask: as in :func:`workbench.attention.statistics`.
        far: standard deviations from the mean beyond which a number is one.
        share: of the layers, in which a dimension or position must have one to be shared.

    Raises:
        ValueError: as for :func:`workbench.attention.statistics`.
    """
    given = taken(model, tokens, attention_mask)
    taps: dict[str, Tap] = {}
    records: list[tuple[Tensor, Tensor, tuple[int, int, int], Tensor, Tensor]] = []

    def tap(x: Tensor) -> None:
        x = x.double()
        kept = x[given.real] if given.real is not None else x
        outlying = (x - kept.mean()).abs() > far * kept.std(correction=0)
        size = x.abs()
        if given.real is not None:
            outlying, size = outlying & given.real[..., None], size * given.real[..., None]
        example, position, dimension = (int(at) for at in torch.unravel_index(size.argmax(), size.shape))
        where = (example, position, dimension)
        records.append((kurtosis(kept.flatten()), size.max(), where, outlying.sum((0, 1)), outlying.sum(2)))

    for layer in range(model.cfg.n_layers):
        taps[f"blocks.{layer}.hook_resid_post"] = tap
    _run(model, given, taps, head=False)
    tails, sizes, where, by_dimension, by_position = zip(*records, strict=True)
    dimensions, positions = torch.stack(by_dimension).cpu(), torch.stack(by_position).cpu()
    return ActivationOutliers(
        torch.stack(tails).cpu(),
        torch.stack(sizes).cpu(),
        tuple(where),
        dimensions,
        positions,
        tuple(at[0] for at in _shared(dimensions, share)),
        tuple((at[0], at[1]) for at in _shared(positions, share)),
        far,
        share,
    )


def _shared(counts: Int[Tensor, "layer ..."], share: float) -> list[list[int]]:
    """Places with an outlier in at least ``share`` of the layers, those of most outliers first."""
    common = (counts > 0).double().mean(0) >= share
    places: list[list[int]] = (common & (counts.sum(0) > 0)).nonzero().tolist()
    total = counts.sum(0)
    return sorted(places, key=lambda place: -int(total[tuple(place)]))


def _run(model: Transformer, given: Given, taps: dict[str, Tap], head: bool = True) -> Tensor:
    mask = None if given.real is None else given.real.long()
    more = {} if given.token_types is None else {"token_types": given.token_types}
    stop = None if head else model.cfg.n_layers
    out: Tensor = model(given.tokens, taps, attention_mask=mask, stop_at_layer=stop, **more)
    return out


@dataclass(frozen=True)
class WeightOutliers:
    """One weight matrix.

    Attributes:
        layer: which.
        name: of the matrix in its block, such as ``attn.q``.
        kurtosis, infinity_norm: of its entries.
        largest: the infinity norm in standard deviations.
    """

    layer: int
    name: str
    kurtosis: float
    infinity_norm: float
    largest: float


def weight_outliers(model: Transformer) -> list[WeightOutliers]:
    """Kurtosis and infinity norm of every matrix of every block, those of the heaviest tails first."""
    found = []
    for layer, block in enumerate(model.blocks):
        for name, weight in block.named_parameters():
            if weight.ndim == 2 and name.endswith(".weight"):
                x = weight.detach().double().flatten()
                largest = float(x.abs().max())
                spread = float(x.std(correction=0))
                share = largest / spread if spread else 0.0
                found.append(WeightOutliers(layer, name.removesuffix(".weight"), float(kurtosis(x)), largest, share))
    return sorted(found, key=lambda matrix: -matrix.kurtosis)


@dataclass(frozen=True)
class AttentionOutliers:
    """How unevenly the keys of each head share what it gives.

    Attributes:
        kurtosis: of the mean weights that the keys get, over keys, [layer, head].
        infinity_norm: the largest of them, [layer, head].
        position: where it is, [layer, head]; in real tokens from 0.
        seen: queries that must see a key for it to count.
    """

    kurtosis: ByHead
    infinity_norm: ByHead
    position: Int[Tensor, "layer head"]
    seen: int


def attention_outliers(found: Statistics, seen: int = 8) -> AttentionOutliers:
    """Outliers among the keys by the mean weight that they receive; means over examples.

    Raises:
        ValueError: columns were not asked for, or no key is seen by ``seen`` queries.
    """
    _, by = found.columns()
    weight = found.received_mean.masked_fill((by < seen)[:, None], torch.nan)
    if bool(weight.isnan().all()):
        raise ValueError(f"No key is seen by {seen} queries; give a longer text, or a smaller seen=.")
    mean = weight.nanmean(2)
    largest, position = mean.nan_to_num(-1).max(-1)
    return AttentionOutliers(kurtosis(weight).nanmean(-1), largest, position, seen)


@dataclass(frozen=True)
class Removal:
    """What setting dimensions of the residual stream to zero does.

    Attributes:
        dimensions: which.
        loss: of the model as it is; in nats for each token by default.
        without: with them zero after every layer.
        random: with as many random others zero, each a draw.
    """

    dimensions: tuple[int, ...]
    loss: float
    without: float
    random: tuple[float, ...]


@torch.no_grad()
def removal(
    model: Transformer,
    tokens: Tensor | Text,
    dimensions: Sequence[int],
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    loss: Callable[[Tensor], Tensor | float] | None = None,
    draws: int = 3,
    seed: int = 0,
    progress: ProgressFn | None = None,
) -> Removal:
    """The loss with some dimensions of the residual stream set to zero after every layer, beside random others.

    Args:
        model: any model with a head.
        tokens, attention_mask: as in :func:`workbench.attention.statistics`.
        dimensions: of the residual stream, such as :attr:`ActivationOutliers.dimensions`.
        loss: logits -> loss; by default the mean negative log-probability of the next token, in nats.
        draws: how many random sets of as many other dimensions to compare with.
        seed: of those.
        progress: called after every forward; returning False stops.

    Raises:
        ValueError: no dimension or one that does not exist; or a model whose loss must be given.
        Stopped: ``progress`` asked for it.
    """
    cfg, chosen = model.cfg, sorted(set(dimensions))
    if not chosen or chosen[0] < 0 or chosen[-1] >= cfg.d_model:
        raise ValueError(f"Give dimensions of the residual stream from 0 to {cfg.d_model - 1}; got {chosen}.")
    if 2 * len(chosen) > cfg.d_model and draws:
        raise ValueError(f"There are not {len(chosen)} other dimensions to compare with; give fewer, or draws=0.")
    given = taken(model, tokens, attention_mask)
    if loss is None and (not cfg.causal or cfg.head == "none" or cfg.pooling != "none" or given.n < 2):
        raise ValueError(f"{model.name} predicts no next token here; say with loss= what its logits cost.")
    report = Reporter(progress, 2 + draws, "removing dimensions")

    def cost(without: Sequence[int]) -> float:
        if not report.going:
            raise Stopped("Stopped before all removals were run.")

        def zero(x: Tensor) -> Tensor:
            x[..., list(without)] = 0
            return x

        taps = {f"blocks.{layer}.hook_resid_post": zero for layer in range(cfg.n_layers)} if without else {}
        logits = _run(model, given, dict(taps))
        report.step()
        return float(_next_token(logits, given) if loss is None else loss(logits))

    plain, without = cost(()), cost(chosen)
    others = [at for at in range(cfg.d_model) if at not in set(chosen)]
    generator = torch.Generator().manual_seed(seed)
    random = []
    for _ in range(draws):
        drawn = torch.randperm(len(others), generator=generator)[: len(chosen)].tolist()
        random.append(cost([others[at] for at in drawn]))
    return Removal(tuple(chosen), plain, without, tuple(random))


def _next_token(logits: Float[Tensor, "batch pos d_vocab"], given: Given) -> Tensor:
    """Mean negative log-probability of the next real token, in nats."""
    assert given.ids is not None
    target = given.ids[:, 1:]
    cost = torch.nn.functional.cross_entropy(logits[:, :-1].float().mT, target, reduction="none")
    if given.real is None:
        return cost.mean()
    counts = given.real[:, 1:] & given.real[:, :-1]
    return (cost * counts).sum() / counts.sum()
