"""What is asked of a discovery, and whether it can be met."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from workbench.circuits import tasks
from workbench.circuits.activations import Ablation, check_ablation, graph_of
from workbench.circuits.graph import Ranking
from workbench.circuits.methods import check_method, check_options, method
from workbench.circuits.tasks.kinds import refuse_other_kinds
from workbench.runs import Construction, Run
from workbench.runs.choose import CONSTRUCTIONS

if TYPE_CHECKING:
    from workbench.models import Transformer


# Methods whose scores are made of the gradient at the clean run alone.
_AT_THE_CLEAN_RUN = ("eap", "relp", "hisp", "atp")


@dataclass(frozen=True)
class Request:
    """What to find, and how to judge it.

    Attributes:
        model: name of the model, for the record; the work is done on the model that is handed over with it.
        task: key of the task.
        n: number of prompt pairs.
        seed: seed of the pairs.
        method: key of the method.
        options: options of the method; what is left out takes the method's default.
        edges: how many of the best edges make the circuit.
        ranking: best by ``absolute`` or by ``signed`` score.
        ablation: what the edges outside the circuit carry while it is judged, and what a method that compares
            with an ablated run compares with; ``resample`` leaves a method that has another default its own.
        with_curve: also measure faithfulness over circuit sizes.
        construction: the best ``edges`` (``top``), as many grown from the logits (``greedy``), or all edges from a
            score on (``threshold``).
        threshold: that score, in units of the metric.
        only_done: only prompts that the model does; more are drawn until there are ``n``.
        metric: instead of the task's own.
    """

    model: str
    task: str
    n: int = 32
    seed: int = 0
    method: str = "eap-ig"
    options: dict[str, Any] = field(default_factory=dict)
    edges: int = 500
    ranking: Ranking = "absolute"
    ablation: Ablation = "resample"
    with_curve: bool = True
    construction: Construction = "top"
    threshold: float | None = None
    only_done: bool = False
    metric: str | None = None

    @property
    def n_edges(self) -> int | None:
        """How many edges are asked for; None where a threshold says which."""
        return None if self.construction == "threshold" else self.edges


def check(request: Request, model: Transformer | None = None, *, own: bool = False) -> dict[str, Any]:
    """See that a request can be met, as far as that can be known without working on it.

    Args:
        request: what is asked.
        model: also compare with this model's graph; None while it is not loaded.
        own: the prompts are somebody's own, so that the task is none of the workbench's.

    Returns:
        The method's options with the defaults filled in.

    Raises:
        ValueError: an unknown task, method, option, ranking or ablation, a number that an option does not take, a task
            that the model cannot be asked, a method that cannot serve it, fewer than one prompt, or a number of edges
            that the graph does not have; one sentence.
    """
    if not own:
        record = tasks.get(request.task)
        if model is not None and tasks.kind_of(model) not in record.kinds:
            refuse_other_kinds(record.key, record.kinds, model, [other.key for other in tasks.for_model(model)])
    check_options(request.method, request.options)
    check_ablation(request.ablation)
    if request.ranking not in get_args(Ranking):
        raise ValueError(f"Unknown ranking '{request.ranking}'; choose 'absolute' or 'signed'.")
    if request.n < 1:
        raise ValueError(f"A task needs at least one pair of prompts, not {request.n}.")
    _check_size(request, model)
    defaults = method(request.method).options
    # What an edge is replaced by while it is scored and while it is judged should be the same thing.
    own_default = defaults.get("ablation", Request.ablation) != Request.ablation  # as hisp's, which is zero
    follows = "ablation" in defaults and not (own_default and request.ablation == Request.ablation)
    same = {"ablation": request.ablation} if follows else {}
    options = {**defaults, **same, **request.options}
    check_options(request.method, options)
    check_method(request.method, model, options)
    return options


def _check_size(request: Request, model: Transformer | None) -> None:
    if request.construction not in CONSTRUCTIONS:
        raise ValueError(f"Unknown construction '{request.construction}'; choose one of {', '.join(CONSTRUCTIONS)}.")
    if request.construction == "threshold":
        if request.threshold is None or not math.isfinite(request.threshold):
            raise ValueError("Edges from a score on need that score; give a threshold.")
        return
    if request.edges < 1:
        raise ValueError(f"A circuit needs at least one edge, not {request.edges}.")
    if model is not None and request.edges > (total := graph_of(model).n_edges):
        raise ValueError(f"{request.edges:,} edges are more than the {total:,} of {model.name}; ask for fewer.")


def with_default_size(request: Request, model: Transformer) -> Request:
    """The request with the default number of edges, or all that the model's graph has if they are fewer."""
    return replace(request, edges=min(Request.edges, graph_of(model).n_edges))


def note_on(method: str, metric: str) -> str:
    """What a person should know of a method with a metric, in a sentence; empty where there is nothing.

    The divergence from the clean run's answer is 0 at the clean run, its least value: so is its gradient there, and
    every score that is made of this gradient alone.
    """
    if metric != "kl" or method not in _AT_THE_CLEAN_RUN:
        return ""
    return (
        f"At the clean run the gradient of kl is 0, so that the scores of '{method}' say nothing; "
        "take eap-ig, exact or acdc instead."
    )


def request_of(run: Run) -> Request:
    """What a run was asked; :func:`workbench.jobs.run_discovery` goes on with it."""
    info, settings = run.info, run.info.settings
    return Request(
        model=info.load_name,
        task=str(info.task.get("file") or info.task.get("name", "")),
        n=int(info.task.get("n", Request.n)),
        seed=info.seed,
        method=info.method,
        options=dict(settings.get("options", {})),
        edges=int(settings.get("edges", info.n_edges or Request.edges)),
        ranking=settings.get("ranking", Request.ranking),
        ablation=settings.get("ablation", Request.ablation),
        with_curve=bool(settings.get("curve", True)),
        construction=settings.get("construction", Request.construction),
        threshold=settings.get("threshold"),
        only_done=info.task.get("keep") == "done",
        metric=info.task.get("metric"),
    )


def check_same_request(run: Run, given: dict[str, Any]) -> None:
    """See that a run is gone on with as it began.

    Args:
        run: to go on with.
        given: fields of a :class:`Request` as they are asked for now, those that were named; of ``options`` too.

    Raises:
        ValueError: one is another than the run began with; the sentence shows both.
    """
    then = asdict(request_of(run))
    options = given.get("options", {})
    pairs = [(name, then.get(name), value) for name, value in given.items() if name != "options"]
    pairs += [(name, then["options"].get(name), value) for name, value in options.items()]
    unlike = [f"{name}: {before!r} then, {now!r} now" for name, before, now in pairs if before != now]
    if unlike:
        raise ValueError(
            f"Run '{run.id}' began with other settings ({'; '.join(unlike)}); go on with those, or start anew."
        )
