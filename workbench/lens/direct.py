"""Direct logit attribution: what each component writes straight into a logit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.layers import Given, taken
from workbench.attention.observed import plain
from workbench.circuits.decomposition.answers import answer_index, answer_name
from workbench.lens.places import answers_at_positions, masks_of, positions_named
from workbench.models import Transformer
from workbench.models.norm import Norm
from workbench.models.readout import pooled
from workbench.models.taps import Tap

Answer = int | str | Int[Tensor, " batch"]
TINY = 1e-6


@dataclass(frozen=True)
class DirectAttribution:
    """What each component gives to a logit directly, past all later components.

    Attributes:
        model: name of the model.
        target: what is explained, in words; of several examples the first's.
        right, wrong: [batch] ids; ``wrong`` is subtracted, None for nothing.
        at: [batch] position that was asked; None for a classifier.
        names: what stands at each position [batch][pos].
        components: ``embed``; ``a3.h1`` a head; ``bias a3`` what attention adds beside its heads; ``m3`` an MLP with
            its biases; ``bias m3`` the shift of a norm behind it (BERT); ``readout bias``.
        values: [component, batch], in logits.
        whole: [batch] the model's own logit, or difference: the sum of ``values``.
        sources: [layer, head, batch, source] what each head brings from each position; sums over positions to the
            head's value. None unless asked for.
    """

    model: str
    target: str
    right: Int[Tensor, " batch"]
    wrong: Int[Tensor, " batch"] | None
    at: Int[Tensor, " batch"] | None
    names: tuple[tuple[str, ...], ...]
    components: tuple[str, ...]
    values: Float[Tensor, "component batch"]
    whole: Float[Tensor, " batch"]
    sources: Float[Tensor, "layer head batch source"] | None

    def top(self, n: int = 10, example: int = 0) -> list[tuple[str, float]]:
        """The components that move the logit most, either way."""
        order = self.values[:, example].abs().argsort(descending=True)[:n].tolist()
        return [(self.components[i], float(self.values[i, example])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {
            "model": self.model,
            "target": self.target,
            "right": self.right.tolist(),
            "wrong": None if self.wrong is None else self.wrong.tolist(),
            "at": None if self.at is None else self.at.tolist(),
            "names": [list(row) for row in self.names],
            "components": list(self.components),
            "values": plain(self.values),
            "whole": plain(self.whole),
            "sources": None if self.sources is None else plain(self.sources),
        }


def direct_attribution(
    model: Transformer,
    tokens: Tensor | str | Sequence[str],
    target: Answer | None = None,
    *,
    against: Answer | None = None,
    at: Int[Tensor, " batch"] | int | None = None,
    sources: bool = False,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    token_types: Int[Tensor, "batch pos"] | None = None,
) -> DirectAttribution:
    """Split a logit, or the difference of two, into what every component writes to it directly.

    The stream is a sum of what was written, and with the scale of the final norm held as it is in this run the logit is
    an affine function of it: ``logit = sum_c <written_c, w> + constant`` (Elhage et al. 2021, A Mathematical Framework
    for Transformer Circuits; direct logit attribution). ``w`` is found backwards: from the head (dense layers with
    gates f(x) / x held, a soft cap likewise) through the final norm; where a model normalises what is added (Gemma) or
    the sum (BERT), through those norms too, scales held. The sum is exact up to rounding.

    Cost: one forward; with ``sources`` attention patterns are made, and one row of each kept.

    Args:
        model: a language model, masked language model or classifier.
        tokens: text or texts, tokens [batch, pos], pixels or patches.
        target: a word, class or id, or ids [batch]; by default the model's own first answer.
        against: what is subtracted.
        at: position to ask, negative from the end; by default the last real one. Not for a classifier.
        sources: split heads by the position that they look at.
        attention_mask, token_types: as in :meth:`Transformer.forward`.

    Raises:
        ValueError: a model that gives vectors, an unknown answer or position, or ``sources`` of a mechanism whose heads
            do more than weigh values.
    """
    if model.cfg.head == "none":
        raise ValueError(f"{model.name} gives vectors, no logits, so nothing can be attributed to a logit.")
    if sources:
        _check_sources(model)
    given = taken(model, tokens, attention_mask, token_types)
    places = _places(model, given, at)
    with torch.no_grad():
        run = _Run(model, given, places, sources)
        logits = run.logits()
        right = _ids(model, logits.argmax(-1) if target is None else target, len(logits))
        wrong = None if against is None else _ids(model, against, len(logits))
        one = torch.arange(len(logits), device=logits.device)
        whole = logits[one, right] - (0 if wrong is None else logits[one, wrong])
    values, by_source = run.back(right, wrong)
    ids = [right] if wrong is None else [right, wrong]
    return DirectAttribution(
        model=model.name,
        target=" − ".join(answer_name(model, int(i[0])) for i in ids),
        right=right.cpu(),
        wrong=None if wrong is None else wrong.cpu(),
        at=None if places is None else places.cpu(),
        names=positions_named(model, given),
        components=tuple(values),
        values=torch.stack(list(values.values())).float().cpu(),
        whole=whole.cpu(),
        sources=torch.stack(by_source).float().cpu() if sources else None,
    )


def held_logits(
    model: Transformer,
    resid: Float[Tensor, "batch pos d_model"],
    mask: Int[Tensor, "batch pos"] | None,
    ids: Int[Tensor, "batch n"],
) -> Callable[[Tensor], Float[Tensor, "batch n"]]:
    """Some logits as an affine function of the last stream, with norms' scales and gates held as ``resid`` has them.

    Args:
        model: the model.
        resid: the stream; of a model with an answer at each position [batch, 1, d_model].
        mask: of the positions, for models that pool.
        ids: which logits of each example.
    """
    with torch.no_grad():
        normed = model.ln_final(resid)
        read = pooled(normed, model.cfg, mask)
        pre = None if model.head is None else model.head.dense(read)
        gate = None if pre is None or model.head is None else _gate(model.head.act, pre)
        post = None if pre is None or gate is None else pre * gate
        out = read if post is None or model.head is None else post if model.head.ln is None else model.head.ln(post)
        bare = model.unembedding(out)
        cap = torch.ones_like(bare) if model.cfg.logit_softcap is None else model.unembed(read) / bare
        cap = cap.reshape(len(ids), -1).gather(1, ids)

    def apply(x: Tensor) -> Tensor:
        x = _held_norm(model.ln_final, resid)(x)
        x = pooled(x, model.cfg, mask)
        if model.head is not None and gate is not None and post is not None:
            x = model.head.dense(x) * gate
            x = x if model.head.ln is None else _held_norm(model.head.ln, post)(x)
        found = torch.einsum("bd,bnd->bn", x.reshape(len(ids), -1), model.unembedding.weight[ids])
        bias: Tensor | None = model.unembedding.bias
        return (found if bias is None else found + bias[ids]) * cap

    return apply


def _gate(act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    near = torch.where(x.abs() < TINY, torch.full_like(x, TINY), x)
    return act(near) / near


def _held_norm(norm: Norm, at: Tensor) -> Callable[[Tensor], Tensor]:
    """A norm with the scale that it has at ``at``."""
    if norm.weight is None:
        return lambda x: x
    weight, bias = norm.weight, norm.bias
    _, scale = norm.standardise(at)

    def apply(x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if norm.centred else x
        x = x / scale * weight
        return x if bias is None else x + bias

    return apply


class _Run:
    """One forward, and what the way back needs of it: at the position that is asked, or at all that are pooled."""

    def __init__(self, model: Transformer, given: Given, at: Tensor | None, sources: bool) -> None:
        self.model, self.at, self.sources = model, at, sources
        self.mask = None if given.real is None or at is not None else given.real.long()
        self.kept: dict[str, Tensor] = {}
        names = []
        for layer in range(model.cfg.n_layers):
            name, block = f"blocks.{layer}", model.blocks[layer]
            names += [f"{name}.hook_resid_pre"] * (layer == 0) + [f"{name}.attn.hook_z"]
            names += [f"{name}.hook_mlp_out"] * (block.mlp is not None)
            if block.cfg.norm_place == "post":
                norms = ["ln1"] + ["ln2"] * (block.mlp is not None)
                names += [f"{name}.{norm}.hook_scale" for norm in norms if block.ln1.weight is not None]
            elif block.ln1_post is not None and block.ln1_post.weight is not None:
                names.append(f"{name}.ln1_post.hook_scale")
        taps: dict[str, Tap] = {name: self._keep(name, self.here) for name in names}
        if sources:
            for layer in range(model.cfg.n_layers):
                pattern, v = (f"blocks.{layer}.attn.hook_{what}" for what in ("pattern", "v"))
                taps |= {pattern: self._keep(pattern, self._queries), v: self._keep(v, lambda x: x)}
        last = model(given.tokens, taps, stop_at_layer=model.cfg.n_layers, **masks_of(given))
        self.last = self.here(last)

    def _keep(self, name: str, part: Callable[[Tensor], Tensor]) -> Tap:
        def tap(x: Tensor) -> None:
            self.kept[name] = part(x)

        return tap

    def here(self, x: Tensor) -> Tensor:
        """[batch, pos, ...] at the position that is asked: [batch, 1, ...]; all where the model pools."""
        return x if self.at is None else x[torch.arange(len(x), device=x.device), self.at][:, None]

    def _queries(self, pattern: Tensor) -> Tensor:
        return pattern if self.at is None else self.here(pattern.transpose(1, 2)).transpose(1, 2)

    def logits(self) -> Float[Tensor, "batch n_out"]:
        """The model's own."""
        found: Tensor = self.model.logits(self.last, mask=self.mask)
        return found.reshape(len(self.last), -1)

    def back(self, right: Tensor, wrong: Tensor | None) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What each component gives [batch], in order, and each layer's heads by source [head, batch, source]."""
        ids = right[:, None] if wrong is None else torch.stack([right, wrong], 1)
        read = held_logits(self.model, self.last, self.mask, ids)

        def value(x: Tensor) -> Tensor:
            found = read(x)
            return found[:, 0] if wrong is None else found[:, 0] - found[:, 1]

        with torch.enable_grad():
            x = torch.zeros_like(self.last, requires_grad=True)
            constant = value(x)
            (w,) = torch.autograd.grad(constant.sum(), x)
        found: dict[str, Tensor] = {"readout bias": constant.detach().double()}
        by_source: list[Tensor] = []
        for layer in reversed(range(self.model.cfg.n_layers)):
            w = self._layer(layer, w, found, by_source)
        first = self.kept["blocks.0.hook_resid_pre"] if self.model.cfg.n_layers else self.last
        found["embed"] = _dot(first, w)
        return dict(reversed(found.items())), by_source[::-1]

    def _layer(self, layer: int, w: Tensor, found: dict[str, Tensor], by_source: list[Tensor]) -> Tensor:
        """Past one layer, the last component first; gives the direction that the stream before it is read in."""
        block, name = self.model.blocks[layer], f"blocks.{layer}"
        attn, post = block.attn, block.cfg.norm_place == "post"
        if block.mlp is not None:
            if post and block.ln2 is not None:
                w = self._norm(block.ln2, f"{name}.ln2", w, f"bias m{layer}", found)
            found[f"m{layer}"] = _dot(self.kept[f"{name}.hook_mlp_out"], w)
        # Where the sum is normalised, the stream before is read through that norm too; else what is added alone.
        behind = block.ln1 if post else block.ln1_post
        bias = f"bias a{layer}"
        read = w
        if behind is not None:
            read = self._norm(behind, f"{name}.{'ln1' if post else 'ln1_post'}", w, bias, found)
        if attn.b_O is not None:
            found[bias] = found.get(bias, 0) + _dot(attn.b_O.expand_as(read), read)
        into = torch.einsum("bpd,hed->bphe", read.double(), attn.W_O.double())
        heads = torch.einsum("bphe,bphe->hb", self.kept[f"{name}.attn.hook_z"].double(), into)
        for head in reversed(range(len(heads))):
            found[f"a{layer}.h{head}"] = heads[head]
        if self.sources:
            v = attn.per_query_head(self.kept[f"{name}.attn.hook_v"], 2).double()
            pattern = self.kept[f"{name}.attn.hook_pattern"].double()
            by_source.append(torch.einsum("bhpk,bkhe,bphe->hbk", pattern, v, into))
        return read if post else w

    def _norm(self, norm: Norm, name: str, w: Tensor, bias: str, found: dict[str, Tensor]) -> Tensor:
        """Back through a norm whose scale is held; its shift is a bias."""
        if norm.bias is not None:
            found[bias] = _dot(norm.bias.expand_as(w), w)
        if norm.weight is None:
            return w
        # With nothing along the normalised direction, the pull-back is that of a norm with its scale held.
        return norm.pull_back(w, torch.zeros_like(w), self.kept[f"{name}.hook_scale"])


def _dot(x: Float[Tensor, "batch pos d_model"], w: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " batch"]:
    return torch.einsum("bpd,bpd->b", x.double(), w.double())


def _check_sources(model: Transformer) -> None:
    for block in model.blocks:
        mechanism = block.attn.mechanism
        if not block.attn.is_softmax and (mechanism.values is not None or mechanism.output is not None):
            raise ValueError(
                f"{model.name} has '{mechanism.key}' attention, whose heads do more than weigh values; leave sources "
                "out, or choose another mechanism."
            )


def _places(model: Transformer, given: Given, at: Tensor | int | None) -> Int[Tensor, " batch"] | None:
    """Where each example is asked; None where the model gives one answer."""
    if not answers_at_positions(model):
        if at is not None:
            raise ValueError(f"{model.name} gives one answer for the whole input; leave 'at' out.")
        return None
    batch, n, device = len(given.tokens), given.n, given.tokens.device
    if at is None:
        if given.real is None:
            return torch.full((batch,), n - 1, device=device)
        return n - 1 - given.real.long().flip(1).argmax(1)
    places = torch.as_tensor(at, device=device).long().expand(batch)
    if int(places.min()) < -n or int(places.max()) >= n:
        raise ValueError(f"There is no position {at}: the input has the positions 0 to {n - 1}.")
    return places % n


def _ids(model: Transformer, answer: Answer, batch: int) -> Int[Tensor, " batch"]:
    if isinstance(answer, str):
        answer = answer_index(model, answer)
    ids = torch.as_tensor(answer, device=model.device)
    if ids.is_floating_point() or ids.ndim > 1 or (ids.ndim and len(ids) != batch):
        raise ValueError(f"An answer is a word, an id, or one id for each of the {batch} examples; got {answer}.")
    if int(ids.min()) < 0 or int(ids.max()) >= model.cfg.n_out:
        raise ValueError(f"There is no answer {ids.tolist()}: {model.name} has 0 to {model.cfg.n_out - 1}.")
    return ids.long().expand(batch)
