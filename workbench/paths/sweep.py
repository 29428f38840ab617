"""One sweep through a model that carries one tensor for each state of an automaton.

With attention patterns P, norm scales and activation gates held at what they are in this run, a sublayer is
``x -> F x + c``, and F is the sum of what its heads do. The row of a state t behind a sublayer is

    row_t + sum of F_h(row_s) over states s and components h with step(s, h) = t + c where a path begins there

so that it holds what all paths give whose words lead to t. A state costs one linear forward. Constants c are
worked out exactly, in a row of their own, from the biases themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.decomposition import flow
from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.propagate import Prompts, Sweep
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models.blocks import Block
from workbench.paths import held
from workbench.paths.automaton import Automaton, Routes, routes
from workbench.paths.components import EMBED

Rows = Float[Tensor, "row batch pos d_model"]


class PathSweep(Sweep):
    """Carries the rows of an automaton's states, and one last row for constants where the model has any.

    That last row is empty between sublayers; within one it holds what the sublayer adds for itself.

    Args:
        prompts: run once.
        automaton: which paths are told apart.
        progress: called after every block; returning False stops.
    """

    def __init__(self, prompts: Prompts, automaton: Automaton, progress: ProgressFn | None = None) -> None:
        self.automaton = automaton
        self.report = Reporter(progress, prompts.model.cfg.n_layers, "carrying paths")
        self.constants = automaton.alphabet.has_biases
        super().__init__(held.Held(), prompts, [], Baseline([], [], []))
        self.routes = routes(automaton)

    @property
    def start(self) -> int:
        """Paths begin at the embedding."""
        return 0

    @torch.no_grad()
    def last(self) -> Parts:
        """Rows [state (and one), batch, pos, d_model] of the stream that leaves the last block.

        Raises:
            Stopped: ``progress`` asked for it.
        """
        return self.run()[0]

    def _block(self, layer: int, x: Parts, kept: dict[str, Parts], wanted: set[str]) -> Parts:
        found = super()._block(layer, x, kept, wanted)
        self.report.step()
        if not self.report.going:
            raise Stopped("Stopped before paths had come to the end of the model.")
        return found

    def inject(self, x: Parts, order: int) -> Parts:
        """The embedding stands in the states that ``embed`` leads to."""
        if order:
            return x
        first = x.total.new_zeros(self.automaton.n_states + self.constants, *x.total.shape[1:])
        for state in self.automaton.after(EMBED, self.automaton.starts):
            first[state] += x.total[0]
        return x.of(x.total, first)

    def heads(self, layer: int, read: Parts, note: Callable[[str, Parts], Parts]) -> Parts:  # noqa: ARG002
        """Head outputs of the rows that some path takes through this attention, and of the constants."""
        attn = self.model.blocks[layer].attn
        return held.attend(self.rule, self._taken(self.routes["a", layer], read), attn, self.prompts.positions[layer])

    def _write(self, block: Block, z: Parts) -> Parts:
        """What heads add to the rows: each head's output goes where its component leads."""
        layer = block.attn.layer
        here = self.routes["a", layer]
        routed = self._routed(here, z.carried, block.cfg.n_heads)
        if self.constants:
            routed = torch.cat((routed, torch.zeros_like(routed[:1])))
        return self._begun("a", layer, super()._write(block, z.of(z.total, routed)))

    def mlp(self, layer: int, read: Parts) -> Parts:
        """What an MLP adds to the rows."""
        here, block = self.routes["m", layer], self.model.blocks[layer]
        assert block.mlp is not None
        fed = held.feed(self.rule, self._taken(here, read), block.mlp)
        fed = fed if block.ln2_post is None else flow.norm(self.rule, fed, block.ln2_post)
        routed = self._routed(here, fed.carried, 1)
        if self.constants:
            routed = torch.cat((routed, torch.zeros_like(routed[:1])))
        return fed.of(fed.total, routed)

    def behind(self, layer: int, sublayer: Literal["attn", "mlp"], x: Parts) -> Parts:
        """A post-norm's scale is held, so that it moves every row; its shift belongs to the sublayer before it."""
        return self._begun("a" if sublayer == "attn" else "m", layer, super().behind(layer, sublayer, x))

    def _taken(self, here: Routes, x: Parts) -> Parts:
        """The rows of the states that a sublayer is to work on, and the constants'."""
        chosen = list(here.sources) + [self.automaton.n_states] * self.constants
        return x.of(x.total, x.carried[chosen])

    def _routed(self, here: Routes, made: Tensor, n_heads: int) -> Tensor:
        """Outputs [source (and one), batch, pos, (head), ...] in the rows that they lead to [state, ...].

        Of constants those of single components: what all heads share begins where the sublayer has written.
        """
        place = {source: number for number, source in enumerate(here.sources)}
        moves = [(target, place[source], symbol - here.first) for source, symbol, target in here.moves]
        if self.constants:
            moves += [(to, len(made) - 1, symbol - here.first) for symbol, to in here.begins]
        moves = [move for move in moves if move[2] < n_heads]
        to = made.new_zeros(self.automaton.n_states, len(made), n_heads)
        if moves:
            to[tuple(torch.tensor(moves).T)] = 1
        if n_heads == 1:
            return torch.einsum("ts,s...->t...", to[..., 0], made)
        return torch.einsum("tsh,sbphe->tbphe", to, made)

    def _begun(self, kind: str, layer: int, x: Parts) -> Parts:
        """What stands in the last row begins paths at the sublayer as a whole; the last row is empty then."""
        if not self.constants:
            return x
        rows = x.carried.clone()
        for state in self.routes[kind, layer].whole:
            rows[state] += rows[-1]
        rows[-1] = 0
        return x.of(x.total, rows)

    def with_constants(self, x: Parts) -> Parts:
        """The same with a last row for what the readout adds, whether the sublayers had constants or not."""
        return x if self.constants else x.of(x.total, torch.cat((x.carried, torch.zeros_like(x.carried[:1]))))
