"""What kind of head each one is, by what it does: scores for the kinds that the literature names.

Previous-token and induction heads are Elhage et al. 2021 ("A mathematical framework for transformer circuits") and
Olsson et al. 2022 (arXiv 2209.11895), measured as theirs, by the attention on one key, on random tokens that repeat;
duplicate-token heads Wang et al. 2023 (arXiv 2211.00593); first and recent tokens Xiao et al. 2024 (arXiv 2309.17453).
The excess on delimiters and the share that distance explains are this library's own. Successor heads (Gould et al.
2023, arXiv 2312.09230), copying and copy suppression (McDougall et al. 2023, arXiv 2310.04625) are read from weights.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.attention.census_rows import Explained, Strip, strips
from workbench.attention.copy_suppression import copy_suppression
from workbench.attention.entropy import HeadValue, listed
from workbench.attention.layers import Given, LayerAttention, Text, require_rows_of_one, taken, watch
from workbench.attention.observed import ByHead, plain
from workbench.attention.prompt import RECENT
from workbench.attention.successor import successors
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.lookup import pick


@dataclass(frozen=True)
class Detector:
    """One kind of head.

    Attributes:
        key: its name.
        title: its name in prose.
        unit: a share of 1, or a difference of shares.
        formula: one line of plain text.
        reads: ``repeated`` for random tokens that repeat, ``text`` for what is given (or else the same), ``weights``
            for neither.
    """

    key: str
    title: str
    unit: str
    formula: str
    reads: str


DETECTORS: tuple[Detector, ...] = (
    Detector("previous", "Previous token", "share", "weight on the token before the query", "text"),
    Detector("duplicate", "Duplicate token", "share", "weight on the same token in the first round", "repeated"),
    Detector(
        "induction", "Induction", "share", "weight on what followed the same token in the first round", "repeated"
    ),
    Detector("first", "First token", "share", "weight on the first token", "text"),
    Detector("recent", "Recent tokens", "share", "weight on the nearest tokens, where more are seen", "text"),
    Detector("streaming", "First and recent", "share", "weight on the first and the nearest tokens", "text"),
    Detector("delimiter", "Delimiters", "share", "weight on delimiters less their share of the seen keys", "text"),
    Detector("positional", "Positional", "share", "variance of weights between distances / all of it", "text"),
    Detector("successor", "Successor", "share", "pairs whose successor the OV circuit raises most", "weights"),
    Detector("copying", "Copying", "share", "tokens among the 10 that the OV circuit raises most for them", "weights"),
    Detector(
        "copy_suppression",
        "Copy suppression",
        "share",
        "tokens among the 10 that the OV circuit lowers most for them",
        "weights",
    ),
)
KEYS = tuple(detector.key for detector in DETECTORS)
_TEXT = tuple(detector.key for detector in DETECTORS if detector.reads == "text")
_REPEATED = tuple(detector.key for detector in DETECTORS if detector.reads == "repeated")
_SAMPLE = 128  # tokens that copying is read on
_ENCODER = ("previous", "duplicate", "first", "delimiter", "positional")


@dataclass(frozen=True)
class Census:
    """A score of every kind for every head.

    Attributes:
        model: name of the model.
        scores: each detector [layer, head]; None where it makes no sense or nothing could be measured.
        recent: tokens that count as recent, the query's own included.
        repeat: tokens of the random series that repeats; None for images, and where the context has no room for it.
        seed: of that series.
        notes: what a reader should know of how this was made.
    """

    model: str
    scores: Mapping[str, ByHead | None]
    recent: int
    repeat: int | None
    seed: int
    notes: tuple[str, ...] = ()

    def score(self, key: str) -> ByHead:
        """Scores of one kind, [layer, head].

        Raises:
            ValueError: there is no such kind, or it was not measured here.
        """
        found = self.scores[pick(DETECTORS, key, "kind of head").key]
        if found is None:
            raise ValueError(f"'{key}' was not measured of {self.model}. {' '.join(self.notes)}".strip())
        return found

    def top(self, key: str, n: int = 5) -> list[HeadValue]:
        """The ``n`` heads with the highest score of one kind, the highest first.

        Raises:
            ValueError: as for :meth:`score`.
        """
        score = self.score(key)
        return listed(score, ~score.isnan(), descending=True)[:n]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists (NaN as None)."""
        return {
            "model": self.model,
            "recent": self.recent,
            "repeat": self.repeat,
            "seed": self.seed,
            "notes": list(self.notes),
            "scores": {key: None if found is None else plain(found) for key, found in self.scores.items()},
        }


def census(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor | Text | None = None,
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    recent: int = RECENT,
    repeat: int = 64,
    batch: int = 4,
    seed: int = 0,
    weights: bool = True,
    progress: ProgressFn | None = None,
) -> Census:
    """What every head does, scored by its attention.

    Duplicate and induction heads are read on ``batch`` series of ``repeat`` random, unlike tokens, each twice over
    after a start token where the tokenizer has one; the other kinds on ``tokens``, or on those series without any.
    Scores are means over all queries that could show the behaviour: the second round; for ``previous``, ``first`` and
    ``delimiter`` all but the first token; for ``recent`` and ``streaming`` those that see more than those keys; for
    ``positional`` in a decoder the second half of each text, where rows hardly differ in length. ``delimiter`` is a
    difference in (-1, 1) and leaves the first token out of the delimiters; all others lie in [0, 1]. NaN where a head
    gives every key the same, so that there is no variance to explain.

    An encoder has no induction and no recent tokens; a vision transformer only ``first``, on its class token.

    Successor, copying and copy suppression are read from weights (:func:`workbench.attention.successors`,
    :func:`workbench.attention.copy_suppression`), of decoders of text only; where they make no sense a note says why.

    Args:
        model: decoder, encoder or vision transformer.
        tokens: text, several texts, token ids; images for a vision model. All examples run at once.
        attention_mask: 1 for real tokens, as in :func:`workbench.attention.statistics`.
        recent: tokens that count as recent, the query's own included.
        repeat: length of a random series; shorter where context, windows or vocabulary are.
        batch: number of series.
        seed: of the series, and of the tokens that weights are asked about.
        weights: whether to read the kinds that stand in the weights, which takes longer than all others.
        progress: called after every layer; returning False stops.

    Raises:
        ValueError: input that does not fit; images are missing; scores that are not finite; a mechanism whose rows do
            not sum to 1; a context too short to repeat anything.
        Stopped: ``progress`` asked for it.
    """
    if recent < 1 or repeat < 2 or batch < 1:
        raise ValueError(f"recent and batch are at least 1, repeat 2; got {recent}, {batch} and {repeat}.")
    require_rows_of_one(model)
    given = None if tokens is None else taken(model, tokens, attention_mask)
    if model.cfg.image is not None:
        return _of_images(model, given, recent, seed, progress)
    kinds = KEYS if model.cfg.causal else _ENCODER
    found: dict[str, ByHead] = {}
    length: int | None = None
    no_room = ""
    report = Reporter(progress, model.cfg.n_layers * (1 if given is None else 2), "taking the census")
    try:
        series, length = repeated(model, repeat, batch, seed)
    except ValueError as error:
        if given is None:
            raise
        no_room, report.total = str(error), model.cfg.n_layers
    else:
        probe = Given(series, None, None, series.shape[1])
        first = _REPEATED if given is not None else _REPEATED + _TEXT
        found = _read(model, probe, [key for key in first if key in kinds], recent, length, report)
    if given is not None:
        found |= _read(model, given, [key for key in _TEXT if key in kinds], recent, None, report)
    notes = [] if model.cfg.causal else [f"{model.name} looks both ways: it has no induction and no recent tokens."]
    if given is None:
        notes.append("All kinds were read on random tokens; give a text for delimiters.")
    elif "delimiter" not in found:
        notes.append("There are no delimiters in these tokens, or no tokenizer to tell.")
    notes += [no_room] if no_room else []
    if weights and model.cfg.causal:
        of_weights, why = _of_weights(model, seed, progress)
        found |= of_weights
        notes += why
    return Census(model.name, {key: found.get(key) for key in KEYS}, recent, length, seed, tuple(notes))


def _of_images(model: Transformer, given: Given | None, recent: int, seed: int, progress: ProgressFn | None) -> Census:
    if given is None:
        raise ValueError(f"{model.name} reads images: give some, for there are no random tokens to repeat.")
    report = Reporter(progress, model.cfg.n_layers, "taking the census")
    assert model.cfg.image is not None
    found = _read(model, given, ["first"], recent, None, report) if model.cfg.image.prefix else {}
    note = f"{model.name} reads images: of all kinds it has the first token only."
    return Census(model.name, {key: found.get(key) for key in KEYS}, recent, None, seed, (note,))


def _of_weights(model: Transformer, seed: int, progress: ProgressFn | None) -> tuple[dict[str, ByHead], list[str]]:
    """Scores of the kinds that weights show, and why some are missing."""
    found: dict[str, ByHead] = {}
    notes: list[str] = []
    try:
        found["successor"] = successors(model, progress=progress).score
    except ValueError as error:
        notes.append(str(error))
    try:
        ends = copy_suppression(model, sample=_SAMPLE, seed=seed, progress=progress)
        found |= {"copying": ends.copies, "copy_suppression": ends.score}
    except ValueError as error:
        notes.append(str(error))
    return found, [f"Not read from weights: {note}" for note in dict.fromkeys(notes)]


def repeated(model: Transformer, length: int, batch: int, seed: int) -> tuple[Int[Tensor, "batch pos"], int]:
    """Series of random unlike tokens, each twice over after a start token where there is one; and their length.

    Raises:
        ValueError: context, windows or vocabulary leave no series of two tokens.
    """
    cfg, text = model.cfg, model.text.tokenizer
    start, special, known = None, set(), cfg.d_vocab
    if text is not None:
        special, known = set(text.all_special_ids), min(known, len(text))
        start = text.bos_token_id if text.bos_token_id is not None else text.cls_token_id
    ids = torch.tensor([at for at in range(known) if at not in special and at not in (start, cfg.pad_token)])
    first = [] if start is None else [int(start)]
    reach = [window for window in cfg.windows or () if window is not None]
    length = min([length, (cfg.n_ctx - len(first)) // 2, len(ids), *reach])
    if length < 2:
        raise ValueError(f"{model.name} has no room for a series of two tokens twice over: its context is {cfg.n_ctx}.")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([ids[torch.randperm(len(ids), generator=generator)[:length]] for _ in range(batch)])
    starts = torch.tensor(first, dtype=torch.long).expand(batch, -1)
    return torch.cat([starts, rows, rows], 1).to(model.device), length


def delimiters(model: Transformer, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
    """Where tokens are punctuation or a new line; None without a tokenizer."""
    if model.text.tokenizer is None:
        return None
    special = set(model.text.tokenizer.all_special_ids)
    chosen = [
        at for at in sorted(set(tokens.flatten().tolist())) if at not in special and _delimits(model.text.tokenizer, at)
    ]
    return torch.isin(tokens, torch.tensor(chosen, dtype=tokens.dtype, device=tokens.device))


def _delimits(tokenizer: Any, token: int) -> bool:
    piece = tokenizer.decode([token])
    marks = piece.strip()
    return all(unicodedata.category(mark).startswith("P") for mark in marks) if marks else "\n" in piece


Rule = Callable[[Strip], tuple[Tensor, Tensor]]
"""Keys [batch, query, key] on which weight counts, and the queries [batch, query] that could put it there."""


def _rules(recent: int, repeat: int | None, marks: Tensor | None) -> dict[str, Rule]:
    def first(s: Strip) -> Tensor:
        return (s.key == 0)[:, None].expand_as(s.seen)

    rules: dict[str, Rule] = {
        "previous": lambda s: (s.back == 1, s.query >= 1),
        "first": lambda s: (first(s), s.query >= 1),
        "recent": lambda s: (s.back < recent, s.query >= recent),
        "streaming": lambda s: ((s.back < recent) | first(s), s.query > recent),
    }
    if repeat is not None:
        # The last places of a text are the second round, whatever stands before the first.
        rules["duplicate"] = lambda s: (s.back == repeat, s.query >= s.key.amax(-1, True) + 1 - repeat)
        rules["induction"] = lambda s: (s.back == repeat - 1, s.query >= s.key.amax(-1, True) + 1 - repeat)
    if marks is not None:
        rules["delimiter"] = lambda s: ((marks & (s.key > 0))[:, None].expand_as(s.seen), s.query >= 1)
    return rules


def _read(
    model: Transformer, given: Given, kinds: list[str], recent: int, repeat: int | None, report: Reporter
) -> dict[str, ByHead]:
    """Scores of some kinds on one input; those of which it has no query are left out."""
    marks = None
    if "delimiter" in kinds and repeat is None and given.ids is not None:
        marks = delimiters(model, given.ids)
        real = given.real if given.real is not None else torch.ones_like(given.ids, dtype=torch.bool)
        marks = None if marks is None or not bool((marks & real).any()) else marks
    rules = {key: rule for key, rule in _rules(recent, repeat, marks).items() if key in kinds}
    layers: dict[str, list[Tensor]] = {}

    def see(layer: LayerAttention) -> None:
        for key, score in _of_layer(layer, rules, "positional" in kinds).items():
            layers.setdefault(key, []).append(score)
        report.step()
        if not report.going:
            raise Stopped("Stopped before the census of all layers was there.")

    watch(model, given, see)
    return {key: torch.stack(scores) for key, scores in layers.items()}


def _of_layer(layer: LayerAttention, rules: Mapping[str, Rule], positional: bool) -> dict[str, Tensor]:
    """Scores [head] of one layer."""
    heads, n = layer.q.shape[1:3]
    sums = {key: torch.zeros(heads, dtype=torch.float64) for key in rules}
    counts = dict.fromkeys(rules, 0)
    explained = Explained(heads, n)
    for strip in strips(layer):
        for key, rule in rules.items():
            keys, queries = rule(strip)
            keys = keys & strip.seen & queries[..., None]
            weight = torch.einsum("bhqk,bqk->h", strip.p.double(), keys.double())
            if key == "delimiter":
                weight = weight - (keys.sum(-1) / strip.seen.sum(-1).clamp(min=1)).double().sum()
            sums[key] += weight.cpu()
            counts[key] += int(queries.sum())
        if positional:
            half = (strip.key.amax(-1, True) + 1) // 2 if layer.causal else 0
            explained.add(strip, (strip.query >= half) & (strip.query >= 0))
    scores = {key: sums[key] / counts[key] for key in rules if counts[key]}
    return scores | ({"positional": explained.share()} if positional else {})
