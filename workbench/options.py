"""The settings of a method as page and commands ask for them, read from its signature and docstring; and its cost."""

from __future__ import annotations

import inspect
import re
import time
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workbench.circuits.methods import Method, methods
from workbench.circuits.optimal import PROMPTS, learning_passes
from workbench.circuits.option_values import RANGES, Range, hints_of

if TYPE_CHECKING:
    from workbench.circuits import Task, TaskCheck
    from workbench.models import Transformer

OptionKind = Literal["whole", "number", "choice", "switch", "text"]
# A backward through a frozen model costs about two forwards: gradients of activations, kept for the way back.
BACKWARD = 2.0
# A step of a learned mask: a circuit's forward and backward on a few prompts, in plain forwards of these.
LEARNED_STEP = 10.0
# The check runs the circuit and the ablated model, then the sizes of the curve in three orders (the whole graph once).
CHECKED = 30
# A circuit's run in plain forwards: every reader adds up its own inputs. Measured on SmolLM2-135M.
CIRCUIT = 1.5


@dataclass(frozen=True)
class Option:
    """One setting of a method.

    Attributes:
        name: as :func:`workbench.discover` takes it.
        kind: what it is.
        default: what the method takes when it is left out; None where that means that the method chooses.
        choices: for a ``choice``.
        help: what it is, in a sentence.
        range: for numbers, those that it takes.
    """

    name: str
    kind: OptionKind
    default: Any
    choices: tuple[str, ...] = ()
    help: str = ""
    range: Range | None = None

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name.replace("_", " ").capitalize()


def options_of(record: Method) -> list[Option]:
    """The settings of a method but for its ablation, in the order of its signature."""
    hints, said = hints_of(record.run), _said(record)
    return [
        _option(name, default, hints.get(name), said.get(name, ""))
        for name, default in record.options.items()
        if name != "ablation"
    ]


def _option(name: str, default: Any, hint: Any, said: str) -> Option:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):  # "float | None"
        hint = next((part for part in typing.get_args(hint) if part is not types.NoneType), None)
    if typing.get_origin(hint) is Literal:
        return Option(name, "choice", default, tuple(map(str, typing.get_args(hint))), said)
    if isinstance(default, bool) or hint is bool:
        return Option(name, "switch", default, help=said)
    if isinstance(default, int) or hint is int:
        return Option(name, "whole", default, help=said, range=RANGES.get(name))
    if isinstance(default, float) or hint is float:
        return Option(name, "number", default, help=said, range=RANGES.get(name))
    keys = tuple(one.key for one in methods())
    if default in keys:  # a method that starts from another's scores
        return Option(name, "choice", default, keys, said)
    return Option(name, "text", default, help=said)


def _said(record: Method) -> dict[str, str]:
    """What the docstring says of each argument: the first sentence."""
    _, _, rest = (inspect.getdoc(record.run) or "").partition("\nArgs:\n")
    listed = re.split(r"\n(?=\S)", rest, maxsplit=1)[0]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", "\n" + listed):
        names, colon, text = entry.strip().partition(":")
        words = " ".join(text.split()).replace("``", "")
        if colon:
            first = re.split(r"(?<=[.;])\s", words, maxsplit=1)[0].rstrip(";.")
            found |= {name.strip(): f"{first[:1].upper()}{first[1:]}." for name in names.split(",")}
    return found


@dataclass(frozen=True)
class Readiness:
    """How well a model does a task, and how long its forwards take: what one wants to know before a search.

    Attributes:
        check: the self-check.
        seconds: for one plain forward of all prompts.
        n_edges: edges of the model's graph.
        at_once: how many pairs of prompts a search takes at once, at most.
    """

    check: TaskCheck
    seconds: float
    n_edges: int
    at_once: int


def readiness(model: Transformer, task: Task) -> Readiness:
    """Measure both in one go: two plain forwards.

    Raises:
        ValueError: the task cannot be put to the model, or the model has no graph.
    """
    from workbench.circuits.activations import batch_size_for, graph_of
    from workbench.circuits.sweep import BUDGET

    edges, begin = graph_of(model).n_edges, time.perf_counter()
    check = task.check(model)
    seconds = (time.perf_counter() - begin) / 2
    return Readiness(check, seconds, edges, batch_size_for(model, task, BUDGET))


@dataclass(frozen=True)
class Cost:
    """What a search costs.

    Attributes:
        forwards, backwards: through the model, of all prompts.
        seconds: roughly, with a backward as two forwards.
    """

    forwards: float
    backwards: float
    seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forwards + other.forwards, self.backwards + other.backwards, self.seconds + other.seconds)

    @property
    def words(self) -> str:
        """``about 7 forwards and 5 backwards, roughly 20 s``; ``next to nothing`` where the model is not run."""
        if not self.forwards and not self.backwards:
            return "next to nothing"
        parts = [_count(self.forwards, "forward"), *([_count(self.backwards, "backward")] if self.backwards else [])]
        return f"about {' and '.join(parts)}, roughly {duration(self.seconds)}"


def cost_of(
    record: Method,
    model: Transformer,
    options: Mapping[str, Any],
    seconds: float,
    pairs: int | None = None,
    at_once: int | None = None,
) -> Cost | None:
    """The cost of a method with some options; None where it is not known before.

    Args:
        record: the method.
        model: the model.
        options: those that differ from the defaults.
        seconds: for one plain forward of all prompts.
        pairs: how many pairs of prompts there are; without it the cost of what is learned is not known.
        at_once: how many of them fit into memory at once; None for all.
    """
    passes, asked = record.cost_of(model, options), {**record.options, **options}
    if passes is None and record.kind == "learned" and pairs:
        passes = _learned(record, model, asked, pairs, at_once or pairs)
    if passes is None:
        return None
    found = _cost(*passes, seconds)
    return found + learning_cost(seconds, pairs, at_once) if pairs and asked.get("ablation") == "optimal" else found


def learning_cost(seconds: float, pairs: int, at_once: int | None = None) -> Cost:
    """The cost of learning the constants of optimal ablation, once; arguments as of :func:`cost_of`."""
    return _cost(*learning_passes(pairs, prompts=min(PROMPTS, at_once or PROMPTS)), seconds)


def _cost(forwards: float, backwards: float, seconds: float) -> Cost:
    return Cost(forwards, backwards, seconds * (forwards + BACKWARD * backwards))


def _learned(
    record: Method, model: Transformer, options: Mapping[str, Any], pairs: int, at_once: int
) -> tuple[float, float] | None:
    """Steps on a few prompts each, in passes of all prompts, and the method that is started from."""
    if not {"steps", "prompts"} <= set(options):
        return None
    start = next((one for one in methods() if one.key == options.get("start") and one.key != record.key), None)
    before = (0.0, 0.0) if start is None else start.cost_of(model)
    if before is None:
        return None
    share = min(int(options["prompts"]), at_once, pairs) / pairs
    return before[0] + LEARNED_STEP * int(options["steps"]) * share, before[1]


def check_seconds(seconds: float) -> float:
    """How long the check of a found circuit takes, roughly.

    Args:
        seconds: for one plain forward of all prompts.
    """
    return CHECKED * CIRCUIT * seconds


def _count(n: float, what: str) -> str:
    shown = f"{n:,.0f}" if n >= 10 or n == int(n) else f"{n:.1f}"
    return f"{shown} {what}{'' if shown == '1' else 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, round(seconds))} s"
