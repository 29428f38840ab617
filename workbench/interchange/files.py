"""Reading files of others: a JSON file, a file of tensors, or a folder of a MIB submission."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from workbench.circuits.graph import Scores
from workbench.interchange.eap_ig import Foreign, ForeignFileError, from_json, from_pt

_SUFFIXES = (".json", ".pt")


def read(path: str | Path) -> Foreign:
    """Scores, and a circuit where one is marked, from a file or a folder.

    Args:
        path: EAP-IG's ``.json`` or ``.pt``; or a folder of MIB's circuit track with one such file of importances, or
            with circuits of several sizes, whose edges then count for more the smaller the circuit they are in
            already.

    Raises:
        ForeignFileError: there is no such file, or it is not of that form; one sentence with the reason.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return _read_file(path)
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and not file.name.startswith("."))
    if not files:
        inner = sorted(one.name for one in path.iterdir() if one.is_dir())
        hint = f"choose one of its folders, such as {path / inner[0]}." if inner else "choose a submission's folder."
        raise ForeignFileError(f"There is no .json or .pt file in '{path}'; {hint}")
    if len(files) == 1:
        return _read_file(files[0])
    return _nested([_read_file(file) for file in files], path.name)


def _read_file(path: Path) -> Foreign:
    if path.suffix not in _SUFFIXES:
        raise ForeignFileError(f"'{path}' is neither .json nor .pt; those two forms can be read.")
    try:
        if path.suffix == ".json":
            data: Any = json.loads(path.read_text(encoding="utf-8"))
        else:
            # Only plain tensors are loaded: a pickle could run anything.
            data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ForeignFileError(f"There is no file '{path}'.") from None
    except OSError as error:
        raise ForeignFileError(f"Cannot read '{path}' ({error.strerror}).") from None
    except Exception as error:
        kind = "JSON" if path.suffix == ".json" else "a file of plain tensors"
        raise ForeignFileError(f"'{path}' is not {kind} ({type(error).__name__}); export it again.") from None
    return from_json(data, path.name) if path.suffix == ".json" else from_pt(data, path.name)


def _nested(found: list[Foreign], name: str) -> Foreign:
    """Circuits of several sizes as one ranking: an edge's score is the share of the circuits that hold it.

    Of the circuits themselves the smallest that is not empty is kept.
    """
    graph = found[0].scores.graph
    circuits = [one.circuit for one in found if one.circuit is not None]
    for one in found:
        if one.scores.graph != graph:
            raise ForeignFileError(f"'{one.source}' and '{found[0].source}' in '{name}' are about different models.")
    if not circuits:
        raise ForeignFileError(f"None of the {len(found)} files in '{name}' marks an edge as a member; give one file.")
    values = sum((circuit.mask.float() for circuit in circuits), start=torch.zeros(graph.mask.shape)) / len(circuits)
    smallest = min(circuits, key=lambda circuit: circuit.n_edges)
    scores = Scores(graph, values, "imported", "", {"source": name, "granularity": "edge"})
    return Foreign(scores, smallest, {}, "edge", found[0].d_model, name)
