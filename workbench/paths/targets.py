"""What the contributions of paths are read at: a logit or a class, the difference of two, or a residual direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.circuits.decomposition import flow
from workbench.circuits.decomposition.answers import answer_index, answer_name
from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.propagate import Prompts, Sweep
from workbench.models import Transformer
from workbench.paths.sweep import PathSweep

Asked = int | str | Tensor | tuple[Any, Any] | None
"""A token or class, by number or as text; a pair ``(right, wrong)`` of such for their difference; whole numbers [batch]
for a token in each prompt; a direction [d_model]; None for the model's own first answer to each prompt."""


@dataclass(frozen=True)
class Target:
    """What is read, and where.

    Attributes:
        name: what it is called.
        unit: ``logits``, or ``residual`` for a direction.
        right, wrong: [batch] token or class, and what is subtracted; None for a direction.
        direction: [d_model], read in the stream that leaves the last block.
        at: [batch] position; None for models that answer once, unless a direction is read.
    """

    name: str
    unit: str
    right: Int[Tensor, " batch"] | None = None
    wrong: Int[Tensor, " batch"] | None = None
    direction: Float[Tensor, " d_model"] | None = None
    at: Int[Tensor, " batch"] | None = None

    def rows(self, sweep: PathSweep, x: Parts) -> tuple[Float[Tensor, "state batch pos"], Float[Tensor, "batch pos"]]:
        """What each state's row says at every position, and what the readout adds; one position where there is one.

        Args:
            sweep: that carried the rows.
            x: of the stream that leaves the last block.
        """
        n = sweep.automaton.n_states
        found = self.read(sweep, x if self.direction is not None else sweep.with_constants(x))
        if self.direction is not None:
            return found[:n], torch.zeros_like(x.total[0, ..., 0])
        return found[:n], found[-1]

    def read(self, sweep: Sweep, x: Parts) -> Float[Tensor, "row batch pos"]:
        """What each row of the stream that leaves the last block says at every position."""
        if self.direction is not None:
            return x.carried @ self.direction.to(x.carried)
        return self._logits(sweep, sweep.readout(x))

    def _logits(self, sweep: Sweep, x: Parts) -> Float[Tensor, "row batch pos"]:
        """Logits of the chosen tokens alone, less those of the others."""
        assert self.right is not None
        once = sweep.model.cfg.pooling != "none"
        if once:
            x = x.along(lambda part: part[:, :, None])
        ids = self.right if self.wrong is None else torch.cat((self.right, self.wrong))
        chosen, place = torch.unique(ids, return_inverse=True)
        full = sweep.model.unembedding
        some = SimpleNamespace(weight=full.weight[chosen], bias=None if full.bias is None else full.bias[chosen])
        logits = flow.linear(sweep.rule, x, cast(nn.Linear, some))
        logits = flow.capped(sweep.rule, logits, sweep.model.cfg.logit_softcap)

        def of(column: Tensor) -> Tensor:
            index = column[None, :, None, None].expand(*logits.carried.shape[:-1], 1)
            return logits.carried.gather(-1, index)[..., 0]

        right = of(place[: len(self.right)])
        return right if self.wrong is None else right - of(place[len(self.right) :])

    @torch.no_grad()
    def value(self, prompts: Prompts) -> Float[Tensor, " batch"]:
        """What the model itself says, by its own modules."""
        stream, model = prompts.resid[-1][0], prompts.model
        one = torch.arange(len(stream), device=stream.device)
        if self.direction is not None:
            assert self.at is not None
            return stream[one, self.at] @ self.direction.to(stream)
        assert self.right is not None
        out = model.logits(stream, at=self.at, mask=prompts.mask)
        logits = out if self.at is None else out[:, 0]
        right = logits[one, self.right]
        return right if self.wrong is None else right - logits[one, self.wrong]

    def here(self, x: Float[Tensor, "*row batch pos"]) -> Float[Tensor, "*row batch"]:
        """At the position that is asked for."""
        if self.at is None:
            return x[..., 0]
        return x[..., torch.arange(len(self.at), device=x.device), self.at.to(x.device)]


def resolve(asked: Asked, prompts: Prompts, at: int | Tensor | None = None) -> Target:
    """What a caller asked for, checked.

    Args:
        asked: see :data:`Asked`.
        prompts: the prompts.
        at: the position that it is read at, one for all prompts or [batch]; negative ones count from each prompt's end.
            None is the last one that is real; for a model that fills in masks, the mask where each prompt has one.

    Raises:
        ValueError: it is no token or class of the model, does not fit the prompts, or is nothing that the model gives.
    """
    model, n = prompts.model, len(prompts)
    cfg, device = model.cfg, prompts.lengths.device
    if isinstance(asked, Tensor) and asked.is_floating_point():
        if tuple(asked.shape) != (cfg.d_model,):
            raise ValueError(f"A direction has d_model = {cfg.d_model} numbers; got a tensor {list(asked.shape)}.")
        if not bool(asked.isfinite().all()):
            raise ValueError("The direction has numbers that are not finite; give finite ones.")
        return Target("direction", "residual", direction=asked.to(device), at=_position(prompts, at))
    if cfg.head == "none":
        raise ValueError(f"{model.name} gives no logits; give a direction [{cfg.d_model}] of its residual stream.")
    if cfg.pooling != "none" and at is not None:
        raise ValueError(f"{model.name} gives one answer for each prompt; leave 'at' out.")
    place = None if cfg.pooling != "none" else _position(prompts, at)
    if asked is None:
        right = model.logits(prompts.resid[-1][0], at=place, mask=prompts.mask).reshape(n, -1).argmax(-1)
        return Target(_name(model, [right]), "logits", right, at=place)
    pair = asked if isinstance(asked, tuple | list) else (asked,)
    if not 1 <= len(pair) <= 2:
        raise ValueError(f"A target is one token or class, or a pair (right, wrong); got {len(pair)}.")
    ids = [_ids(model, one, n).to(device) for one in pair]
    return Target(_name(model, ids), "logits", ids[0], ids[1] if len(ids) > 1 else None, at=place)


def _position(prompts: Prompts, at: int | Tensor | None) -> Int[Tensor, " batch"]:
    lengths, n = prompts.lengths, len(prompts)
    if at is None:
        mask = getattr(prompts.model.tokenizer, "mask_token_id", None)
        if not prompts.model.cfg.causal and mask is not None and not prompts.tokens.is_floating_point():
            masked: Tensor = prompts.tokens == mask
            if bool((masked.sum(1) == 1).all()):
                return masked.long().argmax(1)
        return lengths - 1
    if isinstance(at, bool) or (not isinstance(at, Tensor) and not isinstance(at, int)):
        raise ValueError(f"A position is a whole number, or one for each of the {n} prompts; got {at!r}.")
    places = torch.as_tensor(at, device=lengths.device)
    if places.is_floating_point() or tuple(places.shape) not in ((), (n,)):
        raise ValueError(f"Positions are one whole number for each of the {n} prompts; got {list(places.shape)}.")
    places = places.expand(n)
    places = torch.where(places < 0, places + lengths, places)
    outside = (places < 0) | (places >= lengths)
    if bool(outside.any()):
        i = int(outside.nonzero()[0])
        raise ValueError(f"Prompt {i} has no such position: it has 0 to {int(lengths[i]) - 1}.")
    return places


def _ids(model: Transformer, asked: Any, n: int) -> Int[Tensor, " batch"]:
    """One token or class for each prompt."""
    what = "class" if model.cfg.pooling != "none" else "token"
    if isinstance(asked, str):
        asked = answer_index(model, asked)
    if isinstance(asked, Tensor) and not asked.is_floating_point() and asked.dtype != torch.bool:
        if tuple(asked.shape) not in ((), (n,)):
            raise ValueError(f"A target is one {what} for each of the {n} prompts, [{n}]; got {list(asked.shape)}.")
        ids = asked.long().expand(n)
    elif isinstance(asked, int) and not isinstance(asked, bool):
        ids = torch.full((n,), asked)
    else:
        raise ValueError(f"A target is a {what} (number or text), a pair of them, or a direction; got {asked!r}.")
    if not 0 <= int(ids.min()) <= int(ids.max()) < model.cfg.n_out:
        wrong = next(int(i) for i in ids if not 0 <= int(i) < model.cfg.n_out)
        raise ValueError(f"There is no {what} {wrong}: {model.name} has 0 to {model.cfg.n_out - 1}.")
    return ids


def _name(model: Transformer, ids: list[Tensor]) -> str:
    """``logit of Mary − John``, or of as many as there are."""
    say: Callable[[Tensor], str] = lambda column: (  # noqa: E731
        answer_name(model, int(column[0])).strip() or str(int(column[0]))
        if len(set(column.tolist())) == 1
        else "each prompt's own"
    )
    return f"{'class' if model.cfg.pooling != 'none' else 'logit of'} " + " − ".join(map(say, ids))
