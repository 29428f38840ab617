"""Heads that suppress, or copy, the token that they read: by weights over the vocabulary, and in a text.

McDougall et al. 2023 ("Copy suppression: comprehensively understanding an attention head", arXiv 2310.04625): fed with
the effective embedding of a token, ``W_U W_OV MLP_0(W_E)``, a copy-suppressing head lowers that token's own logit more
than nearly all others; the score is the share of tokens that are among the 10 most suppressed of the vocabulary. The
same on the other end is copying.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.census_rows import strips
from workbench.attention.effective import Reads, effective, read_by
from workbench.attention.entropy import HeadValue
from workbench.attention.head_circuits import ov_weights, require_decoder, unembedding
from workbench.attention.layers import LayerAttention, Text, taken, watch
from workbench.attention.observed import ByHead, plain
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer

PARTS = 24
"""How many parts the vocabulary is read in; most tokens of most heads are settled after the first."""


@dataclass(frozen=True)
class CopySuppression:
    """What heads do to the logit of the token that they read.

    Attributes:
        model: name of the model.
        score: share of the tokens that are among the ``k`` whose logits their own reading lowers most, [layer, head].
        copies: share that are among the ``k`` whose logits it raises most, [layer, head].
        n_tokens: tokens that were asked.
        k: of how many; by chance a share of ``k / d_vocab`` would be among them.
        reads: what heads were fed with, as in :func:`workbench.attention.effective.effective`.
        seed: of the sample.
    """

    model: str
    score: ByHead
    copies: ByHead
    n_tokens: int
    k: int
    reads: Reads
    seed: int

    def top(self, n: int = 5, *, copies: bool = False) -> list[HeadValue]:
        """The ``n`` heads that suppress (or copy) most tokens, the highest share first."""
        score = self.copies if copies else self.score
        best = score.flatten().argsort(descending=True, stable=True)[:n].tolist()
        heads = score.shape[1]
        return [HeadValue(at // heads, at % heads, float(score.flatten()[at])) for at in best]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists."""
        return {
            "model": self.model,
            "tokens": self.n_tokens,
            "k": self.k,
            "reads": self.reads,
            "seed": self.seed,
            "score": plain(self.score),
            "copies": plain(self.copies),
        }


@torch.no_grad()
def copy_suppression(
    model: Transformer,
    tokens: Int[Tensor, " token"] | None = None,
    *,
    sample: int = 256,
    k: int = 10,
    reads: Reads = "mlp0",
    seed: int = 0,
    progress: ProgressFn | None = None,
) -> CopySuppression:
    """Shares of tokens that each head suppresses and copies, from weights alone.

    A token's rank among all logits is found part by part of the vocabulary; it is left as soon as it has ``k`` below it
    and ``k`` above it, so that the shares are exact and few products are made. No more than a part of the vocabulary
    times the tokens is held. Logits are taken as in :func:`workbench.attention.copying`.

    Args:
        model: a decoder.
        tokens: which to ask; by default a sample of the vocabulary without special tokens.
        sample: of how many.
        k: ranks that count.
        reads: the effective embedding of heads behind the first layer; the paper's is the first MLP's output.
        seed: of the sample.
        progress: called after every layer; returning False stops.

    Raises:
        ValueError: the model is no decoder of text; no such token, or no room for ``k`` on either end.
        Stopped: ``progress`` asked for it.
    """
    require_decoder(model)
    cfg = model.cfg
    if sample < 1 or k < 1 or 2 * k >= cfg.d_vocab:
        raise ValueError(f"sample and k are at least 1, and twice k below {cfg.d_vocab}; got {sample} and {k}.")
    ids = drawn(model, sample, seed) if tokens is None else tokens.flatten().long().to(model.device)
    if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= cfg.d_vocab:
        raise ValueError(f"Give one token id or more, from 0 to {cfg.d_vocab - 1}.")
    work = torch.promote_types(model.dtype, torch.float32)
    out = unembedding(model).to(work)
    first, later = effective(model, ids, "embedding"), effective(model, ids, reads)
    report = Reporter(progress, cfg.n_layers, "reading copy suppression")
    low, high = [], []
    for layer in range(cfg.n_layers):
        reading, writing = ov_weights(model, layer)
        x = read_by(model, layer, later if layer else first)
        ends = [_ends((x @ read @ write).to(work), out, ids, k) for read, write in zip(reading, writing, strict=True)]
        low.append(torch.stack([end[0] for end in ends]))
        high.append(torch.stack([end[1] for end in ends]))
        report.step()
        if not report.going:
            raise Stopped("Stopped before the OV circuits of all layers were read.")
    return CopySuppression(model.name, torch.stack(low), torch.stack(high), len(ids), k, reads, seed)


def _ends(
    written: Float[Tensor, "token d_model"], out: Float[Tensor, "vocab d_model"], ids: Int[Tensor, " token"], k: int
) -> tuple[Tensor, Tensor]:
    """Shares of tokens with fewer than ``k`` other logits at or below their own, and at or above it."""
    own = (written * out[ids]).sum(-1)
    below = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    above = torch.zeros_like(below)
    rest = torch.arange(len(ids), device=ids.device)
    parts = min(PARTS, len(out))
    for start in range(parts):
        logits = written[rest] @ out[start::parts].T
        mine = ids[rest] % parts == start
        # A token is no rival of its own, whatever the last digits of two ways to add say.
        logits[mine.nonzero().flatten(), ids[rest][mine] // parts] = torch.nan
        # What is equal stands before it: a head that writes nothing puts no token at either end.
        below[rest] += (logits <= own[rest, None]).sum(-1)
        above[rest] += (logits >= own[rest, None]).sum(-1)
        rest = rest[(below[rest] < k) | (above[rest] < k)]
    return (below < k).double().mean().cpu(), (above < k).double().mean().cpu()


def drawn(model: Transformer, sample: int, seed: int) -> Int[Tensor, " token"]:
    """A sample of the vocabulary without special tokens; all of it where it is smaller."""
    text, known, special = model.text.tokenizer, model.cfg.d_vocab, set()
    if text is not None:
        special, known = set(text.all_special_ids), min(known, len(text))
    ids = torch.tensor([at for at in range(known) if at not in special and at != model.cfg.pad_token])
    if not len(ids):
        raise ValueError(f"{model.name} has no tokens beside special ones.")
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    return ids[order[:sample]].sort().values.to(model.device)


@torch.no_grad()
def attended_logits(
    model: Transformer,
    tokens: Tensor | Text,
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    progress: ProgressFn | None = None,
) -> ByHead:
    """What heads do to the logits of the tokens that they read in a text.

    ``mean_i sum_j p_ij <v_j W_O, W_U[token_j]>``: the direct effect, past all later layers, in logits less their mean,
    before the final norm divides. Negative for copy suppression in behaviour, positive for copying. Values are the
    model's own, positions, context and biases included.

    Args:
        model: a decoder.
        tokens, attention_mask: as in :func:`workbench.attention.statistics`.
        progress: called after every layer; returning False stops.

    Returns:
        Mean over real queries, [layer, head].

    Raises:
        ValueError: the model is no decoder of text; attention that mixes values or whose rows do not sum to 1.
        Stopped: ``progress`` asked for it.
    """
    require_decoder(model)
    given = taken(model, tokens, attention_mask)
    assert given.ids is not None
    out = unembedding(model)[given.ids].to(torch.promote_types(model.dtype, torch.float32))
    report = Reporter(progress, model.cfg.n_layers, "reading what heads do to what they read")
    found: list[Tensor] = []

    def see(layer: LayerAttention) -> None:
        assert layer.v is not None
        writes = ov_weights(model, layer.layer)[1].to(out)
        v = layer.v.repeat_interleave(model.cfg.group_size, 1).to(out)
        own = torch.einsum("bhke,hef,bkf->bhk", v, writes, out)
        total = sum(torch.einsum("bhqk,bhk->h", strip.p.to(own), own).double() for strip in strips(layer))
        rows = given.tokens.numel() if given.real is None else int(given.real.sum())
        found.append(torch.as_tensor(total).cpu() / rows)
        report.step()
        if not report.going:
            raise Stopped("Stopped before all layers were read.")

    watch(model, given, see)
    return torch.stack(found)
