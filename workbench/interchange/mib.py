"""MIB's circuit track (Mueller et al. 2025, arXiv 2504.13151): what it takes as a submission.

A folder for each task and model, called ``TASK_MODEL`` (``ioi_gpt2``, ``arc-easy_llama3``). In it either one file
with the importance of each edge or node (``importances.json`` or ``.pt``), or nine circuits, each with at most 0.1,
0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of the edges. Files are EAP-IG's graphs, see :mod:`workbench.interchange.eap_ig`.
The track wants at least two models and two tasks.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

from workbench.circuits.graph import Ranking, Scores
from workbench.interchange.eap_ig import Granularity, to_json, to_pt

Form = Literal["json", "pt"]
PERCENTAGES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""Largest sizes of the nine circuits, in percent of all edges."""

# The track's short names, by how models are called elsewhere.
_MODELS = {
    "gpt2": "gpt2",
    "gpt2-small": "gpt2",
    "qwen2.5-0.5b": "qwen2.5",
    "gemma-2-2b": "gemma2",
    "llama-3.1-8b": "llama3",
}


def folder_name(task: str, model: str) -> str:
    """``TASK_MODEL``: the track's own short name for a model that it has, hyphens for underscores in both parts."""
    last = model.rstrip("/").rpartition("/")[2]
    short = _MODELS.get(last.lower(), last)
    return "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") or "unknown" for part in (task, short))


def write_importances(
    folder: str | Path,
    scores: Scores,
    *,
    task: str,
    model: str,
    d_model: int,
    granularity: Granularity = "edge",
    form: Form = "json",
) -> Path:
    """Write one file of importances into ``folder/TASK_MODEL``; its path.

    Args:
        folder: of the submission.
        scores: of every edge.
        task, model: what the folder is called after.
        d_model: width of the model's residual stream.
        granularity: ``edge`` or ``node``.
        form: ``json`` or ``pt``.

    Raises:
        ValueError: the file cannot be written, or tensors are asked for a model without MLPs.
    """
    make = to_json if form == "json" else to_pt
    path = Path(folder) / folder_name(task, model) / f"importances.{form}"
    return _write(path, make(scores, d_model, granularity=granularity))


def write_circuits(
    folder: str | Path,
    scores: Scores,
    *,
    task: str,
    model: str,
    d_model: int,
    ranking: Ranking = "absolute",
    form: Form = "json",
) -> list[Path]:
    """Write the nine circuits of a ranking into ``folder/TASK_MODEL``, called after their size in percent; their paths.

    Arguments and errors are those of :func:`write_importances`; ``ranking`` says which edges are best.
    """
    make = to_json if form == "json" else to_pt
    paths = []
    for percent in PERCENTAGES:
        circuit = scores.top(math.floor(percent / 100 * scores.graph.n_edges), ranking)
        path = Path(folder) / folder_name(task, model) / f"{percent:g}.{form}"
        paths.append(_write(path, make(circuit, d_model)))
    return paths


def _write(path: Path, data: bytes) -> Path:
    from workbench.runs.files import write

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, data)
    except OSError as error:
        raise ValueError(f"Cannot write '{path}' ({error.strerror}); choose a folder that you may write to.") from error
    return path
