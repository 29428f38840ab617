"""What an examination keeps in its folder: a file for each finished section, and one for a section under way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.runs.files import canonical_json, write, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.circuits.graph import Scores


class Section:
    """One section of an examination in its folder.

    Args:
        folder: of the examination.
        name: of the section.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.file, self.partial = folder / f"{name}.json", folder / f"{name}.partial.safetensors"

    @property
    def finished(self) -> dict[str, Any] | None:
        """What it found; None where it is not finished, or cannot be read."""
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def finish(self, found: Mapping[str, Any]) -> None:
        """Keep what it found, in place of what it had on the way."""
        write_json(self.file, found)
        self.partial.unlink(missing_ok=True)

    @property
    def metrics(self) -> dict[str, Any]:
        """``resume`` and ``keep`` of :func:`workbench.circuits.evaluate.circuit_metrics`, in this section's file."""
        tensors, _ = self._read()
        return {"resume": tensors.get("metrics"), "keep": lambda values: self._write({"metrics": values}, {})}

    @property
    def scores(self) -> dict[str, Any]:
        """``resume`` and ``keep`` of :func:`workbench.circuits.prompt_stability`, in this section's file."""
        from workbench.circuits.graph import Graph, Scores

        tensors, said = self._read()
        found: list[Scores] = []
        if "values" in tensors and {"graph", "scores"} <= set(said):
            graph = Graph(**json.loads(said["graph"]))
            about = json.loads(said["scores"])
            found = [Scores(graph, values, **one) for values, one in zip(tensors["values"], about, strict=True)]
        return {"resume": found, "keep": self._keep_scores}

    def _keep_scores(self, scores: Sequence[Scores]) -> None:
        import torch

        names = [f.name for f in fields(scores[0]) if f.name not in ("graph", "values", "state")]
        about = [{name: getattr(one, name) for name in names} for one in scores]
        values = torch.stack([one.values.detach().float().cpu() for one in scores])
        said = {"graph": canonical_json(asdict(scores[0].graph)), "scores": canonical_json(about)}
        self._write({"values": values}, said)

    def record(self, kind: Callable[..., Any]) -> dict[str, Any]:
        """``resume`` and ``keep`` of work that hands out its result so far, a record of plain data."""
        _, said = self._read()
        before = kind(**json.loads(said["record"])) if "record" in said else None
        return {"resume": before, "keep": lambda found: self._write({}, {"record": json.dumps(asdict(found))})}

    def _read(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and words of the section under way; empty where there are none to be read."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.partial, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
                return tensors, file.metadata() or {}
        except (OSError, SafetensorError):
            return {}, {}

    def _write(self, tensors: dict[str, Tensor], said: dict[str, str]) -> None:
        from safetensors.torch import save

        write(self.partial, save({name: x.contiguous() for name, x in tensors.items()}, said))
