"""A run as it lies in its folder: what ``run.json`` says, checked, and the tensors beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.runs.choose import Construction, choose, size_in_words
from workbench.runs.constants import CONSTANTS
from workbench.runs.files import PARTIAL, RUN, SCORES, RunError, damaged, is_held, read_json

if TYPE_CHECKING:  # torch takes seconds to import; listing runs needs none of it
    from torch import Tensor

    from workbench.circuits.evaluate import Evaluation, FaithfulnessCurve
    from workbench.circuits.graph import Circuit, Graph, Scores

STATUSES = ("running", "done", "stopped", "failed", "interrupted")

T = TypeVar("T")


@dataclass(frozen=True)
class RunInfo:
    """What ``run.json`` says of a run.

    Attributes:
        id: name of the run's folder.
        folder: the folder.
        status: one of :data:`STATUSES`; ``interrupted`` if its process ended without a word.
        title: what the user called it; the id until then.
        created, finished: ISO 8601, UTC.
        model: ``name`` and ``fingerprint``.
        task: ``name``, ``n``, ``seed`` and whatever else makes the task.
        method: key of the discovery method.
        settings: the method's options and how the circuit is chosen and judged.
        seed: seed of the task.
        versions: of workbench, torch, transformers and python.
        timings: seconds by step.
        progress: ``done``, ``total``, ``what``.
        pid: process that made it.
        n_edges: edges asked for; the report says how many pruning left.
        graph: the four fields of the graph.
        scores: the fields of the scores except graph and values; ``from`` where they were taken over from a run.
        check: the task's self-check.
        report: an evaluation's fields.
        curve: a faithfulness curve's fields.
        prompts: ``clean`` and ``corrupted`` texts.
        note: a warning for the reader, such as a model that cannot do the task.
        error: why it failed.
    """

    id: str
    folder: Path
    status: str
    title: str
    created: str
    finished: str | None
    model: dict[str, Any]
    task: dict[str, Any]
    method: str
    settings: dict[str, Any]
    seed: int
    versions: dict[str, Any]
    timings: dict[str, Any]
    progress: dict[str, Any]
    pid: int
    n_edges: int | None = None
    graph: dict[str, Any] | None = None
    scores: dict[str, Any] | None = None
    check: dict[str, Any] | None = None
    report: dict[str, Any] | None = None
    curve: dict[str, Any] | None = None
    prompts: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    error: str | None = None

    @property
    def load_name(self) -> str:
        """What its model is loaded by: where it came from, or its name."""
        return str(self.model.get("source") or self.model.get("name", ""))

    @property
    def short_caption(self) -> str:
        """Model, task, method and settings in one line, for the foot of a picture."""
        options = ", ".join(f"{name} {value}" for name, value in self.settings.get("options", {}).items())
        parts = [
            str(self.model.get("name", "unknown model")),
            f"{self.task.get('name', 'unknown task')}, {self.task.get('n', '?')} pairs, seed {self.seed}",
            f"{self.method} ({options})" if options else self.method,
        ]
        return " · ".join(parts)

    @property
    def caption(self) -> str:
        """:attr:`short_caption` and, where it was measured, how faithful the run's own circuit is."""
        report = self.report or {}
        if report.get("faithfulness") is None:
            return self.short_caption
        return f"{self.short_caption} · faithfulness {report['faithfulness']:.2f} ({report.get('ablation')})"

    @property
    def is_unfinished(self) -> bool:
        """Whether it ended before it was done."""
        return self.status in ("stopped", "interrupted", "failed")

    @property
    def scores_from(self) -> str | None:
        """Id of the run whose scores it took over, since both asked for the same search; None for its own."""
        return (self.scores or {}).get("from")

    @property
    def size(self) -> str:
        """Which edges the circuit is made of, in words: ``500 edges``, ``edges from 0.05 on``."""
        return size_in_words(self.settings, self.n_edges)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data, the folder as text."""
        return {**asdict(self), "folder": str(self.folder)}


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("status", "title", "created", "method", "note"), (str,)),
    **dict.fromkeys(("finished", "error"), (str, type(None))),
    **dict.fromkeys(("model", "task", "settings", "versions", "timings", "progress", "prompts"), (dict,)),
    **dict.fromkeys(("graph", "scores", "check", "report", "curve"), (dict, type(None))),
    **dict.fromkeys(("seed", "pid"), (int,)),
    "n_edges": (int, type(None)),
}


@dataclass(frozen=True)
class Run:
    """A run in its folder: what it says of itself, and its tensors when asked for."""

    info: RunInfo

    @property
    def id(self) -> str:
        """Name of the run's folder."""
        return self.info.id

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.info.folder

    @cached_property
    def graph(self) -> Graph:
        """The model's edge graph.

        Raises:
            RunError: the run has none (it did not come that far) or the folder is damaged.
        """
        from workbench.circuits.graph import Graph

        if self.info.graph is None:
            raise RunError(f"Run '{self.id}' has no scores: it is {self.info.status}.")
        return _rebuild(Graph, self.info.graph, self.folder)

    @cached_property
    def scores(self) -> Scores:
        """The edge scores.

        Raises:
            RunError: the run has none, or the file is missing, truncated or of the wrong shape.
        """
        from workbench.circuits.graph import Scores

        about = {**(self.info.scores or {}), "graph": self.graph, "values": self._kept("values")}
        return _rebuild(Scores, about, self.folder)

    def _kept(self, name: str) -> Tensor:
        """A tensor [writer, reader] beside ``run.json``."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        shape = (len(self.graph.writers), len(self.graph.readers))
        try:
            found = load_file(self.folder / SCORES)[name]
        except FileNotFoundError:
            raise damaged(self.folder, f"'{SCORES}' is missing") from None
        except KeyError:
            raise damaged(self.folder, f"'{SCORES}' lacks '{name}'") from None
        except (SafetensorError, OSError):
            raise damaged(self.folder, f"'{SCORES}' is cut short or is no safetensors file") from None
        if tuple(found.shape) != shape:
            raise damaged(self.folder, f"'{SCORES}' has the shape {list(found.shape)}, not {list(shape)}")
        return found

    @property
    def partial(self) -> Scores | None:
        """What an unfinished search had found, NaN where there is nothing yet; None if it kept nothing."""
        import json

        from safetensors import SafetensorError, safe_open

        from workbench.circuits.graph import Graph, Scores

        try:
            with safe_open(self.folder / PARTIAL, "pt") as file:
                tensors, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
            about: dict[str, Any] = {"graph": _rebuild(Graph, json.loads(said["graph"]), self.folder)}
            about |= {"values": tensors.pop("values")}
            about |= {"state": {name.removeprefix("state."): tensor for name, tensor in tensors.items()}}
            return _rebuild(Scores, {**json.loads(said["scores"]), **about}, self.folder)
        except (FileNotFoundError, SafetensorError, OSError, KeyError, ValueError):
            return None

    @property
    def can_go_on(self) -> bool:
        """Whether it ended before it was done and the same request would go on where it stopped."""
        kept = (self.folder / PARTIAL, self.folder / CONSTANTS)
        return self.info.is_unfinished and (self.info.scores is not None or any(path.exists() for path in kept))

    def circuit(self, n_edges: int | None = None) -> Circuit:
        """The run's circuit, dangling nodes pruned; edges that an imported file marks are taken as they are.

        Args:
            n_edges: how many of the best edges; None for what the run asked for.

        Raises:
            ValueError: more edges than the graph has, a threshold that no edge reaches, or the run has no scores.
        """
        settings = self.info.settings
        ranking = settings.get("ranking", "absolute")
        if n_edges is None and settings.get("construction") == "marked":
            from workbench.circuits.graph import Circuit

            return Circuit(self.graph, self._kept("marked").bool(), self.scores.values)
        if n_edges is not None or "threshold" not in settings:
            count = self.info.n_edges if n_edges is None else n_edges
            if count is None:
                raise RunError(f"Run '{self.id}' names no number of edges; say how many.")
            how: Construction = "greedy" if settings.get("construction") == "greedy" else "top"
            return choose(self.scores, how, count, None, ranking)
        return choose(self.scores, "threshold", None, settings["threshold"], ranking)

    @property
    def report(self) -> Evaluation | None:
        """How faithful the circuit is, if that was measured."""
        if self.info.report is None:
            return None
        from workbench.circuits.evaluate import Evaluation

        return _rebuild(Evaluation, self.info.report, self.folder)

    @property
    def curve(self) -> FaithfulnessCurve | None:
        """Faithfulness over circuit sizes, if that was measured."""
        if self.info.curve is None:
            return None
        from workbench.circuits.evaluate import FaithfulnessCurve

        return _rebuild(FaithfulnessCurve, self.info.curve, self.folder)


def read_info(folder: Path) -> RunInfo:
    """What ``run.json`` says, checked; fields that this version does not know are passed over."""
    data = {key: value for key, value in read_json(folder).items() if key in _TYPES}
    for key, value in data.items():
        if not isinstance(value, _TYPES[key]):
            raise damaged(folder, f"'{key}' in '{RUN}' is not what it should be")
    if data.get("status") == "running" and not is_held(folder):
        data["status"] = "interrupted"
    try:
        return RunInfo(**data, id=folder.name, folder=folder)
    except TypeError:
        missing = [f.name for f in fields(RunInfo) if f.name in _TYPES and f.name not in data]
        raise damaged(folder, f"'{RUN}' lacks {', '.join(missing)}") from None


def _rebuild(kind: type[T], data: Mapping[str, Any], folder: Path) -> T:
    """A dataclass from its fields as JSON keeps them: numbers that are not finite come back as NaN."""
    known = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    values = {name: value for name, value in data.items() if name in known}
    for name, value in values.items():
        if value is None and known[name] == "float":
            values[name] = math.nan
        elif isinstance(value, list) and known[name].startswith("list[float]"):
            values[name] = [math.nan if item is None else item for item in value]
    try:
        return kind(**values)
    except TypeError:
        raise damaged(folder, f"'{RUN}' does not hold a whole {kind.__name__}") from None
