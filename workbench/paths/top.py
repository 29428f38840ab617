"""The single paths that carry most of a target, by best-first search from the target down.

A suffix of a path is a linear functional on the stream below it. Applied to what each way through each lower block
makes of the embedding it gives, exactly, the paths that end there; applied to what the way makes of the real stream,
the sum of all paths that go on. The search takes up the suffix with the largest sum first, for sums can be had and
single paths far below cannot. What it may leave out it knows by a bound: the length of the functional, times how much
longer a way can make a vector, times the longest vector that any single path below can be. If nothing is left whose
bound reaches the paths found, these are proven to be the first.

The bound is a product of norms and loosens with every component. It proves answers for models of a few layers, or for
short paths; in a deep model the search ends by its budget, and says so.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.propagate import Sweep
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.models import Transformer
from workbench.models.embedding import n_positions
from workbench.paths.components import Alphabet
from workbench.paths.expansion import check_keep
from workbench.paths.held import Held
from workbench.paths.prompts import ready
from workbench.paths.targets import Asked, Target, resolve
from workbench.paths.transfer import AROUND, Stream, Transfer, Way, beginnings, ways

SLACK = 1.05
"""What the power method may miss of a norm."""
PROVEN = 6
"""Layers of models whose paths are bounded unless the caller says."""
MOST_NUMBERS = 2**28
"""Of all that the blocks bring; twice 1 GiB in float32."""


@dataclass(frozen=True)
class FoundPath:
    """One path from the embedding or from a bias to the target.

    Attributes:
        word: its components, from ``embed`` or ``bias`` on.
        contribution: [batch], what it carries of the target.
    """

    word: tuple[str, ...]
    contribution: Float[Tensor, " batch"]

    @property
    def mean(self) -> float:
        """Over prompts."""
        return float(self.contribution.mean())

    @property
    def length(self) -> int:
        """Sublayers passed."""
        return len(self.word) - 1

    @property
    def name(self) -> str:
        """The word as text, which is also a pattern of :func:`workbench.paths.query`."""
        return " ".join(self.word)


@dataclass(frozen=True)
class TopPaths:
    """The paths that carry most, for or against the target. Tensors are float64 on the CPU.

    Attributes:
        model: name of the model.
        target: what is read.
        unit: ``logits`` or ``residual``.
        paths: by the size of their mean over prompts, the largest first.
        value: [batch] what the model itself says: all paths together.
        longest: paths of more sublayers were not looked at.
        expanded: suffixes that were taken up.
        proven: whether no other path (of that length) carries more than the last of these.
        bound: what no path left out can exceed, as a mean over prompts; 0 where none was, infinite where not asked for.
        complete: False where the search was stopped.
    """

    model: str
    target: str
    unit: str
    paths: list[FoundPath]
    value: Float[Tensor, " batch"]
    longest: int
    expanded: int
    proven: bool
    bound: float
    complete: bool = True

    @property
    def share(self) -> float:
        """What these paths carry together, of the whole (means over prompts)."""
        return sum(path.mean for path in self.paths) / float(self.value.mean())

    def components(self) -> dict[str, float]:
        """Heads and MLPs on these paths, by the sum of the sizes of the paths through each; the largest first."""
        through: dict[str, float] = {}
        for path in self.paths:
            for name in path.word[1:]:
                through[name] = through.get(name, 0.0) + abs(path.mean)
        return dict(sorted(through.items(), key=lambda one: -one[1]))

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and lists."""
        whole = float(self.value.mean())
        plain = {
            name: getattr(self, name)
            for name in ("model", "target", "unit", "longest", "expanded", "proven", "bound", "complete", "share")
        }
        paths = [
            {"path": p.name, "length": p.length, "mean": p.mean, "share": p.mean / whole} | _each(p) for p in self.paths
        ]
        return plain | {"value": self.value.tolist(), "paths": paths, "components": self.components()}


def _each(path: FoundPath) -> dict[str, list[float]]:
    return {"contribution": path.contribution.tolist()}


def top_paths(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor | str | Sequence[str],
    target: Asked = None,
    *,
    k: int = 20,
    longest: int | None = None,
    budget: int = 400,
    prove: bool | None = None,
    at: int | Int[Tensor, " batch"] | None = None,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    dtype: torch.dtype | None = None,
    progress: ProgressFn | None = None,
) -> TopPaths:
    """The ``k`` paths with the largest contributions, by the size of their mean over prompts.

    Each suffix that is taken up costs a forward and a backward of one block, and a product with what all ways through
    the blocks below bring. Memory: that many streams, twice.

    Args:
        model: any hooked model.
        tokens, target, at, attention_mask, dtype: as for :func:`workbench.paths.decompose`.
        k: how many.
        longest: sublayers on the longest path that is looked at; None for all.
        budget: suffixes that are taken up at most.
        prove: whether to bound what is left out. None: for models of at most six layers, for the bound of a deep one
            says nothing and takes the power method in every block.
        progress: called after every suffix; returning False stops and keeps what was found.

    Raises:
        ValueError: bad prompts, target, position or number; ``longest`` is more than the longest path has; too many
            tokens for the memory that this takes.
    """
    for name, number in (("k", k), ("budget", budget)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"'{name}' is a whole number of 1 or more, not {number!r}.")
    if not isinstance(tokens, Tensor):
        given = model.to_inputs(tokens)
        tokens, attention_mask = given["tokens"], given["attention_mask"]
    _require_room(model, tokens)
    prompts = ready(model, tokens, attention_mask, dtype)
    transfer = Transfer(prompts)
    longest = check_keep(transfer.alphabet, longest)
    asked = resolve(target, prompts, at)
    search = _Search(transfer, asked, k, longest, model.cfg.n_layers <= PROVEN if prove is None else prove)
    report = Reporter(progress, budget, "following paths")
    search.run(budget, report)
    return TopPaths(
        model=model.name,
        target=asked.name,
        unit=asked.unit,
        paths=search.found(),
        value=asked.value(prompts).double().cpu(),
        longest=longest,
        expanded=report.done,
        proven=not search.heap,
        bound=search.bound(),
        complete=report.going,
    )


def _require_room(model: Transformer, tokens: Tensor) -> None:
    """Refuse prompts of which the images of all ways would not fit."""
    alphabet = Alphabet.of(model)
    streams = 2 * model.cfg.n_layers * (len(ways(alphabet)) + len(beginnings(alphabet)))
    width = n_positions(model, tokens)
    if streams * len(tokens) * width * model.cfg.d_model > MOST_NUMBERS:
        raise ValueError(
            f"{len(tokens)} prompts of {width} tokens are too many for a search of paths in {model.name}: "
            f"give at most {MOST_NUMBERS // max(streams * model.cfg.d_model, 1)} tokens altogether."
        )


@dataclass(frozen=True)
class _Suffix:
    """The last components of a path, from a block up; what it is a functional of is worked out when it is taken up.

    Attributes:
        word: its components.
        layer: the block that its first components stand in.
        way: through that block.
        above: the functional on the stream that leaves that block.
        room: sublayers that may still come before it.
        bound: what no path with this suffix can exceed, as a mean over prompts; its own end left out.
    """

    word: tuple[str, ...]
    layer: int
    way: Way
    above: Stream
    room: int
    bound: float


class _Search:
    """Suffixes still to be taken up, and the best paths so far."""

    def __init__(self, transfer: Transfer, target: Target, k: int, longest: int, prove: bool) -> None:
        self.transfer, self.k, self.longest = transfer, k, longest
        self.resid = [stream[0] for stream in transfer.prompts.resid]
        self.below = _Below.of(transfer, longest, prove)
        self.order = count()
        self.heap: list[tuple[float, int, _Suffix]] = []
        self.best: list[tuple[float, int, FoundPath]] = []
        self.root(target)

    @property
    def threshold(self) -> float:
        """What a path must carry to come in."""
        return self.best[0][0] if len(self.best) == self.k else 0.0

    def root(self, target: Target) -> None:
        """Everything that ends at the target, and the readout's own bias."""
        sweep = Sweep(Held(), self.transfer.prompts, [], Baseline([], [], []))
        leaf = torch.zeros_like(self.transfer.prompts.resid[-1], requires_grad=True)
        with torch.enable_grad():
            said = target.here(target.read(sweep, Parts(self.transfer.prompts.resid[-1], leaf)))
            (g,) = torch.autograd.grad(said.sum(), leaf)
        if self.transfer.alphabet.readout_bias and target.direction is None:
            self.offer(("bias",), said[0].detach())
        self.spread((), g[0], self.transfer.prompts.model.cfg.n_layers, self.longest)

    def run(self, budget: int, report: Reporter) -> None:
        """Take up suffixes until none is left that could matter, or the budget is used up."""
        while self.heap and report.done < budget and report.going:
            suffix = heapq.heappop(self.heap)[2]
            if suffix.bound > self.threshold:
                g = self.transfer.back(suffix.layer, suffix.way, suffix.above)
                self.spread(suffix.word, g, suffix.layer, suffix.room)
                report.step()
            if not self.heap or report.done == budget:
                self.heap = [one for one in self.heap if one[2].bound > self.threshold]
                heapq.heapify(self.heap)

    def spread(self, word: tuple[str, ...], g: Stream, layer: int, room: int) -> None:
        """All that can come before a suffix: a way through a block below ``layer``, or nothing but the embedding."""
        for at in reversed(range(layer)):
            if room > 0:
                self._at(word, g, at, room)
            g = self.transfer.back(at, AROUND, g)
        if not word:  # of a longer one that path was offered when it was met
            self.offer(("embed",), (g * self.resid[0]).sum((1, 2)))

    def _at(self, word: tuple[str, ...], g: Stream, layer: int, room: int) -> None:
        """The ways through one block before a suffix, and the paths from biases that begin in it."""
        below = self.below
        ends, sums = _inner(g, below.embed[layer]), _inner(g, below.real[layer])
        long = g.flatten(1).norm(dim=-1)
        for number, way in enumerate(self.transfer.ways):
            if len(way) > room:
                continue
            suffix = (*way.word(layer), *word)
            self.offer(("embed", *suffix), ends[number])
            left = room - len(way)
            if layer and left:
                bound = float((long * below.longest[layer][number, left]).mean())
                if bound > self.threshold:
                    one = _Suffix(suffix, layer, way, g, left, bound)
                    rest = float((sums[number] - ends[number]).mean())
                    heapq.heappush(self.heap, (-abs(rest), next(self.order), one))
        for way, value in zip(self.transfer.beginnings, _inner(g, below.biases[layer]), strict=True):
            if len(way) <= room:
                self.offer(("bias", *way.word(layer), *word), value)

    def offer(self, word: tuple[str, ...], contribution: Tensor) -> None:
        """A whole path."""
        size = abs(float(contribution.mean()))
        if size > self.threshold:
            one = FoundPath(word, contribution.double().cpu())
            entry = (size, next(self.order), one)
            (heapq.heappush if len(self.best) < self.k else heapq.heapreplace)(self.best, entry)

    def found(self) -> list[FoundPath]:
        """The best, the largest first."""
        return [path for *_, path in sorted(self.best, key=lambda one: -one[0])]

    def bound(self) -> float:
        """Of what was left out."""
        return max((suffix.bound for *_, suffix in self.heap), default=0.0)


@dataclass(frozen=True)
class _Below:
    """What the blocks bring.

    Attributes:
        embed: by layer, what each way makes of the embedding [batch, way, pos * d_model].
        real: the same of the stream that enters the block.
        biases: by layer, what paths from biases bring that begin in it.
        longest: by layer [way, room, batch]: a bound of the length of what any single path brings that ends with the
            way and has at most ``room`` sublayers before it.
    """

    embed: list[Tensor]
    real: list[Tensor]
    biases: list[Tensor]
    longest: list[Tensor]

    @classmethod
    def of(cls, transfer: Transfer, longest: int, prove: bool) -> _Below:
        """Two sweeps through the blocks; with bounds, the power method in each block too."""
        found = cls([], [], [], [])
        x = transfer.prompts.resid[0][0]
        # The longest vector of a path with at most so many sublayers, in the stream that enters the block.
        reach = x.flatten(1).norm(dim=-1).expand(longest + 1, -1)
        for layer, (total,) in enumerate(transfer.prompts.resid[:-1]):
            made, biases = transfer.images(layer, x)
            found.embed.append(_flat(made))
            found.real.append(_flat(transfer.images(layer, total)[0]))
            found.biases.append(_flat(biases))
            x = transfer.around(layer, x)
            if not prove:
                found.longest.append(reach.new_full((len(made), *reach.shape), torch.inf))
                continue
            found.longest.append(SLACK * transfer.norms(layer)[:, None] * reach)
            reach = _reach(transfer, reach, SLACK * transfer.stretch(layer), found.longest[-1], made, biases)
        return found


def _flat(images: Float[Tensor, "way batch pos d_model"]) -> Float[Tensor, "batch way numbers"]:
    return images.flatten(2).transpose(0, 1).contiguous()


def _reach(transfer: Transfer, reach: Tensor, around: Tensor, longest: Tensor, made: Tensor, biases: Tensor) -> Tensor:
    """The bound behind a block: paths around it, those that end in it, and those that begin at a bias in it."""
    behind = reach * around
    exact, begun = made.flatten(2).norm(dim=-1), biases.flatten(2).norm(dim=-1)
    for room in range(1, len(reach)):
        for number, way in enumerate(transfer.ways):
            if len(way) <= room:
                before = longest[number, room - len(way)] if room > len(way) else exact[number]
                behind[room] = torch.maximum(behind[room], before)
        for number, way in enumerate(transfer.beginnings):
            if len(way) <= room:
                behind[room] = torch.maximum(behind[room], begun[number])
    return behind


def _inner(g: Stream, x: Float[Tensor, "batch way numbers"]) -> Float[Tensor, "way batch"]:
    return (x @ g.flatten(1)[..., None])[..., 0].T
