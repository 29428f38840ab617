"""Checking what is asked of a reading by depth, and doing it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workbench import inspection, lens
from workbench.circuits.decomposition.answers import answer_index, gives_vectors
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.lens import DirectAttribution, LogitLens, TunedLens
from workbench.models import Transformer
from workbench.reading.inputs import read_at, read_input
from workbench.reading.records import Found, Request


@dataclass(frozen=True)
class Asked:
    """A request that was checked against its model.

    Attributes:
        request: as it was made.
        given: the input in the model's own form.
        targets: answers to follow, by number; None for the model's own first.
        against: what is subtracted, by number.
        at: position that is explained; None for a model that answers once.
    """

    request: Request
    given: inspection.Given
    targets: tuple[int, ...] | None
    against: int | None
    at: int | None

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
        ValueError: the text, an answer, a position or a number does not fit; one sentence.
    """
    if gives_vectors(model):
        raise ValueError(f"{model.name} gives vectors, no logits, so there is no answer to read early; choose another.")
    if not 1 <= request.k <= model.cfg.n_out:
        raise ValueError(f"'k' is how many answers to keep, from 1 to {model.cfg.n_out}, not {request.k}.")
    if given is None:
        given = read_input(model, request.text)
    if request.against and not request.targets:
        raise ValueError(f"'{request.against}' is compared with a target; give the target too.")
    targets = tuple(answer_index(model, word) for word in request.targets) or None
    against = answer_index(model, request.against) if request.against else None
    if targets is not None and against == targets[0]:
        raise ValueError(f"'{request.targets[0]}' and '{request.against}' are the same answer; give two.")
    return Asked(request, given, targets, against, read_at(model, given, request.at))


def check(request: Request, model: Transformer, given: inspection.Given | None = None) -> None:
    """Refuse what :func:`take` refuses.

    Raises:
        ValueError: one sentence.
    """
    take(request, model, given)


def run(
    request: Request,
    model: Transformer,
    *,
    given: inspection.Given | None = None,
    tuned: TunedLens | None = None,
    progress: ProgressFn | None = None,
) -> Found:
    """Logit lens, trained lens where there is one, direct attribution, and from where answers stay.

    Args:
        request: what is asked.
        model: that is asked.
        given: an input that was read before, in place of ``request.text``.
        tuned: a trained lens, in place of the file ``request.lens``.
        progress: called after every chunk of positions; returning False stops and keeps what is finished.

    Raises:
        ValueError: as :func:`take`; a lens of another model; activations that are not finite.
        Stopped: stopped before the first positions were read.
    """
    asked = take(request, model, given)
    if tuned is None and request.lens:
        tuned = lens.load_lens(request.lens, model)
    plain = _lens(asked, model, None, progress)
    through: LogitLens | None = None
    direct: DirectAttribution | None = None
    if plain.complete and tuned is not None:
        through = _lens(asked, model, tuned, progress)
    complete = plain.complete and (through is None or through.complete)
    if complete:
        report = Reporter(progress, 1, "attributing the answer")
        first = None if asked.targets is None else asked.targets[0]
        direct = lens.direct_attribution(model, asked.tensor, first, against=asked.against, at=asked.at)
        report.step()
    return Found(
        request,
        asked.given.subject,
        asked.names,
        plain,
        through,
        direct,
        lens.exit_depth(plain),
        complete,
    )


def _lens(asked: Asked, model: Transformer, tuned: TunedLens | None, progress: ProgressFn | None) -> LogitLens:
    return lens.logit_lens(
        model,
        asked.tensor,
        targets=None if asked.targets is None else list(asked.targets),
        k=asked.request.k,
        sublayers=asked.request.sublayers,
        translator=tuned,
        progress=progress,
    )


__all__ = ["Asked", "check", "run", "take"]
