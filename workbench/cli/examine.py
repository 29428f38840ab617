"""``workbench examine``: whether the circuit of a run is luck, whole, free of ballast, and the same another time."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from workbench.cli.console import (
    AsJson,
    InterruptionError,
    Store,
    complain,
    number,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    stoppable,
)
from workbench.runs import RunError, RunStore
from workbench.runs.files import canonical_json
from workbench.runs.held import held
from workbench.runs.sections import Section
from workbench.runs.store import version

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.circuits import Circuit, Progress
    from workbench.circuits.activations import AnyAblation
    from workbench.circuits.progress import ProgressFn
    from workbench.circuits.task import Task
    from workbench.models import Transformer
    from workbench.runs import Run

USUAL = ("controls", "completeness", "minimality", "curve")
PARTS = (*USUAL, "stability", "untrained")
FOLDER, SETTINGS = "examinations", "examination.json"
_SHOWN = 12  # edges in the table; --json has them all


def examine(
    run: Annotated[str, typer.Argument(help="Id of a run, the start of it, or a run's folder.")],
    what: Annotated[str, typer.Option(help=f"Of {', '.join(PARTS)}; with commas.")] = ",".join(USUAL),
    edges: Annotated[int | None, typer.Option(help="Edges before pruning; the run's own if left out.")] = None,
    ablation: Annotated[str | None, typer.Option(help="What other edges carry; the run's own if left out.")] = None,
    draws: Annotated[int, typer.Option(help="Random circuits, and random sets to remove.", min=1)] = 20,
    test: Annotated[str, typer.Option(help="Of edges: paired or inflated.")] = "paired",
    correction: Annotated[str, typer.Option(help="For many edges: holm, bh or none.")] = "holm",
    pieces: Annotated[int, typer.Option(help="Of stability: pieces of the prompts, each searched.", min=2)] = 8,
    models: Annotated[int, typer.Option(help="Of untrained: random models, each searched.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    into: Annotated[
        Path | None, typer.Option(help="Folder for what is finished; one of its own in the run's if left out.")
    ] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Examine the circuit of a run: controls, completeness, minimality, intervals, stability.

    What is finished is kept; the same command goes on where it was stopped or killed.
    """
    parts = [part.strip() for part in what.split(",") if part.strip()]
    for part in parts or [""]:
        if part not in PARTS:
            raise ValueError(f"There is no examination '{part}'; choose of {', '.join(PARTS)}.")
    found = RunStore(store).open(run)
    circuit = found.circuit(edges)
    from workbench.circuits.activations import check_ablation
    from workbench.circuits.intervals import adjust

    kind = ablation or str(found.info.settings.get("ablation", "resample"))
    check_ablation(kind)
    adjust([], cast(Any, correction))
    size = edges if edges is not None else found.info.n_edges or circuit.n_edges
    asked = _Asked(kind, size, draws, test, correction, pieces, models, seed)
    folder = into.expanduser() if into is not None else found.folder / FOLDER / _digest(asked, found, circuit)
    with held(folder, _settings(asked, found, circuit), what="examination", file=SETTINGS, option="--into"):
        results = _examined(parts, asked, found, circuit, folder)
    if as_json:
        print_json({"run": found.id, "n_edges": circuit.n_edges, **results})
    else:
        _print(results, circuit.n_edges)
    if len(results) < len(parts) or not all(one["complete"] for one in results.values()):
        raise InterruptionError(f"Stopped; what was finished is kept in {folder}, the same command goes on.")


@dataclass(frozen=True)
class _Asked:
    """The settings of an examination, as the command line names them; ``edges`` before pruning."""

    ablation: str
    edges: int
    draws: int
    test: str
    correction: str
    pieces: int
    models: int
    seed: int


def _settings(asked: _Asked, found: Run, circuit: Circuit) -> dict[str, Any]:
    """All that the results hang on."""
    mask = hashlib.sha256(circuit.mask.numpy().tobytes() + found.scores.values.numpy().tobytes()).hexdigest()[:8]
    return {"version": version(), "run": found.id, "circuit": mask, **asdict(asked)}


def _digest(asked: _Asked, found: Run, circuit: Circuit) -> str:
    """Name of the folder of an examination."""
    return hashlib.sha256(canonical_json(_settings(asked, found, circuit)).encode()).hexdigest()[:8]


def _examined(parts: list[str], asked: _Asked, found: Run, circuit: Circuit, folder: Path) -> dict[str, dict[str, Any]]:
    """Each section's results as plain data: those that are finished from the folder, the rest worked out."""
    from workbench.circuits import Stopped
    from workbench.remake import model_of, task_of
    from workbench.runs.constants import with_constants

    sections = {part: Section(folder, part) for part in PARTS}
    results = {part: data for part in parts if (data := sections[part].finished) is not None}
    left = [part for part in parts if part not in results]
    if results:
        rest = f"; going on with {', '.join(left)}" if left else ""
        complain(f"Finished before: {', '.join(results)}{rest}.")
    if not left:
        return results
    with stoppable() as stop, progress_bar() as bar:
        model = model_of(found, bar)
        task = task_of(found, model)

        def progress(step: Progress) -> bool:
            bar(step.done, step.total, step.what)
            return not stop()

        try:
            kind = with_constants(cast(Any, asked.ablation), model, task, [found.folder, folder], progress)
            work = _work(model, task, circuit, kind, asked, found, sections, progress)
            for part in left:
                results[part] = _plain(work[part]())
                if results[part]["complete"]:
                    sections[part].finish(results[part])
                if stop():
                    break
        except Stopped:
            pass
    return {part: results[part] for part in parts if part in results}


def _plain(found: Any) -> dict[str, Any]:
    """A result as plain data, without the scores that it is about."""
    return {name: value for name, value in asdict(found).items() if name != "scores"}


def _work(
    model: Transformer,
    task: Task,
    circuit: Circuit,
    kind: AnyAblation,
    asked: _Asked,
    found: Run,
    sections: dict[str, Section],
    progress: ProgressFn,
) -> dict[str, Callable[[], Any]]:
    """How each section is worked out, each with its place for what it has on the way."""
    from workbench import circuits

    say: dict[str, Any] = {"seed": asked.seed, "progress": progress}

    def judged(examine: Callable[..., Any], part: str, about: Any = circuit, **own: Any) -> Callable[[], Any]:
        return lambda: examine(model, task, about, kind, **own, **say, **sections[part].metrics)

    def stability() -> Any:
        options = _search(found, asked, kind)
        pieces = min(asked.pieces, len(task))
        return circuits.prompt_stability(model, task, **options, pieces=pieces, **say, **sections["stability"].scores)

    def untrained() -> Any:
        options = {key: value for key, value in _search(found, asked, kind).items() if key != "ablation"}
        place = sections["untrained"].record(circuits.UntrainedControl)
        return circuits.untrained_control(model, task, **options, ablation=kind, draws=asked.models, **say, **place)

    return {
        "controls": judged(circuits.random_control, "controls", draws=asked.draws),
        "completeness": judged(circuits.completeness, "completeness", draws=asked.draws),
        "minimality": judged(circuits.minimality, "minimality", test=asked.test, correction=asked.correction),
        "curve": judged(circuits.curve_interval, "curve", found.scores),
        "stability": stability,
        "untrained": untrained,
    }


def _search(found: Run, asked: _Asked, kind: AnyAblation) -> dict[str, Any]:
    """The run's own search: its method, size and options, but for a seed of its own.

    Raises:
        RunError: the scores are of no method here, such as those of a file.
    """
    from workbench.circuits import methods

    info = found.info
    if info.method not in {one.key for one in methods()}:
        raise RunError(f"Run '{found.id}' was not searched here ({info.method}); leave stability and untrained out.")
    options = {key: value for key, value in info.settings.get("options", {}).items() if key != "seed"}
    if options.get("ablation") == kind:
        options["ablation"] = kind  # with its constants
    ranking = info.settings.get("ranking", "absolute")
    return {"method": info.method, "n_edges": asked.edges, "ranking": ranking, **options}


def _span(one: dict[str, Any], name: str, low: str, high: str) -> str:
    return f"{number(one[name])} ({number(one[low])} to {number(one[high])})"


def _print(results: dict[str, dict[str, Any]], n_edges: int) -> None:
    """The findings, for people."""
    facts: list[tuple[str, object]] = [("Circuit", f"{n_edges:,} edges")]
    if one := results.get("controls"):
        span = _span(one, "mean", "low", "high")
        facts.append(("Faithfulness", f"{number(one['faithfulness'])}; random circuits {span}, p {number(one['p'])}"))
    if one := results.get("completeness"):
        span = _span(one, "incompleteness", "low", "high")
        facts.append(("Incompleteness", f"{span}, worst {number(one['worst'])}; 0 is best"))
    if one := results.get("minimality"):
        how = f"{one['test']} test, {one['correction']}, level {one['alpha']:g}"
        facts.append(("Superfluous", f"{len(one['superfluous']):,} of {len(one['edges']):,} edges ({how})"))
        if one["undecided"]:
            facts.append(("Undecided", f"{len(one['undecided']):,} edges; more prompts would tell"))
    if one := results.get("curve"):
        facts.append(("CMD", _span(one, "cmd", "cmd_low", "cmd_high")))
        facts.append(("CPR", _span(one, "cpr", "cpr_low", "cpr_high")))
    if one := results.get("stability"):
        span = _span(one, "overlap", "overlap_low", "overlap_high")
        always = sum(edge["chosen"] == 1 for edge in one["edges"])
        facts.append(("Overlap", f"{span} of the best {one['n_edges']:,} edges over resampled prompts; 1 is best"))
        facts.append(("Always found", f"{always:,} of {len(one['edges']):,} edges"))
    if one := results.get("untrained"):
        kept = " / ".join(number(value) for value in one["transferred"])
        facts.append(("Untrained", f"faithfulness {kept} of circuits found in random weights"))
    print_facts(facts)
    if one := results.get("minimality"):
        said = dict.fromkeys(one["superfluous"], "superfluous") | dict.fromkeys(one["undecided"], "undecided")
        rows = [
            (e["edge"], f"{e['effect']:+.4f}", f"{e['p_adjusted']:.2g}", said.get(e["edge"], "kept"))
            for e in one["edges"]
        ]
        print_table(["edge", "effect alone#", "p#", ""], rows[:_SHOWN], "\nThe edges that do most on their own")
