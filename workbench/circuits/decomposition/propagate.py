"""One forward sweep that carries the parts of many sources through a model.

What comes before the first source is computed once for all, in one plain run. A source joins at its own place; before
that nothing is computed for it, and nothing behind the last place that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.circuits.decomposition import flow
from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.parts import Parts, rows, unrows
from workbench.circuits.decomposition.rules import Rule
from workbench.circuits.decomposition.sites import STEPS, Site
from workbench.models import Transformer
from workbench.models.attention import Positions
from workbench.models.blocks import Block
from workbench.models.readout import pooled


@dataclass(frozen=True)
class Prompts:
    """Prompts, run once.

    Attributes:
        model: the model.
        tokens: as it was given them.
        mask: [batch, pos] 1 for real positions, where the model would see padding; None elsewhere.
        lengths: [batch] positions of each prompt.
        positions: what each layer's attention needs to know.
        resid: the stream that enters each layer, and the one that leaves the last: [1, batch, pos, d_model].
    """

    model: Transformer
    tokens: Tensor
    mask: Int[Tensor, "batch pos"] | None
    lengths: Int[Tensor, " batch"]
    positions: list[Positions]
    resid: list[Float[Tensor, "1 batch pos d_model"]]

    @classmethod
    def run(cls, model: Transformer, tokens: Tensor, mask: Tensor | None, lengths: Tensor | None = None) -> Prompts:
        """One plain forward without gradients, up to the end of the last block."""
        names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
        if mask is None and not model.cfg.causal:
            mask = model.text.mask_of(tokens)
        with torch.no_grad():
            last, cache = model.run_with_cache(tokens, names, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
            positions, _ = model.positions(tokens, mask)
        resid = [*(cache[name][None] for name in names), last[None]]
        width = last.shape[1]
        if lengths is None:
            lengths = torch.full((len(last),), width) if mask is None else mask.long().sum(1)
        return cls(model, tokens, mask, lengths.to(last.device), positions, resid)

    def __len__(self) -> int:
        return self.resid[0].shape[1]

    @property
    def width(self) -> int:
        """Positions of the longest prompt."""
        return self.resid[0].shape[2]


@dataclass(frozen=True)
class Source:
    """Places whose activations, less their baseline, are one relevant part.

    Attributes:
        name: what it is called.
        sites: the places.
    """

    name: str
    sites: tuple[Site, ...]

    @property
    def first(self) -> int:
        """The first of its places in the order of computation."""
        return min(site.order for site in self.sites)


class Sweep:
    """Carries the parts of several sources through a model.

    Args:
        rule: how they are carried.
        prompts: of which prompts.
        sources: in any order.
        baseline: what the sources are compared with.
    """

    def __init__(self, rule: Rule, prompts: Prompts, sources: Sequence[Source], baseline: Baseline) -> None:
        self.rule, self.prompts, self.model, self.baseline = rule, prompts, prompts.model, baseline
        self.order = sorted(range(len(sources)), key=lambda i: sources[i].first)
        self.sources = [sources[i] for i in self.order]
        # Where each source can have had a part so far: [source, batch, pos].
        self.touched = torch.zeros(len(sources), len(prompts), prompts.width, dtype=torch.bool)
        self.touched = self.touched.to(prompts.lengths.device)
        self.sites: dict[int, list[tuple[int, Site]]] = {}
        for row, source in enumerate(self.sources):
            for site in source.sites:
                self.sites.setdefault(site.order, []).append((row, site))

    @property
    def start(self) -> int:
        """The first layer in which a source stands."""
        return min(self.sites) // STEPS

    def run(self, keep: Sequence[str] = (), until: int | None = None) -> tuple[Parts, dict[str, Parts]]:
        """The parts of the stream that leaves the last block, or that enters block ``until``.

        Args:
            keep: hook names of block activations to keep as well: ``resid_pre``, ``q``, ``z``, ``mlp_out`` ... by
                their full name.
            until: the block to stop before.
        """
        kept: dict[str, Parts] = {}
        wanted = set(keep)
        stop = self.model.cfg.n_layers if until is None else until
        start = min(self.start, stop, *(int(name.split(".")[1]) for name in wanted))
        total = self.prompts.resid[start]
        x = Parts(total, total[:0], self.rule.by_runs)
        for layer in range(start, stop):
            x = self._block(layer, self.inject(x, STEPS * layer), kept, wanted)
        if until is None:
            x = self.inject(x, STEPS * stop)
        return x, kept

    def in_given_order(self, x: Tensor) -> Tensor:
        """Rows [source, ...] in the order in which the sources were given."""
        back = torch.empty(len(self.order), dtype=torch.long, device=x.device)
        back[torch.tensor(self.order, device=x.device)] = torch.arange(len(self.order), device=x.device)
        return x[back]

    def inject(self, x: Parts, order: int) -> Parts:
        """Let the sources at a place begin: there the relevant part is the activation less its baseline."""
        here = self.sites.get(order)
        if not here:
            return x
        x = x.joined_by(1 + max(row for row, source in enumerate(self.sources) if source.first <= order))
        # New ones, for a backward pass may still need what was there.
        carried, self.touched = x.carried.clone(), self.touched.clone()
        for row, site in here:
            baseline = self.baseline.at(site)
            begins = baseline.expand_as(x.total[0]) if x.runs else x.total[0] - baseline
            chosen: Bool[Tensor, "batch pos *"] = site.where(self.prompts.lengths, self.prompts.width)
            self.touched[row] |= chosen
            chosen = chosen.view(*chosen.shape, *[1] * (begins.ndim - 2))
            if site.kind == "head":
                heads = torch.zeros(begins.shape[2], dtype=torch.bool, device=begins.device)
                heads[list(site.heads)] = True
                chosen = chosen & heads[:, None]
            carried[row] = torch.where(chosen, begins, carried[row])
        return x.of(x.total, carried)

    def settled(self, x: Parts, touched: Bool[Tensor, "source batch *pos"] | None = None) -> Parts:
        """The same, with exactly nothing relevant where a source can have had no part.

        A run on carried rows and one on the whole round differently, so that their difference would be next to nothing.
        """
        if not x.runs or not x.n:
            return x
        mask = (self.touched if touched is None else touched)[: x.n]
        mask = mask.view(*mask.shape, *[1] * (x.total.ndim - mask.ndim))
        return x.of(x.total, torch.where(mask, x.carried, x.total))

    def _spread(self, block: Block) -> None:
        """Attention has moved parts to every position that can see one."""
        if block.cfg.causal and not block.attn.mechanism.whole:
            self.touched = self.touched.cummax(-1).values
        else:
            self.touched = self.touched.any(-1, keepdim=True).expand_as(self.touched).clone()

    def _block(self, layer: int, x: Parts, kept: dict[str, Parts], wanted: set[str]) -> Parts:
        block, name = self.model.blocks[layer], f"blocks.{layer}"
        rule = self.rule

        def note(what: str, value: Parts) -> Parts:
            value = self.settled(value)
            if f"{name}.{what}" in wanted:
                kept[f"{name}.{what}"] = value
            return value

        post = block.cfg.norm_place == "post"
        note("hook_resid_pre", x)
        normed = x if post else flow.norm(rule, x, block.ln1)
        z = self.heads(layer, normed, lambda what, value: note(f"attn.{what}", value))
        self._spread(block)
        z = note("attn.hook_z", self.inject(self.settled(z), STEPS * layer + 1))
        attended = self._write(block, z)
        base = x.joined_by(attended.n)
        mid = base.plus(attended)
        if post:
            mid = self.behind(layer, "attn", mid)
        if block.mlp is None:
            return note("hook_resid_post", mid)
        if post:
            read = mid
        elif block.ln2 is not None:
            read = flow.norm(rule, base if block.cfg.parallel else mid, block.ln2)
        else:
            read = normed.joined_by(attended.n)
        fed = self.mlp(layer, read)
        fed = note("hook_mlp_out", self.inject(self.settled(fed), STEPS * layer + 2))
        after = mid.joined_by(fed.n).plus(fed)
        return note("hook_resid_post", self.behind(layer, "mlp", after) if post else after)

    def behind(self, layer: int, sublayer: Literal["attn", "mlp"], x: Parts) -> Parts:
        """The norm of a post-norm model behind a sublayer, of the sum that it leaves."""
        block = self.model.blocks[layer]
        return flow.norm(self.rule, x, block.ln1 if sublayer == "attn" else block.mlp_norm)

    def heads(self, layer: int, read: Parts, note: Callable[[str, Parts], Parts]) -> Parts:
        """Head outputs of what a layer's attention reads."""
        return flow.attend(self.rule, read, self.model.blocks[layer].attn, self.prompts.positions[layer], note)

    def mlp(self, layer: int, read: Parts) -> Parts:
        """What an MLP writes when it reads this."""
        block = self.model.blocks[layer]
        assert block.mlp is not None
        fed = flow.feed(self.rule, read, block.mlp)
        return fed if block.ln2_post is None else flow.norm(self.rule, fed, block.ln2_post)

    def _write(self, block: Block, z: Parts) -> Parts:
        """What heads add to the stream."""
        written = flow.linear(self.rule, z.along(lambda part: part.flatten(-2)), block.attn.o)
        written = flow.scaled(written, block.attn.scale)
        return written if block.ln1_post is None else flow.norm(self.rule, written, block.ln1_post)

    def logits(self, x: Parts, at: Int[Tensor, " batch"] | None = None) -> Parts:
        """From the last stream to the model's output: logits at all positions or at one of each prompt; see the model.

        That is [source, batch, pos or 1, d_vocab], [source, batch, class], or [source, batch, pos, d_model].
        """
        rule, touched = self.rule, self.touched
        if at is not None:
            one = torch.arange(len(at), device=at.device)
            x, touched = x.along(lambda part: part[:, one, at][:, :, None]), touched[:, one, at][:, :, None]
        x = self.readout(x)
        if self.model.cfg.head == "none":
            return self.settled(x, touched)
        if self.model.cfg.pooling != "none":
            touched = touched.any(-1)
        x = flow.capped(rule, flow.linear(rule, x, self.model.unembedding), self.model.cfg.logit_softcap)
        return self.settled(x, touched)

    def readout(self, x: Parts) -> Parts:
        """From the last stream to what the unembedding reads: final norm, pooling, head."""
        model, rule = self.model, self.rule
        x = flow.norm(rule, x, model.ln_final)
        if model.cfg.head != "none" and model.cfg.pooling != "none":
            x = x.along(self._pool)
        if model.cfg.head != "none" and model.head is not None:
            x = flow.function(rule, flow.linear(rule, x, model.head.dense), model.head.act)
            x = x if model.head.ln is None else flow.norm(rule, x, model.head.ln)
        return x

    def _pool(self, part: Tensor) -> Tensor:
        mask = None if self.prompts.mask is None else self.prompts.mask.repeat(len(part), 1)
        return unrows(pooled(rows(part), self.model.cfg, mask), len(part))
