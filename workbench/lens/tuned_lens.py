"""The tuned lens: a translator for each layer, trained to say early what the model says at the end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.layers import Given
from workbench.circuits.intervals import bounds, resamples
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.lens.logit_lens import Rows
from workbench.lens.places import (
    answers_at_positions,
    check_answers,
    given_texts,
    names_of_places,
    read_streams,
    real_rows,
)
from workbench.lens.translators import HeldOut, TunedLens, check_model, translated, zeros
from workbench.models import Transformer

Data = Sequence[str] | Sequence[Tensor] | Tensor
KEEP_SECONDS = 5.0
_DECAY = (0.9, 0.999)
_TINY = 1e-8


def train_lens(
    model: Transformer,
    data: Data,
    *,
    steps: int = 100,
    positions: int = 64,
    texts: int = 2,
    width: int = 64,
    rank: int | None = None,
    lr: float = 1e-3,
    held_out: float | Data = 0.25,
    seed: int = 0,
    resume: TunedLens | None = None,
    keep: Callable[[TunedLens], None] | None = None,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> TunedLens:
    """Train ``x -> x + W x + b`` at every place but the last to minimise KL(model's own answer || lens).

    Belrose et al. 2023 (arXiv 2303.08112, section 3): translators begin as the identity, the final norm and
    unembedding stay the model's own, and the loss is the KL from the final distribution, so that no labels are needed.
    They take stochastic gradient descent over millions of tokens; here it is Adam (Kingma and Ba 2014), its rate
    falling to 0 in a line, and a few positions of a few texts a step, which fits a laptop. Layers are trained side by
    side on the same positions.

    Cost of a step: one forward of ``texts`` windows, and for each place the head forwards and backwards at
    ``positions`` positions, of which ``budget`` says how many at once.

    Args:
        model: a language model, masked language model or classifier; its weights stay as they are.
        data: texts (a causal language model reads them in windows of ``width`` tokens), rows of tokens, or images.
        steps: of Adam.
        positions: answers for each step, drawn from the texts of the step.
        texts: windows, rows or images for each step.
        width: tokens of a window.
        rank: of W; None for a full matrix. A low rank has fewer numbers to fit to few texts.
        lr: rate of the first step, for W; that of b is in units of the stream's size at its place.
        held_out: share of the windows, the last ones, on which the lens is judged and not trained; or data of its own.
        seed: of the draws.
        resume: what an earlier, stopped training of the same settings gave; it goes on as if it had not stopped. One
            that was stopped while it was judged is judged.
        keep: called with what is trained, every few seconds and at the end.
        budget: bytes for logits.
        progress: called after every step and every text that is judged; returning False stops, and what is trained is
            kept.

    Raises:
        ValueError: options out of range, too few texts, a model without a distribution, or ``resume`` of another model
            or other settings.
        Stopped: stopped before the first step was done.
    """
    check_answers(model, "A tuned lens")
    _check(steps, positions, texts, width, rank, lr, model)
    train, test = _split(model, data, held_out, width)
    settings: dict[str, Any] = {
        "steps": steps, "positions": positions, "texts": texts, "width": width, "rank": rank, "lr": lr, "seed": seed,
        "data": _digest(train),
    }  # fmt: skip
    training = _Training(model, train, settings, budget, resume)
    report = Reporter(progress, steps - training.done + len(test), "training the tuned lens")
    handed = time.monotonic()
    while training.done < steps:
        training.step()
        report.step()
        if not report.going:
            break
        if keep is not None and time.monotonic() - handed > KEEP_SECONDS:
            keep(training.lens())
            handed = time.monotonic()
    lens = training.lens()
    if lens.complete and test and report.going:
        lens = replace(lens, held_out=judge(model, lens, test, positions, seed, budget, report))
    if keep is not None:
        keep(lens)
    return lens


def _check(steps: int, positions: int, texts: int, width: int, rank: int | None, lr: float, model: Transformer) -> None:
    for name, value, least in (
        ("steps", steps, 1),
        ("positions", positions, 1),
        ("texts", texts, 1),
        ("width", width, 2),
    ):
        if value < least:
            raise ValueError(f"{name} is at least {least}; got {value}.")
    if not 0 < lr < 1:
        raise ValueError(f"The rate lr lies between 0 and 1, such as 0.001; got {lr}.")
    if rank is not None and not 1 <= rank <= model.cfg.d_model:
        raise ValueError(f"The rank lies between 1 and {model.cfg.d_model}, the width of {model.name}; got {rank}.")
    if model.cfg.n_layers < 1:
        raise ValueError(f"{model.name} has no layers, and so nothing to translate.")


def windows(model: Transformer, texts: Sequence[str], width: int) -> Int[Tensor, "window width"]:
    """Texts as rows of ``width`` tokens each, one after the other; what is left over at the end of a text is dropped.

    Raises:
        ValueError: no text has that many tokens, or the model does not read so many.
    """
    if width > model.cfg.n_ctx:
        raise ValueError(f"{model.name} reads at most {model.cfg.n_ctx} tokens; give a smaller width than {width}.")
    rows = []
    for text in texts:
        if not text.strip():
            raise ValueError("A text is empty; leave it out.")
        # Longer than the context is no mistake here.
        ids = torch.tensor(model.tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)
        rows += list(ids[: len(ids) // width * width].view(-1, width))
    if not rows:
        raise ValueError(f"No text has {width} tokens; give longer texts, or a smaller width.")
    return torch.stack(rows)


def _rows(model: Transformer, data: Data, width: int) -> list[Given]:
    """One entry for each window, row or image."""
    if isinstance(data, str):
        raise ValueError("Give a list of texts: [text].")
    texts = not isinstance(data, Tensor) and len(data) > 0 and isinstance(data[0], str)
    if texts and model.cfg.causal and answers_at_positions(model):
        if model.tokenizer is None:
            raise ValueError(f"{model.name} came without a tokenizer; give rows of tokens.")
        data = windows(model, [str(one) for one in data], width)
    return given_texts(model, data, 1)


def _split(model: Transformer, data: Data, held_out: float | Data, width: int) -> tuple[list[Given], list[Given]]:
    """What is trained on, and what the lens is judged on."""
    rows = _rows(model, data, width)
    if not isinstance(held_out, int | float):
        return rows, _rows(model, held_out, width)
    if not 0 <= held_out < 1:
        raise ValueError(f"The held-out share lies from 0 to below 1, such as 0.25; got {held_out}.")
    n = round(held_out * len(rows)) if held_out else 0
    n = max(n, 2) if held_out else 0
    if len(rows) - n < 1:
        raise ValueError(
            f"There are {len(rows)} windows, of which {n} are held out, and none is left to train on; give more text."
        )
    return rows[: len(rows) - n], rows[len(rows) - n :]


def _digest(rows: Sequence[Given]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.tokens.cpu().contiguous().numpy().tobytes())
    return f"{len(rows)} rows ({digest.hexdigest()[:8]})"


@dataclass(frozen=True)
class _Leaf:
    """One place's maps while they learn."""

    maps: dict[str, Tensor]

    @property
    def title(self) -> str:
        return "tuned lens"

    def check(self, model: Transformer, sublayers: bool) -> None:
        """Nothing to check."""

    def translate(self, place: str, resid: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`workbench.lens.logit_lens.Translator`."""
        return translated({name: x[None] for name, x in self.maps.items()}, 0, resid)


class _Training:
    """The weights, the moments of Adam, and the steps."""

    def __init__(
        self, model: Transformer, rows: list[Given], settings: dict[str, Any], budget: int, resume: TunedLens | None
    ) -> None:
        self.model, self.rows, self.settings, self.budget = model, rows, settings, budget
        self.places = names_of_places(model.cfg)[:-1]
        n, d = len(self.places), model.cfg.d_model
        if resume is None:
            self.weights = zeros(n, d, settings["rank"], settings["seed"])
            self.state = {f"{m}.{k}": torch.zeros_like(x) for k, x in self.weights.items() for m in ("first", "second")}
            self.state["size"] = self._size()
            self.done, self.history = 0, []
            return
        check_model(resume.model, resume.fingerprint, model)
        if resume.complete and resume.held_out:
            raise ValueError("This training is complete; there is nothing to resume.")
        if resume.settings != settings or not (resume.state or resume.complete):
            raise ValueError(f"The training to resume has other settings or texts: {resume.settings}, now {settings}.")
        self.weights = {name: x.clone() for name, x in resume.weights.items()}
        self.state = {name: x.clone() for name, x in resume.state.items()}
        self.done, self.history = resume.steps, list(resume.history)

    def _size(self) -> Float[Tensor, " place"]:
        """Typical size of a number of the stream at each place: the median over positions of the root mean square."""
        streams = read_streams(self.model, self.rows[0])
        return torch.stack([x.float().square().mean(-1).sqrt().median() for x in streams.resid[:-1]]).cpu()

    def step(self) -> None:
        """One step of Adam on every place."""
        draw = torch.Generator().manual_seed(self.settings["seed"] * 1_000_003 + self.done)
        order = torch.randperm(len(self.rows), generator=draw)[: self.settings["texts"]].tolist()
        read = [_drawn(self.model, self.rows[i], self.settings["positions"], len(order), draw) for i in order]
        with torch.no_grad():
            finals = [
                [rows.logits(len(self.places), part).log_softmax(-1) for part in parts]
                for rows, parts in self._in(read)
            ]
        total = sum(len(chosen) for _, chosen in read)
        loss = 0.0
        for place in range(len(self.places)):
            loss += self._place(place, read, finals, total)
        if not loss < float("inf"):
            raise ValueError("The training of the lens diverged: its KL is not a number. Take a smaller rate lr.")
        self.done += 1
        self.history.append(loss / len(self.places))

    def _in(self, read: list[tuple[Rows, Tensor]]) -> list[tuple[Rows, list[Tensor]]]:
        """Positions in pieces whose logits, and their gradients, fit the budget."""
        size = max(1, self.budget // (10 * 4 * self.model.cfg.n_out))
        return [(rows, list(torch.split(chosen, size))) for rows, chosen in read]

    def _place(self, place: int, read: list[tuple[Rows, Tensor]], finals: list[list[Tensor]], total: int) -> float:
        """Gradient of one place's mean KL, a step along it, and the KL."""
        device = self.model.device
        with torch.enable_grad():
            maps = {k: x[place].detach().to(device).requires_grad_() for k, x in self.weights.items()}
            loss = 0.0
            for (rows, parts), final in zip(self._in(read), finals, strict=True):
                for part, log_p in zip(parts, final, strict=True):
                    log_q = rows.logits(place, part, _Leaf(maps)).log_softmax(-1)
                    kl = torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True) / total
                    kl.backward()  # type: ignore[no-untyped-call]
                    loss += float(kl.detach())
        with torch.no_grad():
            for name, leaf in maps.items():
                if leaf.grad is not None:
                    self._adam(name, place, leaf.grad.cpu())
        return loss

    def _adam(self, name: str, place: int, gradient: Tensor) -> None:
        first, second = self.state[f"first.{name}"][place], self.state[f"second.{name}"][place]
        t = self.done + 1
        first.mul_(_DECAY[0]).add_(gradient, alpha=1 - _DECAY[0])
        second.mul_(_DECAY[1]).addcmul_(gradient, gradient, value=1 - _DECAY[1])
        rate = self.settings["lr"] * (1 - self.done / self.settings["steps"])
        rate *= float(self.state["size"][place]) if name == "bias" else 1.0
        step = first / (1 - _DECAY[0] ** t) / ((second / (1 - _DECAY[1] ** t)).sqrt() + _TINY)
        self.weights[name][place] -= rate * step

    def lens(self) -> TunedLens:
        """What is trained so far.

        Raises:
            Stopped: nothing is.
        """
        if not self.done:
            raise Stopped("Stopped before the first step; nothing was kept.")
        complete = self.done == self.settings["steps"]
        return TunedLens(
            model=self.model.name,
            fingerprint=self.model.fingerprint,
            places=self.places,
            weights={name: x.clone() for name, x in self.weights.items()},
            settings=dict(self.settings),
            steps=self.done,
            complete=complete,
            history=tuple(self.history),
            state={} if complete else {name: x.clone() for name, x in self.state.items()},
        )


def _drawn(
    model: Transformer, given: Given, positions: int, texts: int, draw: torch.Generator
) -> tuple[Rows, Int[Tensor, " row"]]:
    """Streams of one text, and which of its answers count in this step."""
    streams = read_streams(model, given)
    real = real_rows(given, answers_at_positions(model))
    rows = Rows(model, streams, real, range(given.n))
    chosen = torch.randperm(int(real.sum()), generator=draw)[: -(-positions // texts)]
    return rows, chosen.to(model.device)


@torch.no_grad()
def judge(
    model: Transformer,
    lens: TunedLens,
    test: Sequence[Given],
    positions: int,
    seed: int,
    budget: int,
    report: Reporter,
) -> tuple[HeldOut, ...]:
    """KL of the logit lens and of the tuned lens on texts that it was not trained on, with bootstrap intervals.

    Args:
        model, lens: what is judged.
        test: texts; each counts once, by its mean over at most ``positions`` positions drawn by ``seed``.
        positions: at most so many of each text.
        seed: of the draws.
        budget: bytes for logits.
        report: one step for each text; when asked to stop, those judged so far count, if there are two.
    """
    before: list[Tensor] = []
    after: list[Tensor] = []
    for i, given in enumerate(test):
        draw = torch.Generator().manual_seed(seed * 1_000_003 + 500_000 + i)
        rows, chosen = _drawn(model, given, positions, 1, draw)
        pieces = torch.split(chosen, max(1, budget // (6 * 4 * model.cfg.n_out)))
        finals = [rows.logits(len(lens.places), piece).log_softmax(-1) for piece in pieces]
        both = torch.zeros(2, len(lens.places), dtype=torch.float64)
        for piece, log_p in zip(pieces, finals, strict=True):
            for place in range(len(lens.places)):
                for which, through in enumerate((None, lens)):
                    log_q = rows.logits(place, piece, through).log_softmax(-1)
                    both[which, place] += float(
                        torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
                    )
        before.append(both[0] / len(chosen))
        after.append(both[1] / len(chosen))
        report.step()
        if not report.going:
            break
    if len(before) < 2:
        return ()
    return tuple(_held_out(lens.places, torch.stack(before), torch.stack(after)))


def _held_out(
    places: Sequence[str], before: Float[Tensor, "text place"], after: Float[Tensor, "text place"]
) -> list[HeldOut]:
    weights = resamples(len(before))

    def said(x: Float[Tensor, " text"]) -> tuple[float, float, float]:
        return (float(x.mean()), *bounds(weights @ x))

    return [
        HeldOut(place, said(before[:, i]), said(after[:, i]), said(before[:, i] - after[:, i]))
        for i, place in enumerate(places)
    ]
