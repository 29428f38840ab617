"""``workbench examine``: whether the circuit of a run is luck, whole, and free of ballast."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from workbench.cli.console import (
    AsJson,
    InterruptionError,
    Store,
    number,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    stoppable,
)
from workbench.runs import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.circuits import Progress
    from workbench.circuits.activations import Ablation

PARTS = ("controls", "completeness", "minimality", "curve")
_SHOWN = 12  # edges in the table; --json has them all


def examine(
    run: Annotated[str, typer.Argument(help="Id of a run, the start of it, or a run's folder.")],
    what: Annotated[str, typer.Option(help="Of controls, completeness, minimality, curve; with commas.")] = ",".join(
        PARTS
    ),
    edges: Annotated[int | None, typer.Option(help="Edges before pruning; the run's own if left out.")] = None,
    ablation: Annotated[str | None, typer.Option(help="What other edges carry; the run's own if left out.")] = None,
    draws: Annotated[int, typer.Option(help="Random circuits, and random sets to remove.", min=1)] = 20,
    test: Annotated[str, typer.Option(help="Of edges: paired or inflated.")] = "paired",
    correction: Annotated[str, typer.Option(help="For many edges: holm, bh or none.")] = "holm",
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Examine the circuit of a run: controls, completeness, minimality, intervals."""
    parts = [part.strip() for part in what.split(",") if part.strip()]
    for part in parts or [""]:
        if part not in PARTS:
            raise ValueError(f"There is no examination '{part}'; choose of {', '.join(PARTS)}.")
    found = RunStore(store).open(run)
    circuit = found.circuit(edges)
    from workbench import circuits
    from workbench.circuits.activations import check_ablation
    from workbench.circuits.intervals import adjust
    from workbench.remake import model_of, task_of

    kind = cast("Ablation", ablation or found.info.settings.get("ablation", "resample"))
    check_ablation(kind)
    chosen, corrected = cast(Any, test), cast(Any, correction)
    adjust([], corrected)
    results: dict[str, Any] = {}
    with stoppable() as stop, progress_bar() as bar:
        model = model_of(found, bar)
        task = task_of(found, model)

        def progress(step: Progress) -> bool:
            bar(step.done, step.total, step.what)
            return not stop()

        say: Any = {"progress": progress}
        work: dict[str, Callable[[], Any]] = {
            "controls": lambda: circuits.random_control(model, task, circuit, kind, draws=draws, seed=seed, **say),
            "completeness": lambda: circuits.completeness(model, task, circuit, kind, draws=draws, seed=seed, **say),
            "minimality": lambda: circuits.minimality(
                model, task, circuit, kind, test=chosen, correction=corrected, seed=seed, **say
            ),
            "curve": lambda: circuits.curve_interval(model, task, found.scores, kind, seed=seed, **say),
        }
        for part in parts:
            try:
                results[part] = work[part]()
            except circuits.Stopped:
                break
            if stop():
                break
    if as_json:
        print_json({"run": found.id, "n_edges": circuit.n_edges, **{k: asdict(v) for k, v in results.items()}})
    else:
        _print(results, circuit.n_edges)
    if len(results) < len(parts) or not all(one.complete for one in results.values()):
        raise InterruptionError("Stopped; what was finished is above.")


def _print(results: dict[str, Any], n_edges: int) -> None:
    """The findings, for people."""
    facts: list[tuple[str, object]] = [("Circuit", f"{n_edges:,} edges")]
    if one := results.get("controls"):
        span = f"{number(one.mean)} ({number(one.low)} to {number(one.high)})"
        facts.append(("Faithfulness", f"{number(one.faithfulness)}; random circuits {span}, p {number(one.p)}"))
    if one := results.get("completeness"):
        span = f"{number(one.incompleteness)} ({number(one.low)} to {number(one.high)})"
        facts.append(("Incompleteness", f"{span}, worst {number(one.worst)}; 0 is best"))
    if one := results.get("minimality"):
        how = f"{one.test} test, {one.correction}, level {one.alpha:g}"
        facts.append(("Superfluous", f"{len(one.superfluous):,} of {len(one.edges):,} edges ({how})"))
        if one.undecided:
            facts.append(("Undecided", f"{len(one.undecided):,} edges; more prompts would tell"))
    if one := results.get("curve"):
        facts.append(("CMD", f"{number(one.cmd)} ({number(one.cmd_low)} to {number(one.cmd_high)})"))
        facts.append(("CPR", f"{number(one.cpr)} ({number(one.cpr_low)} to {number(one.cpr_high)})"))
    print_facts(facts)
    if one := results.get("minimality"):
        said = dict.fromkeys(one.superfluous, "superfluous") | dict.fromkeys(one.undecided, "undecided")
        rows = [(e.edge, f"{e.effect:+.4f}", f"{e.p_adjusted:.2g}", said.get(e.edge, "kept")) for e in one.edges]
        print_table(["edge", "effect alone#", "p#", ""], rows[:_SHOWN], "\nThe edges that do most on their own")
