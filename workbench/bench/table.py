"""What a benchmark found, as plain data, and as CSV, Markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from workbench.runs.files import finite

Kind = Literal["task", "known"]
RANDOM = "random order"
"""What the cells of edges in random order are called in place of a method."""
Place = tuple[str, str, str, str, int]


@dataclass(frozen=True)
class Cell:
    """One method on one task and model.

    Attributes:
        kind: ``task`` (judged by faithfulness) or ``known`` (judged by the true circuit).
        method: its key, or :data:`RANDOM`.
        task: key of the task; of a known model its name.
        model: name of the model; of a known model its name too.
        seed: of the prompts.
        figures: ``cmd``, ``cpr``, ``accuracy``, ``n_examples`` or ``auroc``, ``average_precision``, ``node_auroc``,
            ``untrained_auroc`` (mean over draws of random weights, with ``_low`` and ``_high``),
            ``chance_average_precision``; and ``seconds``. Empty where there are none.
        reason: why there are none; None where there are.
        fingerprint: of the model.
    """

    kind: Kind
    method: str
    task: str
    model: str
    seed: int
    figures: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    fingerprint: str = ""

    @property
    def place(self) -> Place:
        """What tells a cell from all others."""
        return self.kind, self.method, self.task, self.model, self.seed


@dataclass(frozen=True)
class BenchTable:
    """All cells that are finished.

    Attributes:
        settings: what was asked.
        cells: in the order of the work.
        complete: False where it was stopped before the last cell.
    """

    settings: dict[str, Any]
    cells: list[Cell]
    complete: bool = True

    def of(self, kind: Kind, name: str, figure: str) -> dict[tuple[str, str, str], list[float]]:
        """Values of one figure for each (model, task, method), over seeds; ``name`` of a method or "" for all."""
        found: dict[tuple[str, str, str], list[float]] = {}
        for cell in self.cells:
            if cell.kind == kind and cell.reason is None and name in ("", cell.method):
                found.setdefault((cell.model, cell.task, cell.method), []).append(cell.figures.get(figure, math.nan))
        return found

    def _cell(self, kind: Kind, key: tuple[str, str, str], figure: str) -> str:
        """A figure's mean over seeds with its range; that of draws within a seed where there are several."""
        values, low, high = (self.of(kind, key[2], figure + end)[key] for end in ("", "_low", "_high"))
        return _spread(values, [*values, *low, *high])

    @property
    def refused(self) -> list[Cell]:
        """Cells without figures, each with its reason."""
        return [cell for cell in self.cells if cell.reason is not None]

    def to_csv(self) -> str:
        """One row a cell."""
        figures = sorted({name for cell in self.cells for name in cell.figures})
        buffer = io.StringIO()
        rows = csv.writer(buffer, lineterminator="\n")
        rows.writerow(["kind", "model", "task", "method", "seed", *figures, "reason"])
        for cell in self.cells:
            values = [cell.figures.get(name, "") for name in figures]
            rows.writerow([cell.kind, cell.model, cell.task, cell.method, cell.seed, *values, cell.reason or ""])
        return buffer.getvalue()

    def to_json(self) -> str:
        """Everything; a figure that is no number becomes null."""
        return json.dumps(finite(asdict(self)), indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """A table for tasks, one for known models, means over seeds with their range; then what was refused."""
        asked = ", ".join(
            f"{key} {value}" for key, value in self.settings.items() if key in ("n", "seeds", "ablation", "untrained")
        )
        parts = [f"{asked}." + ("" if self.complete else " Stopped before its end.")]
        for kind, title, columns in _TABLES:
            keys = list(self.of(kind, "", columns[0][0]))
            if not keys:
                continue
            lines = [
                "| " + " | ".join([*title, *(head for _, head in columns)]) + " |",
                "|" + "---|" * len(title) + "---:|" * len(columns),
            ]
            for key in keys:
                cells = [self._cell(kind, key, figure) for figure, _ in columns]
                lines.append("| " + " | ".join([*map(_escaped, key if kind == "task" else key[1:]), *cells]) + " |")
            parts.append("\n".join(lines))
        if self.refused:
            lines = [
                f"- {cell.method} on {_escaped(cell.task)}, {_escaped(cell.model)}, seed {cell.seed}: {cell.reason}"
                for cell in self.refused
            ]
            parts.append("Refused:\n\n" + "\n".join(lines))
        return "\n\n".join(parts) + "\n"


_TABLES: list[tuple[Kind, list[str], list[tuple[str, str]]]] = [
    (
        "task",
        ["model", "task", "method"],
        [("cmd", "CMD"), ("cpr", "CPR"), ("accuracy", "accuracy"), ("seconds", "seconds")],
    ),
    (
        "known",
        ["known model", "method"],
        [
            ("auroc", "AUROC"),
            ("average_precision", "AP"),
            ("node_auroc", "node AUROC"),
            ("untrained_auroc", "random weights"),
            ("seconds", "seconds"),
        ],
    ),
]


def _spread(values: Sequence[float], reach: Sequence[float]) -> str:
    """The mean of the values, and how far they reach where that is more than one number."""
    known, ends = ([value for value in of if math.isfinite(value)] for of in (values, reach))
    if not known:
        return "–"
    mean = f"{sum(known) / len(known):.3g}"
    return mean if min(ends) == max(ends) else f"{mean} ({min(ends):.3g} to {max(ends):.3g})"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
