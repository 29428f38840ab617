"""Row statistics of attention in one sweep over tiles of keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.kernels import check
from workbench.kernels.backends import Backend, runs_triton
from workbench.kernels.statistics.gradient import with_gradients
from workbench.kernels.statistics.record import AttentionStatistics
from workbench.kernels.statistics.row_sweep import Wanted, row_sweep


def attention_statistics(
    q: Float[Tensor, "batch head query d_head"],
    k: Float[Tensor, "batch kv_head key d_head"],
    v: Float[Tensor, "batch v_head key d_value"] | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    key_mask: Bool[Tensor, "batch key"] | None = None,
    lengths: Int[Tensor, " batch"] | None = None,
    softcap: float | None = None,
    sinks: Sequence[int] | Bool[Tensor, "batch key"] = (0,),
    recent: int = 16,
    want_output: bool = False,
    backend: Backend = "auto",
    tile: tuple[int, int] | None = None,
) -> AttentionStatistics:
    """Entropy, log-sum-exp and the other statistics of every row of softmax attention, without the pattern.

    One sweep over tiles of keys with online rescaling: time grows with query x key, memory with query + key. Heads
    that share keys read them together; nothing is repeated. Queries may be fewer than keys, as with kept keys: the last
    query stands at the last key. Inputs in half precision are calculated in float32, float64 in float64.

    ``lse`` and ``entropy`` carry gradients to ``q`` and ``k``, made in tiles as well; nothing else does.

    Args:
        q: queries as they meet the keys: after rotary turns and norms.
        k: keys; one head for several query heads where these share it.
        v: values, for the norms and the output; their heads may be shared otherwise than those of the keys.
        causal: a query sees no key after its own position.
        scale: factor on the products; None for ``d_head ** -0.5``.
        window: how many keys a query sees looking back, its own included; without ``causal`` as many to either side.
        key_mask: True for keys that are there, False for padding.
        lengths: instead, or as well: how many keys of each batch row are there, from the first.
        softcap: scores go through ``softcap * tanh(score / softcap)`` (Gemma 2); None for no cap.
        sinks: indices of sink keys, or a mask where they differ between batch rows.
        recent: how many positions back count as recent, the query's own included; without ``causal`` to either side.
        want_output: return the head's output as well, for which ``v`` is needed.
        backend: ``torch`` runs anywhere; ``triton`` needs a GPU and falls back to torch, with a warning, where it
            does not do a head size or a number type; ``auto`` is Triton on a GPU and torch elsewhere.
        tile: queries and keys of a tile; None chooses. Changes speed, and results only by rounding.

    Returns:
        The statistics, [batch, head, query]. A row that sees no key has lse -inf, ``largest_at`` -1 and 0 elsewhere.

    Raises:
        ValueError: shapes, types or settings do not fit; the sentence names them.
        NonFiniteScores: a visible score is infinite or not a number; the sentence says where.
    """
    problem = check.problem(
        q.detach(),
        k.detach(),
        None if v is None else v.detach(),
        causal=causal,
        scale=scale,
        window=window,
        key_mask=key_mask,
        lengths=lengths,
        softcap=softcap,
        tile=tile,
    )
    if want_output and v is None:
        raise ValueError("want_output needs the values: give v, or leave want_output off.")
    if recent < 0:
        raise ValueError(f"recent is {recent}; it counts positions and cannot be negative.")
    wanted = Wanted(check.sink_mask(sinks, len(q), k.shape[2], q.device), recent, want_output)
    with torch.no_grad():
        in_triton = runs_triton(backend, problem)
        if in_triton:
            from workbench.kernels.statistics.triton_rows import triton_row_sweep

            found = triton_row_sweep(problem, wanted)
        else:
            found = row_sweep(problem, wanted)
    results = {name: x if x.dtype == torch.long else x.to(problem.work) for name, x in found.items()}
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        pair = with_gradients(q, k, problem, found["lse"], found["entropy"], in_triton)
        results["lse"], results["entropy"] = pair
    return AttentionStatistics(**{f.name: results[f.name] for f in fields(AttentionStatistics) if f.name in results})
