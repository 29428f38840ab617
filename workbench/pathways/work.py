"""Checking what is asked about paths, and doing it: one part after the other, the quick ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from workbench import inspection, paths
from workbench.circuits.decomposition.answers import answer_index, gives_vectors
from workbench.circuits.progress import Progress, ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.paths import Alphabet, Ensemble, GradientMass, QueryResult, TopPaths
from workbench.paths.expansion import KINDS, check_keep
from workbench.pathways.records import KEEP, Found, Request
from workbench.reading.inputs import read_at, read_input

CANCELS = 10.0
"""Sum of the parts over the answer from which on a note says so."""


@dataclass(frozen=True)
class Asked:
    """A request that was checked against its model.

    Attributes:
        request: as it was made.
        given: the input in the model's own form.
        target: answers by number: one, or the right and the wrong one; None for the model's own first.
        at: position; None for the model's own place.
        keep: longest length that is told apart.
    """

    request: Request
    given: inspection.Given
    target: int | tuple[int, int] | None
    at: int | None
    keep: int

    @property
    def tensor(self) -> Tensor:
        """Tokens or pixels."""
        return self.given.tensor

    @property
    def names(self) -> tuple[str, ...]:
        """What stands at each position."""
        return self.given.names


def take(request: Request, model: Transformer, given: inspection.Given | None = None) -> Asked:
    """The request in the model's own terms, or a refusal before any work.

    Args:
        request: what is asked.
        model: that is asked.
        given: an input that was read before (:mod:`workbench.inspection`), in place of ``request.text``.

    Raises:
        ValueError: the text, an answer, a pattern, a position or a number does not fit; one sentence. A pattern that
            does not parse is shown with a caret.
    """
    if gives_vectors(model):
        raise ValueError(
            f"{model.name} gives vectors, no logits, so paths have no answer to lead to; choose another model."
        )
    alphabet = Alphabet.of(model)
    keep = min(KEEP, alphabet.depth) if request.keep is None else check_keep(alphabet, request.keep)
    for pattern in request.queries:
        paths.compile_pattern(pattern, alphabet)
    _check_search(request, alphabet)
    if given is None:
        given = read_input(model, request.text)
    if request.against and not request.target:
        raise ValueError(f"'{request.against}' is compared with a target; give the target too.")
    target: int | tuple[int, int] | None = None
    if request.target:
        target = answer_index(model, request.target)
        if request.against:
            other = answer_index(model, request.against)
            if other == target:
                raise ValueError(f"'{request.target}' and '{request.against}' are the same answer; give two.")
            target = (target, other)
    return Asked(request, given, target, read_at(model, given, request.at), keep)


def check(request: Request, model: Transformer, given: inspection.Given | None = None) -> None:
    """Refuse what :func:`take` refuses.

    Raises:
        ValueError: one sentence.
    """
    take(request, model, given)


def _check_search(request: Request, alphabet: Alphabet) -> None:
    for name, value, least in (("top", request.top, 0), ("budget", request.budget, 1)):
        if value < least:
            raise ValueError(f"'{name}' is a whole number of {least} or more, not {value}.")
    if request.longest is not None:
        check_keep(alphabet, request.longest)


def lengths(asked: Asked, model: Transformer) -> Ensemble:
    """What paths of each length carry."""
    return paths.decompose(model, asked.tensor, asked.target, at=asked.at, keep=asked.keep)


def kinds(asked: Asked, model: Transformer) -> Ensemble:
    """What paths of each kind carry; of at most eight hops, for the work grows with their square."""
    return paths.decompose(model, asked.tensor, asked.target, at=asked.at, keep=min(asked.keep, KINDS), by="kind")


def ask(asked: Asked, model: Transformer, patterns: Sequence[str] | None = None) -> tuple[QueryResult, ...]:
    """What the paths of each pattern carry; by default of the request's.

    Raises:
        PatternError: a pattern does not parse.
        ValueError: there is none.
    """
    wanted = list(asked.request.queries if patterns is None else patterns)
    found = paths.query(model, asked.tensor, wanted, asked.target, at=asked.at)
    assert isinstance(found, list)
    return tuple(found)


def follow(asked: Asked, model: Transformer, progress: ProgressFn | None = None) -> TopPaths:
    """The strongest single paths; a stop keeps those found so far.

    Raises:
        ValueError: the input is too long for such a search.
    """
    request = asked.request
    return paths.top_paths(
        model,
        asked.tensor,
        asked.target,
        k=max(request.top, 1),
        longest=request.longest,
        budget=request.budget,
        at=asked.at,
        progress=progress,
    )


def gradient(asked: Asked, model: Transformer) -> GradientMass:
    """The gradient that comes back through paths of each length."""
    return paths.gradient_mass(model, asked.tensor, asked.target, at=asked.at, keep=asked.keep)


def run(
    request: Request, model: Transformer, *, given: inspection.Given | None = None, progress: ProgressFn | None = None
) -> Found:
    """All that is asked. After the lengths a stop keeps what there is.

    Args:
        request: what is asked.
        model: that is asked.
        given: an input that was read before, in place of ``request.text``.
        progress: called after every part, and in the search after every suffix; returning False stops.

    Raises:
        ValueError: as :func:`take`; activations that are not finite.
        Stopped: stopped before there was anything to keep.
    """
    asked = take(request, model, given)
    parts = 1 + request.kinds + bool(request.queries) + request.gradient
    report = Reporter(progress, parts, "following all paths")
    if progress is not None and progress(Progress(0, parts, report.what)) is False:
        raise Stopped("Stopped before there was anything to keep.")
    by_length = lengths(asked, model)
    report.step()
    by_pattern: tuple[QueryResult, ...] = ()
    by_kind: Ensemble | None = None
    mass: GradientMass | None = None
    top: TopPaths | None = None
    notes = _notes(by_length)
    if report.going and request.queries:
        by_pattern = ask(asked, model)
        report.step()
    if report.going and request.kinds:
        by_kind = kinds(asked, model)
        report.step()
    if report.going and request.gradient:
        mass = gradient(asked, model)
        report.step()
    complete = report.going
    if report.going and request.top:
        try:
            top = follow(asked, model, progress)
            complete = top.complete
        except ValueError as error:  # too long for the search; all else stands
            notes.append(str(error))
    return Found(
        request,
        asked.given.subject,
        asked.names,
        (model.cfg.n_layers, model.cfg.n_heads),
        by_length,
        by_kind,
        by_pattern,
        top,
        mass,
        complete,
        tuple(notes),
    )


def _notes(ens: Ensemble) -> list[str]:
    notes = []
    if ens.cancellation > CANCELS:
        notes.append(
            f"Lengths cancel: together they are {ens.cancellation:.0f} times as large as the answer, so that sums of "
            "lengths and patterns say more than one length."
        )
    return notes


__all__ = ["Asked", "ask", "check", "follow", "gradient", "kinds", "lengths", "run", "take"]
