from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import torch

from workbench.circuits.graph import Graph, Scores
from workbench.figures import Figure

SVG = "{http://www.w3.org/2000/svg}"

NASTY = [
    "<script>alert(1)</script>",
    "</svg>",
    "]]>",
    "&amp;",
    "\"'",
    'x" fill="var(--wb-text, #ff0000)"',
    "\x00\x07\x1b",
    "\ud800",
    "\u202eabc",
    "שלום",
    "東京",
    "кот",
    "😀",
    "\r\n\t",
]


def parse(figure: Figure | str) -> Element:
    return ElementTree.fromstring(figure if isinstance(figure, str) else figure.svg)


def having(root: Element, name: str) -> list[Element]:
    """Elements with a class, in the order of drawing."""
    return [e for e in root.iter() if name in e.get("class", "").split()]


def titles(root: Element) -> list[str]:
    return [e.text or "" for e in root.iter(f"{SVG}title")]


def texts(root: Element) -> list[str]:
    return ["".join(t for t in [e.text, *(c.tail for c in e)] if t) for e in root.iter(f"{SVG}text")]


def synthetic(n_layers: int = 4, n_heads: int = 3, has_mlp: bool = True, seed: int = 0) -> Scores:
    """Heavy-tailed scores in which a few nodes carry most, as in real circuits."""
    graph = Graph(n_layers, n_heads, has_mlp=has_mlp)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(len(graph.writers), generator=generator).exp()
    weight[0] = weight.max()
    owner = graph.reader_node
    reader = torch.where(owner >= 0, weight[owner.clamp(min=0)], weight.max())
    noise = torch.randn(len(graph.writers), len(graph.readers), generator=generator)
    return Scores(graph, noise * weight[:, None] * reader * graph.mask)


@dataclass(frozen=True)
class Curve:
    """What a faithfulness curve carries, without the code that measures it."""

    fractions: list[float]
    n_edges: list[int]
    faithfulness: list[float]
    faithfulness_signed: list[float]
    random: list[float] | None
    cpr: float = 3.24
    cmd: float = 0.0541
    metric_full: float = 5.056
    metric_empty: float = -0.484
    n_edges_total: int = 1000
    ablation: str = "resample"
    complete: bool = True


def curve(**changes: object) -> Curve:
    values: dict[str, object] = {
        "fractions": [0.001, 0.01, 0.1, 1.0],
        "n_edges": [1, 8, 97, 1000],
        "faithfulness": [0.2, 0.6, 0.95, 1.0],
        "faithfulness_signed": [0.3, 2.0, 3.5, 1.0],
        "random": [0.0, 0.01, 0.1, 1.0],
    }
    return Curve(**(values | changes))  # type: ignore[arg-type]
