"""``workbench discover`` and ``evaluate``: find a circuit, and judge one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from workbench.cli.console import (
    AsJson,
    InterruptionError,
    Say,
    Store,
    complain,
    number,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    say,
    stoppable,
)
from workbench.runs import Run, RunInfo, RunStore, choose

if TYPE_CHECKING:
    from workbench.circuits import Evaluation, FaithfulnessCurve, Progress
    from workbench.circuits.activations import Ablation
    from workbench.circuits.graph import Circuit, Ranking
    from workbench.request import Request

# get_args(Ablation), which a test sees to: --help is to come without torch.
ABLATIONS = ("resample", "mean", "positional-mean", "zero", "optimal")
_SHOWN = 12  # edges in the table; --json has them all


def discover(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Name, local folder or hub id.")] = "smollm2-135m",
    task: Annotated[str, typer.Option(help="Key of the task; see: workbench tasks.")] = "ioi",
    method: Annotated[str, typer.Option(help="Key of the method; see: workbench methods.")] = "eap-ig",
    edges: Annotated[
        int | None, typer.Option(help="Edges of the circuit, before pruning; 500 or all if left out.")
    ] = None,
    n: Annotated[int, typer.Option(help="Pairs of prompts.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps of EAP-IG; its own default is 5.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any option of the method, as name=value.")
    ] = None,
    ablation: Annotated[str, typer.Option(help=f"What other edges carry: {', '.join(ABLATIONS)}.")] = "resample",
    ranking: Annotated[str, typer.Option(help="Best by absolute or by signed score.")] = "absolute",
    greedy: Annotated[bool, typer.Option("--greedy", help="Grow the circuit from the logits.")] = False,
    threshold: Annotated[
        float | None, typer.Option(help="All edges from this score on, in place of a number of edges.")
    ] = None,
    only_done: Annotated[bool, typer.Option("--only-done", help="Only prompts that the model does.")] = False,
    metric: Annotated[str | None, typer.Option(help="logit-diff, prob-diff or kl; the task's own if left out.")] = None,
    curve: Annotated[bool, typer.Option(help="Measure faithfulness over sizes (CMD, CPR).")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Work from the start even if this was done before.")] = False,
    resume: Annotated[str | None, typer.Option(help="Go on with this run, as it began.")] = None,
    out: Store = None,
    as_json: AsJson = False,
) -> None:
    """Find the circuit that a model uses for a task, judge it, and keep the run.

    A run of the same request that was stopped or killed is gone on with.
    """
    store = RunStore(out)
    store.check_writable()
    from workbench import jobs
    from workbench.circuits.methods import method as record_of

    if greedy and threshold is not None:
        raise ValueError("--greedy takes a number of edges and --threshold a score; give one of the two.")
    options = _options(settings or []) | ({} if steps is None else {"steps": steps})
    said = _said(context)
    if "ablation" in said and "ablation" in record_of(method).options:
        options.setdefault("ablation", ablation)
    if edges is None and threshold is None and not greedy:
        threshold = _surviving(method, options)
    source = str(Path(model).expanduser().resolve()) if Path(model).expanduser().is_dir() else model
    request = jobs.Request(
        source,
        task,
        n,
        seed,
        method,
        options,
        jobs.Request.edges if edges is None else edges,
        cast("Ranking", ranking),  # jobs.check() refuses other words
        cast("Ablation", ablation),
        curve,
        "threshold" if threshold is not None else "greedy" if greedy else "top",
        threshold,
        only_done,
        metric,
    )
    if resume is not None:
        earlier = store.open(resume)
        if earlier.info.method == "imported":
            raise ValueError(f"Run '{earlier.id}' was imported, not searched for; import its file again.")
        jobs.check_same_request(earlier, _named(said, request))
        request = jobs.request_of(earlier)
    default_size = edges is None and resume is None
    run = _found(request, store, fresh, None if resume is None else earlier, default_size)
    if as_json:
        print_json(_as_json(run))
    else:
        print_run(run)
    if run.info.status == "stopped":
        what = "what was finished is kept" if run.info.scores else "nothing was finished; the request is kept"
        raise InterruptionError(f"Stopped; {what} in {run.folder}")


def _found(request: Request, store: RunStore, fresh: bool, earlier: Run | None, default_size: bool) -> Run:
    """The run of a request, and a word about where it comes from."""
    from workbench import jobs
    from workbench.models import load

    own = earlier is not None and bool(earlier.info.prompts.get("right"))
    jobs.check(request, own=own)
    began = datetime.now(UTC)
    with stoppable() as stop, progress_bar() as bar:
        model = load(request.model, progress=bar)
        if default_size:
            request = jobs.with_default_size(request, model)
        task = jobs.task_of(earlier, model) if own and earlier is not None else None
        run = jobs.run_discovery(model, request, store, _passed_to(bar), stop, task=task, fresh=fresh, tell=complain)
    if run.info.finished and datetime.fromisoformat(run.info.finished) < began:
        complain("This was found before; --fresh finds it anew.")
    return run


# Names of options where they are not those of a request.
_FIELDS = {"curve": "with_curve"}


def _said(context: typer.Context) -> set[str]:
    """Options that the command line names, as a request calls them."""
    return {
        _FIELDS.get(name, name)
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


def _surviving(method: str, options: dict[str, Any]) -> float | None:
    """The threshold of a method that has one of its own, such as ACDC's: the edges that survive it are the circuit."""
    value = options.get("threshold")
    given = isinstance(value, int | float) and not isinstance(value, bool)  # other words are refused by jobs.check()
    return float(cast("float", value)) if given and method == "acdc" else None


def _named(said: set[str], request: Request) -> dict[str, Any]:
    """What the command line says of a request, without what it left to the defaults."""
    from dataclasses import fields

    if said & {"greedy", "threshold"}:
        said = said | {"construction"}
    given = {f.name: getattr(request, f.name) for f in fields(request) if f.name in said}
    return {**given, "options": request.options}


def _passed_to(bar: Say) -> Callable[[Progress], bool | None]:
    def step(progress: Progress) -> None:
        bar(progress.done, progress.total, progress.what)

    return step


def _options(pairs: list[str]) -> dict[str, Any]:
    """``["steps=3"]`` as ``{"steps": 3}``: what is JSON is read as such, the rest is text.

    Raises:
        ValueError: an entry without ``=``.
    """
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"'--set {pair}' is not name=value; write for example --set steps=3.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _top_edges(run: Run, n_edges: int | None = None) -> list[dict[str, Any]]:
    """The edges of the run's circuit, strongest first."""
    circuit = run.circuit(n_edges)
    edges = [{"edge": name, "score": circuit.score(name)} for name in circuit.edges]
    return sorted(edges, key=lambda edge: (-abs(edge["score"]), edge["edge"]))


def _as_json(run: Run) -> dict[str, Any]:
    return run.info.to_json() | {"edges": _top_edges(run) if run.info.scores else []}


def print_run(run: Run) -> None:
    """The finding, for people."""
    info = run.info
    task, check = info.task, info.check or {}
    options = ", ".join(f"{name} {value}" for name, value in info.settings.get("options", {}).items())
    unit = info.prompts.get("metric", "metric")
    asked = f"{info.model['name']}, {task['name']} ({task['n']} pairs, seed {task['seed']})"
    how = f"{info.method} ({options})" if options else info.method
    facts: list[tuple[str, object]] = [("Asked", f"{asked}, {how}, {info.size}")]
    if check:
        shares = f"right above wrong {check['accuracy']:.1%}, top-1 {check['top1']:.1%}"
        means = f"{number(check['metric_clean'])} (corrupted {number(check['metric_corrupted'])})"
        facts.append(("Self-check", f"{shares}, mean {unit} {means}"))
    facts.append(("Warning", info.note))
    if info.scores_from is not None:
        facts.append(("Scores", f"taken over from run {info.scores_from}"))
    if report := run.report:
        facts += report_facts(report, unit, None if _is_marked(info) else info.n_edges)
    if curve := run.curve:
        facts += curve_facts(curve)
    facts += [("Took", ", ".join(f"{step} {seconds:.1f} s" for step, seconds in info.timings.items()))]
    print_facts(facts)
    edges = _top_edges(run) if info.scores else []
    if info.scores and not edges:
        say(f"Of {info.size} none is on a path from input to logits; ask for more with --edges.")
    if edges:
        rows = [(i + 1, e["edge"], f"{e['score']:+.4f}") for i, e in enumerate(edges[:_SHOWN])]
        print_table(["rank#", "edge", f"score ({unit})#"], rows, f"\nThe strongest of {len(edges)} edges")
    say(f"Run {info.id} is kept in {info.folder}")
    if info.is_unfinished:
        say(f"It was {info.status}; go on with: workbench discover --resume {info.id}")


def report_facts(report: Evaluation, unit: str, asked: int | None = None) -> list[tuple[str, object]]:
    """Size and faithfulness of a circuit, in words."""
    before = f" left of {asked:,}" if asked is not None else ""
    size = f"{report.n_edges:,} edges{before}, {report.n_nodes} nodes; the graph has {report.n_edges_total:,}"
    partly = "" if report.complete else f" (stopped: on {report.n_examples} prompts)"
    ends = f"full model {number(report.metric_full)}, empty circuit {number(report.metric_empty)}"
    means = f"mean {unit} {number(report.metric)} ({ends}, {report.ablation} ablation)"
    right = "" if report.accuracy is None else f"; right above wrong {report.accuracy:.1%}"
    return [("Circuit", size), ("Faithfulness", f"{number(report.faithfulness)}{partly}: {means}{right}")]


def curve_facts(curve: FaithfulnessCurve) -> list[tuple[str, object]]:
    """The two areas of MIB, in words."""
    partly = "" if curve.complete else f" (stopped: on {curve.n_examples} prompts)"
    return [
        ("CMD", f"{number(curve.cmd)}{partly}: area between the curve and 1, by absolute score; 0 is best"),
        ("CPR", f"{number(curve.cpr)}{partly}: area under the curve, by signed score; higher is better"),
    ]


def _is_marked(info: RunInfo) -> bool:
    """Whether the circuit is what a file marked, so that nothing was asked for and pruned."""
    return bool(info.settings.get("construction") == "marked")


def evaluate(
    run: Annotated[str, typer.Argument(help="Id of a run, the start of it, or a run's folder.")],
    edges: Annotated[int | None, typer.Option(help="Edges before pruning; the run's own if left out.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="All edges from this score on, in place of a number of edges.")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Grow the circuit from the logits.")] = False,
    ranking: Annotated[
        str | None, typer.Option(help="Best by absolute or by signed score; the run's own if left out.")
    ] = None,
    ablation: Annotated[str | None, typer.Option(help="What other edges carry; the run's own if left out.")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Judge another circuit of a run's scores, or its own with another ablation; the run stays as it is."""
    if threshold is not None and (greedy or edges is not None):
        raise ValueError("--threshold says which edges, --edges and --greedy how many; give one of the two.")
    found = RunStore(store).open(run)
    circuit = _other_circuit(found, edges, threshold, greedy, ranking)
    from workbench import circuits, jobs
    from workbench.circuits.activations import check_ablation
    from workbench.runs.constants import with_constants

    kind: Any = cast("Ablation", ablation or found.info.settings.get("ablation", "resample"))
    check_ablation(kind)
    with progress_bar() as bar:
        model = jobs.model_of(found, bar)
        task = jobs.task_of(found, model)
        kind = with_constants(kind, model, task, [found.folder], _passed_to(bar))
        report = circuits.evaluate(model, task, circuit, ablation=kind, progress=_passed_to(bar))
    if as_json:
        print_json({"run": found.id, "report": asdict(report)})
    else:
        asked = None if threshold is not None or _is_marked(found.info) else found.info.n_edges
        print_facts(report_facts(report, task.metric_name, asked if edges is None else edges))


def _other_circuit(run: Run, edges: int | None, threshold: float | None, greedy: bool, ranking: str | None) -> Circuit:
    """The circuit of a run's scores that is asked for; what is left out is as in the run."""
    settings = run.info.settings
    if threshold is None and not greedy and ranking is None:
        return run.circuit(edges)
    best = cast("Ranking", ranking or settings.get("ranking", "absolute"))  # choose() refuses other words
    if threshold is None and edges is None and "threshold" in settings and not greedy:
        threshold = settings["threshold"]
    if threshold is not None:
        return choose(run.scores, "threshold", None, threshold, best)
    grown = greedy or settings.get("construction") == "greedy"
    return choose(run.scores, "greedy" if grown else "top", run.info.n_edges if edges is None else edges, None, best)
