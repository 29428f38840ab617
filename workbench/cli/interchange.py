"""``workbench import``, and what ``workbench export`` writes in other people's forms."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from workbench.cli.console import AsJson, InterruptionError, Store, print_json, progress_bar, stoppable
from workbench.runs import Run, RunStore

if TYPE_CHECKING:
    from workbench.circuits.activations import Ablation
    from workbench.circuits.graph import Circuit, Ranking
    from workbench.circuits.progress import Progress, ProgressFn
    from workbench.interchange import Foreign
    from workbench.models import Transformer


_EDGES = 500  # of a circuit where neither file nor user says how many


@dataclass(frozen=True)
class ForeignForm:
    """One form of others that a run can be written in.

    Attributes:
        key: what a user types.
        title: what it is.
        suffix: of the file; empty where a folder is written.
    """

    key: str
    title: str
    suffix: str = ""


FORMS = [
    ForeignForm("eap-ig", "EAP-IG's graph as JSON", ".eap-ig.json"),
    ForeignForm("eap-ig-pt", "EAP-IG's graph as tensors", ".pt"),
    ForeignForm("mib", "MIB submission, importances of edges"),
    ForeignForm("mib-nodes", "MIB submission, importances of heads and MLPs"),
    ForeignForm("mib-circuits", "MIB submission, nine circuits"),
]


def export_foreign(run: Run, key: str, edges: int | None, out: Path | None) -> dict[str, Any]:
    """Write a run in a form of others; what was written, for the user.

    Args:
        run: with scores.
        key: of one of :data:`FORMS`.
        edges: of the circuit that is marked in EAP-IG's forms.
        out: the file or, for MIB, the folder of the submission.

    Raises:
        ValueError: the run has no scores, or the file cannot be written.
    """
    from workbench import interchange
    from workbench.export import write
    from workbench.remake import model_of

    form = next(form for form in FORMS if form.key == key)
    circuit = run.circuit(edges)
    with progress_bar() as bar:
        # The form wants the width of the residual stream, which a run does not keep.
        d_model = model_of(run, bar).cfg.d_model
    if not key.startswith("mib"):
        path = out or Path(f"{run.id}{form.suffix}")
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder; name a file, such as {path / (run.id + form.suffix)}.")
        make = interchange.to_pt if key == "eap-ig-pt" else interchange.to_json
        data = make(circuit, d_model)
        write(path, data)
        return {"run": run.id, "file": str(path), "format": key, "bytes": len(data)}
    about: Any = {
        "task": str(run.info.task.get("name", "task")),
        "model": str(run.info.model.get("name", "model")),
        "d_model": d_model,
    }
    folder = out or Path(f"{run.id}-mib")
    if folder.is_file():
        raise ValueError(f"'{folder}' is a file; a MIB submission is a folder.")
    if key == "mib-circuits":
        ranking = cast("Ranking", run.info.settings.get("ranking", "absolute"))
        paths = interchange.write_circuits(folder, run.scores, ranking=ranking, **about)
        path = paths[0].parent
    else:
        granularity: Any = "node" if key == "mib-nodes" else "edge"
        path = interchange.write_importances(folder, run.scores, granularity=granularity, **about)
        paths = [path]
    return {"run": run.id, "file": str(path), "format": key, "bytes": sum(one.stat().st_size for one in paths)}


def import_file(
    file: Annotated[Path, typer.Argument(help="EAP-IG's .json or .pt, or a folder of a MIB submission.")],
    model: Annotated[
        str, typer.Option(help="The model that it is about: name, local folder or hub id.")
    ] = "smollm2-135m",
    task: Annotated[str, typer.Option(help="Key of the task to judge it on.")] = "ioi",
    edges: Annotated[
        int | None,
        typer.Option(
            help="Take the best edges by score in place of those that the file marks; 500 where it marks none."
        ),
    ] = None,
    n: Annotated[int, typer.Option(help="Pairs of prompts.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    ablation: Annotated[str, typer.Option(help="What other edges carry while the circuit is judged.")] = "resample",
    ranking: Annotated[str, typer.Option(help="Best by absolute or by signed score.")] = "absolute",
    curve: Annotated[bool, typer.Option(help="Measure faithfulness over sizes (CMD, CPR).")] = True,
    out: Store = None,
    as_json: AsJson = False,
) -> None:
    """Read scores or a circuit of EAP-IG or MIB, judge it on a model, and keep it as a run.

    The circuit is the edges that the file marks, as they are; nothing is pruned.
    """
    from workbench import interchange
    from workbench.circuits.activations import check_ablation, graph_of
    from workbench.cli.discovery import print_run
    from workbench.models import load

    store = RunStore(out)
    store.check_writable()
    check_ablation(ablation)
    found = interchange.read(file)
    found.scores.ranked(cast("Ranking", ranking))  # refuses other words
    with stoppable() as stop, progress_bar() as bar:
        loaded = load(model, progress=bar)
        interchange.check_model(found, loaded, graph_of(loaded))
        ask = _Import(found, model, task, n, seed, edges, ablation, ranking, curve)

        def progress(step: Progress) -> bool:
            bar(step.done, step.total, step.what)
            return not stop()

        run = _keep(ask, loaded, store, progress)
    if as_json:
        print_json(run.info.to_json())
    else:
        print_run(run)
    if run.info.status == "stopped":
        raise InterruptionError(f"Stopped; what was finished is kept in {run.folder}")


@dataclass(frozen=True)
class _Import:
    """What is read, and how it is judged."""

    found: Foreign
    model: str
    task: str
    n: int
    seed: int
    edges: int | None
    ablation: str
    ranking: str
    curve: bool

    @property
    def marked(self) -> Circuit | None:
        """The circuit that the file marks, unless a number of edges is asked for in its place."""
        return self.found.circuit if self.edges is None else None

    @property
    def n_edges(self) -> int:
        """How many edges the circuit is to have."""
        if self.marked is not None:
            return self.marked.n_edges
        return min(_EDGES, self.found.scores.graph.n_edges) if self.edges is None else self.edges

    @property
    def identity(self) -> str:
        """What tells scores and marked edges from those of other files."""
        parts = [self.found.scores.values, *([] if self.marked is None else [self.marked.mask])]
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()[:12]


def _keep(ask: _Import, model: Transformer, store: RunStore, progress: ProgressFn) -> Run:
    """Judge what was read and keep it as a run of the method ``imported``."""
    from workbench.circuits import evaluate, faithfulness_curve, tasks
    from workbench.circuits.progress import Stopped
    from workbench.remake import named
    from workbench.runs.constants import with_constants

    ablation, ranking = cast("Ablation", ask.ablation), cast("Ranking", ask.ranking)
    scores = ask.found.scores
    circuit = scores.top(ask.n_edges, ranking) if ask.marked is None else ask.marked
    task = tasks.load(ask.task, model, n=ask.n, seed=ask.seed)
    writer = store.begin(
        model={"name": model.name, "fingerprint": model.fingerprint, "source": ask.model},
        task={"seed": ask.seed, **task.spec, **named(task)},
        method="imported",
        settings={
            "options": {**scores.settings, "digest": ask.identity},
            "edges": ask.n_edges,
            "ranking": ask.ranking,
            "ablation": ask.ablation,
            "curve": ask.curve,
            **({} if ask.marked is None else {"construction": "marked"}),
        },
        n_edges=ask.n_edges,
    )
    began = time.perf_counter()
    try:
        prompts = {"clean": task.clean_text, "corrupted": task.corrupted_text, "metric": task.metric_name}
        check = task.check(model)
        writer.update(prompts=prompts, check=asdict(check), note=check.warning or "")
        writer.save_scores(scores, marked=ask.marked)
        judged = with_constants(ablation, model, task, [writer.folder], progress)
        writer.update(report=asdict(evaluate(model, task, circuit, judged, progress=progress)))
        if ask.curve:
            writer.update(curve=asdict(faithfulness_curve(model, task, scores, judged, progress=progress)))
        return writer.finish("done", timings={"judge": round(time.perf_counter() - began, 3)})
    except Stopped:
        return writer.finish("stopped", timings={"judge": round(time.perf_counter() - began, 3)})
    except BaseException:
        writer.release()
        raise
