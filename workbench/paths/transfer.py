"""What one block does to single paths: one linear map for each way through it.

A path goes through a block by one of its heads, by its MLP, by a head and then the MLP, or around both. With patterns,
scales and gates held each way is a linear map from the stream that enters the block to the one that leaves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.propagate import Prompts
from workbench.paths.automaton import DEAD, Automaton
from workbench.paths.components import BIAS, EMBED, Alphabet
from workbench.paths.sweep import PathSweep

Stream = Float[Tensor, "batch pos d_model"]
ATTENTION = -1
"""Stands for what an attention adds beside its heads, where a head's number is expected."""


@dataclass(frozen=True)
class Way:
    """A way through a block.

    Attributes:
        head: the head that it takes first; ``ATTENTION`` for what the attention adds beside its heads; None for none.
        mlp: whether it takes the MLP.
    """

    head: int | None
    mlp: bool

    def word(self, layer: int) -> tuple[str, ...]:
        """The components in order, by their names."""
        attention = () if self.head is None else (f"a{layer}" + ("" if self.head == ATTENTION else f".h{self.head}"),)
        return attention + ((f"m{layer}",) if self.mlp else ())

    def __len__(self) -> int:
        return (self.head is not None) + self.mlp


AROUND = Way(None, False)


def ways(alphabet: Alphabet) -> list[Way]:
    """All ways through a block but the one around it."""
    heads = [Way(head, False) for head in range(alphabet.n_heads)]
    both = [] if alphabet.parallel or not alphabet.has_mlp else [Way(head, True) for head in range(alphabet.n_heads)]
    return heads + [Way(None, True)] * alphabet.has_mlp + both


def beginnings(alphabet: Alphabet) -> list[Way]:
    """The ways that paths from biases begin on."""
    beside = [Way(ATTENTION, False)]
    beside += [Way(ATTENTION, True)] * (alphabet.has_mlp and not alphabet.parallel)
    return ways(alphabet) + beside if alphabet.has_biases else []


def _automaton(alphabet: Alphabet, taken: list[Way], begun: list[Way], *, apart: bool) -> Automaton:
    """States: where ways begin (one, or one for each), where each ends, likewise for biases, and what lies between."""
    symbols = {name: [i for i, own in enumerate(alphabet.symbols) if _is(own, name)] for name in ("a", "m")}
    width = max(1, len(symbols["a"]) // max(alphabet.n_layers, 1))
    step: list[list[int]] = []

    def state() -> int:
        step.append([DEAD] * len(alphabet.symbols))
        return len(step) - 1

    def lead(source: int, kind: str, number: int, to: int) -> None:
        places = symbols["m"] if kind == "m" else symbols["a"][number % width :: width]
        for symbol in places:
            step[source][symbol] = to

    def way(source: int, one: Way, end: int, between: dict[int, int]) -> None:
        """From ``source`` along a way to ``end``; ``between``: the states behind heads that an MLP goes on from."""
        at = source
        if one.head is not None:
            to = end
            if one.mlp:
                to = between[one.head] if one.head in between else state()
            lead(at, "a", one.head, to)
            at = to
        if one.mlp:
            lead(at, "m", 0, end)

    sources = [state() for _ in (taken if apart else [None])]
    ends = [state() for _ in taken]
    origin = state()
    begun_ends = [state() for _ in begun]
    for number, one in enumerate(taken):
        own = sources[number] if apart else sources[0]
        # Without sources of their own a head and the same head before the MLP share their first step.
        between = {} if apart else {w.head: ends[i] for i, w in enumerate(taken) if not w.mlp and w.head is not None}
        way(own, one, ends[number], between)
    between = {w.head: begun_ends[i] for i, w in enumerate(begun) if not w.mlp and w.head is not None}
    for number, one in enumerate(begun):
        way(origin, one, begun_ends[number], between)
    starts = []
    for source in sources:
        starts.append(state())
        step[-1][EMBED] = source
    step[starts[0]][BIAS] = origin
    final = tuple(range(len(step)))
    return Automaton(alphabet, step, tuple(starts), final, tuple(map(str, final)))


def _is(symbol: str, kind: str) -> bool:
    return symbol.startswith(kind) and symbol[1:2].isdigit()


class _Block(PathSweep):
    """A sweep of which single blocks are run."""

    def through(self, layer: int, rows: Float[Tensor, "state batch pos d_model"]) -> Tensor:
        """Rows of the stream that enters a block as rows of the one that leaves it."""
        rows = torch.cat((rows, torch.zeros_like(rows[:1]))) if self.constants else rows
        return self._block(layer, Parts(self.prompts.resid[layer], rows), {}, set()).carried


class Transfer:
    """The linear maps of all ways through all blocks of a run.

    Args:
        prompts: run once.
    """

    def __init__(self, prompts: Prompts) -> None:
        self.prompts, self.alphabet = prompts, Alphabet.of(prompts.model)
        self.ways, self.beginnings = ways(self.alphabet), beginnings(self.alphabet)
        self._fan = self._sweep(self.ways, self.beginnings, apart=False)
        self._own = self._sweep(self.ways, [], apart=True)
        self._single = {way: self._sweep([way], [], apart=False) for way in [*self.ways, AROUND]}

    def _sweep(self, taken: list[Way], begun: list[Way], *, apart: bool) -> _Block:
        return _Block(self.prompts, _automaton(self.alphabet, taken, begun, apart=apart))

    @torch.no_grad()
    def images(self, layer: int, x: Stream) -> tuple[Float[Tensor, "way batch pos d_model"], Tensor]:
        """What each way makes of a stream that enters a block, and what paths from biases bring that begin in it."""
        n, fan = len(self.ways), self._fan
        rows = x.new_zeros(fan.automaton.n_states, *x.shape)
        rows[0] = x
        out = fan.through(layer, rows)
        return out[1 : 1 + n], out[2 + n : 2 + n + len(self.beginnings)]

    @torch.no_grad()
    def around(self, layer: int, x: Stream) -> Stream:
        """What is left of a stream that goes around a block: itself, but for the norms of a post-norm model."""
        if self.prompts.model.cfg.norm_place != "post":
            return x
        return self._through_one(AROUND, layer)(x)

    def back(self, layer: int, way: Way, g: Stream) -> Stream:
        """The transpose of a way: a functional on the stream behind a block as one on the stream before it."""
        if way == AROUND and self.prompts.model.cfg.norm_place != "post":
            return g
        with torch.enable_grad():
            leaf = torch.zeros_like(g, requires_grad=True)
            (found,) = torch.autograd.grad(self._through_one(way, layer)(leaf), leaf, g)
        return found

    def _through_one(self, way: Way, layer: int) -> Callable[[Stream], Stream]:
        sweep = self._single[way]

        def apply(x: Stream) -> Stream:
            rows = torch.cat((x[None], x.new_zeros(sweep.automaton.n_states - 1, *x.shape)))
            return sweep.through(layer, rows)[0 if way == AROUND else 1]

        return apply

    def norms(self, layer: int) -> Float[Tensor, "way batch"]:
        """How much longer each way can make a vector [pos, d_model] of each prompt; see :func:`_stretch`."""
        sweep, n = self._own, len(self.ways)

        def apply(v: Tensor) -> Tensor:
            rest = v.new_zeros(sweep.automaton.n_states - n, *v.shape[1:])
            return sweep.through(layer, torch.cat((v, rest)))[n : 2 * n]

        return _stretch(apply, n, self.prompts.resid[layer])

    def stretch(self, layer: int) -> Float[Tensor, " batch"]:
        """How much longer going around a block can make a vector; 1 but in a post-norm model."""
        resid = self.prompts.resid[layer]
        if self.prompts.model.cfg.norm_place != "post":
            return resid.new_ones(resid.shape[1])
        around = self._through_one(AROUND, layer)
        return _stretch(lambda v: around(v[0])[None], 1, resid)[0]


def _stretch(apply: Callable[[Tensor], Tensor], n: int, like: Tensor, steps: int = 12) -> Float[Tensor, "n batch"]:
    """Norms of ``n`` linear maps by the power method, which comes from below: a few per cent may be missing."""
    v = torch.randn(n, *like.shape[1:], generator=torch.Generator().manual_seed(0)).to(like)
    grown = v.new_zeros(n, v.shape[1])
    with torch.enable_grad():
        for _ in range(steps):
            v = (v / v.flatten(2).norm(dim=-1).clamp(min=1e-30)[..., None, None]).requires_grad_()
            out = apply(v)
            grown = out.detach().flatten(2).norm(dim=-1)
            (v,) = torch.autograd.grad(out, v, out.detach())
    return grown
