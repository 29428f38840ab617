"""Three questions about a vision transformer, answered on the digits ViT (after Li et al. 2023, arXiv 2303.13731).

Which heads matter; how they attend by distance; which attention patterns exist. On the held-out images of handwritten
digits; what ranks heads for joint pruning is found on training images. With ``--pictures FOLDER`` the pictures are
written there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from common import report

import torch
from torch import Tensor

from workbench.attention.hops import HopProfile, hop_profile
from workbench.attention.importance import IMPORTANCE, Importance, head_importance
from workbench.attention.low_pass import LowPass, low_pass
from workbench.attention.pattern_map import PatternMap, pattern_map
from workbench.attention.pattern_shapes import shapes_of
from workbench.export import to_svg, write
from workbench.figures import Figure, Line, Picture, curves, head_map, scatter
from workbench.figures.patch_maps import patch_maps
from workbench.models import Transformer, load
from workbench.models.taps import Tap
from workbench.models.zoo.digits import split

ORDERS = 30
"""Random orders of pruning."""


def main() -> None:
    """Answer the three questions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures")
    folder: Path | None = parser.parse_args().pictures
    model, images = load("digits-vit"), split()
    x, y = images.test, images.test_labels
    matter = head_importance(model, x, labels=y)
    on_training = head_importance(model, images.train[::4], labels=images.train_labels[::4], metrics=["loss"])
    order = [head.name for head in reversed(on_training.top("loss", model.cfg.n_layers * model.cfg.n_heads))]
    pruning = Pruning(model, x, y)
    by_rank, at_random = pruning.in_order(order), pruning.at_random(order)
    far, smooth, depends = hop_profile(model, x), low_pass(model, x, worst=True), what_decides(model, x)
    kinds, each = pattern_map(model, x), pattern_map(model, x[::5], each=True)
    report(
        "vit_questions",
        f"digits-vit, {len(x)} held-out images: every head",
        table(model, matter, far, smooth, depends),
        **answers(matter, far, smooth, kinds, each),
        **{
            "pruned first to last": order,
            "accuracy with so many pruned": rounded(by_rank),
            "and in random order, mean": rounded([sum(row) / len(row) for row in at_random]),
            "accuracy without a layer's heads": rounded(pruning.by_layer()),
        },
    )
    if folder is not None:
        for name, figure in pictures(model, x, matter, far, depends, kinds, (by_rank, at_random)).items():
            write(folder / f"vit-{name}.svg", to_svg(figure))


def table(
    model: Transformer, matter: Importance, far: HopProfile, smooth: LowPass, depends: dict[str, Tensor]
) -> list[dict[str, object]]:
    """One row for each head."""
    heads = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    return [
        {
            "what": f"a{layer}.h{head}",
            "loss +": float(matter.score("loss")[layer, head]),
            "+/-": float(matter.mean("loss").half_width[layer, head]),
            "accuracy -": float(matter.score("accuracy")[layer, head]),
            "hops": float(far.reach[layer, head]),
            "on class": float(far.apart[layer, head]),
            "by place": float(depends["place"][layer, head]),
            "by image": float(depends["image"][layer, head]),
            "by both": float(depends["both"][layer, head]),
            "keeps of v": float(smooth.measured[layer, head]),
        }
        for layer, head in heads
    ]


def answers(
    matter: Importance,
    far: HopProfile,
    smooth: LowPass,
    kinds: PatternMap,
    each: PatternMap,
) -> dict[str, object]:
    """The figures of the documentation."""
    keys, agreement = matter.agreement()
    assert far.grid is not None
    return {
        "model": {key: round(value, 4) for key, value in matter.base.items()},
        "most": {metric.key: [head.name for head in matter.top(metric.key, 3)] for metric in IMPORTANCE},
        "agreement with the loss": dict(zip(keys, rounded(agreement[keys.index("loss")]), strict=True)),
        "hops of uniform attention": rounded(far.uniform_non_locality),
        "hops, mean of each layer": rounded(far.reach.mean(1)),
        "strength of each layer by hop": [rounded(row) for row in far.strength.mean(1)],
        "constant share of the stream": rounded(smooth.share["resid"]),
        "of what attention writes": rounded(smooth.share["attn"]),
        "of what MLPs write": rounded(smooth.share["mlp"]),
        "worst factor": [rounded(row) for row in smooth.worst] if smooth.worst is not None else None,
        "map of means": kept(kinds),
        "its silhouettes": {k: round(value, 3) for k, value in kinds.silhouette.items()},
        "its clusters": rounded(kinds.shares),
        "their members by layer": by_layer(kinds),
        "map of single images": kept(each),
        "its clusters ": rounded(each.shares),
    }


def kept(found: PatternMap) -> dict[str, float]:
    """What two numbers keep of patterns held out."""
    autoencoder, components = rounded((found.explained, found.explained_pca))
    return {"kept": autoencoder, "by principal components": components, "held out": found.held_out}


def rounded(values: Tensor | Sequence[float]) -> list[float]:
    """To three digits behind the point."""
    return [round(float(value), 3) for value in values]


def by_layer(kinds: PatternMap) -> list[list[int]]:
    """How many patterns of each layer are in each cluster, [cluster][layer]."""
    layers = torch.tensor([int(name[1 : name.index(".")]) for name in kinds.names])
    n = int(layers.max()) + 1
    return [torch.bincount(layers[kinds.cluster == at], minlength=n).tolist() for at in range(len(kinds.shares))]


class Pruning:
    """Accuracy with some heads replaced by their means, over images and positions, of the model as it is."""

    def __init__(self, model: Transformer, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = model, x, y
        _, cache = model.run_with_cache(x, lambda name: name.endswith("attn.hook_z"))
        self.means = [cache["z", layer].mean((0, 1)) for layer in range(model.cfg.n_layers)]

    @torch.no_grad()
    def accuracy(self, names: Sequence[str]) -> float:
        """Share read right without these heads."""
        cfg = self.model.cfg
        gone = torch.zeros(cfg.n_layers, cfg.n_heads, dtype=torch.bool)
        for name in names:
            layer, head = (int(part[1:]) for part in name.split("."))
            gone[layer, head] = True

        def swap(layer: int) -> Tap:
            return lambda z: torch.where(gone[layer][:, None], self.means[layer], z)

        taps = {f"blocks.{layer}.attn.hook_z": swap(layer) for layer in range(cfg.n_layers)}
        return float((self.model(self.x, taps).argmax(-1) == self.y).double().mean())

    def in_order(self, order: Sequence[str]) -> list[float]:
        """Accuracy with the first 0, 1, 2, ... heads of an order pruned."""
        return [self.accuracy(order[:n]) for n in range(len(order) + 1)]

    def at_random(self, order: Sequence[str]) -> list[list[float]]:
        """The same of random orders, [count][order]."""
        generator = torch.Generator().manual_seed(0)
        orders = [[order[i] for i in torch.randperm(len(order), generator=generator)] for _ in range(ORDERS)]
        return [list(row) for row in zip(*(self.in_order(some) for some in orders), strict=True)]

    def by_layer(self) -> list[float]:
        """Accuracy without any head of one layer."""
        heads = range(self.model.cfg.n_heads)
        return [self.accuracy([f"a{layer}.h{head}" for head in heads]) for layer in range(self.model.cfg.n_layers)]


def what_decides(model: Transformer, x: Tensor) -> dict[str, Tensor]:
    """Shares [layer, head] of the variance of weights on patches, over images and queries: an analysis in two ways.

    ``place``: what the mean over images still tells of the query's place. ``image``: what the mean over queries still
    tells of the image. ``both``: the rest, which needs both. They sum to 1.
    """
    found = shapes_of(model, x, each=True).patterns
    p = found.reshape(len(x), model.cfg.n_layers, model.cfg.n_heads, -1, *found.shape[1:])
    head, place, image = p.mean((0, 3), keepdim=True), p.mean(0, keepdim=True), p.mean(3, keepdim=True)

    def squares(part: Tensor) -> Tensor:
        return part.expand_as(p).square().sum((0, 3, 4, 5))

    whole = squares(p - head)
    parts = {"place": place - head, "image": image - head, "both": p - place - image + head}
    return {name: squares(part) / whole for name, part in parts.items()}


def pictures(
    model: Transformer,
    x: Tensor,
    matter: Importance,
    far: HopProfile,
    depends: dict[str, Tensor],
    kinds: PatternMap,
    accuracy: tuple[list[float], list[list[float]]],
) -> dict[str, Figure]:
    """Every picture of the documentation, by name."""
    caption = f"digits-vit, {len(x)} held-out images."
    layers = list(range(model.cfg.n_layers))
    best = [head.name for head in matter.top("loss", 2)]
    return {
        "importance": head_map(
            matter.score("loss"),
            unit="nats",
            selected=best,
            title=f"{' and '.join(best)} matter most: without one of them the loss more than triples",
            caption=f"{caption} Rise of the loss ({matter.base['loss']:.3f} nats) when a head writes its mean.",
        ),
        "pruning": _pruning(*accuracy, caption),
        "hops": curves(
            [
                Line("uniform", far.hops.tolist(), far.uniform[0].tolist(), dashed=True),
                *(Line(f"layer {at}", far.hops.tolist(), far.strength[at].mean(0).tolist()) for at in layers),
            ],
            x_title="hops on the grid of patches",
            y_title="share of attention",
            title=f"No head is local: {float(far.reach.min()):.2f} to {float(far.reach.max()):.2f} hops on average, "
            f"uniform attention {float(far.uniform_non_locality[0]):.2f}",
            caption=f"{caption} Mean over the heads of a layer; between patches, class token apart.",
        ),
        "decides": curves(
            [
                Line(
                    name,
                    layers,
                    depends[key].mean(1).tolist(),
                    depends[key].amin(1).tolist(),
                    depends[key].amax(1).tolist(),
                )
                for key, name in (("place", "the query's place"), ("image", "the image"), ("both", "both together"))
            ],
            x_title="layer",
            y_title="share of the variance of weights",
            title="Early heads look where their place tells them, late heads where the image tells them",
            caption=f"{caption} Variance of a head's weights on patches, in two ways; bands: all heads of a layer.",
        ),
        "patterns": scatter(
            kinds.points,
            names=kinds.names,
            groups=kinds.cluster.tolist(),
            group_names=[f"kind {at}, {100 * float(share):.0f} %" for at, share in enumerate(kinds.shares)],
            x_title="code 1",
            y_title="code 2",
            title=f"{len(kinds.names)} patterns, one for each query of each head, in {len(kinds.shares)} kinds",
            caption=f"{caption} Codes of an autoencoder, clustered by k-means; a point is one query of one head.",
        ),
        "kinds": _kinds(model, x, kinds, caption),
    }


def _pruning(by_rank: list[float], at_random: list[list[float]], caption: str) -> Figure:
    counts = list(range(len(by_rank)))
    return curves(
        [
            Line("least important first", counts, by_rank),
            Line(
                "random order",
                counts,
                [sum(row) / len(row) for row in at_random],
                [min(row) for row in at_random],
                [max(row) for row in at_random],
                dashed=True,
            ),
        ],
        x_title="heads pruned together",
        y_title="share read right",
        title=f"Without the {_free(by_rank)} least important of {len(by_rank) - 1} heads, 95 % are still read right",
        caption=f"{caption} Ranked on training images. Band: lowest to highest of {ORDERS} random orders.",
    )


def _free(by_rank: list[float]) -> int:
    """The most heads that can go with 95 % read right."""
    return max(n for n, accuracy in enumerate(by_rank) if min(by_rank[: n + 1]) >= 0.95)


def _kinds(model: Transformer, x: Tensor, kinds: PatternMap, caption: str) -> Figure:
    """The mean pattern of each cluster over the mean image."""
    assert model.cfg.image is not None
    return patch_maps(
        Picture(x.mean(0), model.cfg.image.grid),
        [
            (f"kind {at}, {100 * share:.0f} %", mean)
            for at, (mean, share) in enumerate(zip(kinds.means, kinds.shares.tolist(), strict=True))
        ],
        title="The mean pattern of each kind",
        caption=f"{caption} Over the mean image.",
    )


if __name__ == "__main__":
    main()
