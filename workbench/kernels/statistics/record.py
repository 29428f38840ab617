"""What the sweeps over attention find: plain records of tensors, one number for each row, column or key."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

Rows = Float[Tensor, "batch head query"]
Columns = Float[Tensor, "batch head key"]


@dataclass(frozen=True)
class AttentionStatistics:
    """Statistics of every row of attention: how query i spreads its weight p_ij over the keys j that it sees.

    A logit is the score that softmax reads: scaled, and capped where there is a cap. The distance of a key is
    |position of the query - position of the key|, in positions. A row that sees no key has lse ``-inf``,
    ``largest_at`` -1 and 0 everywhere else.

    Attributes:
        lse: log sum_j exp(logit_ij), in nats.
        entropy: -sum_j p_ij log p_ij, in nats: 0 for one key, log(visible) for all alike.
        largest: the largest weight.
        largest_at: index of its key; the first of several.
        effective_keys: 1 / sum_j p_ij^2, the number of keys in the sense of Renyi's entropy of order 2.
        distance: mean distance of the keys, by weight.
        distance_spread: standard deviation of the distance, by weight.
        sink_mass: weight on the sink keys.
        recent_mass: weight on the keys nearer than ``recent`` positions, the query's own included.
        logit_mean, logit_variance, logit_min, logit_max: of the logits of the visible keys, each counted once.
        visible: number of keys that the row sees.
        norm_of_sum: ||sum_j p_ij v_j||, the length of the head's output; None without values.
        sum_of_norms: sum_j p_ij ||v_j||, the value-weighted norm: near 0 for a head that does nothing even where it
            puts its weight (Kobayashi et al. 2020, "Attention is not only a weight"); None without values.
        output: sum_j p_ij v_j [batch, head, query, d_value], where asked for.
    """

    lse: Rows
    entropy: Rows
    largest: Rows
    largest_at: Int[Tensor, "batch head query"]
    effective_keys: Rows
    distance: Rows
    distance_spread: Rows
    sink_mass: Rows
    recent_mass: Rows
    logit_mean: Rows
    logit_variance: Rows
    logit_min: Rows
    logit_max: Rows
    visible: Int[Tensor, "batch head query"]
    norm_of_sum: Rows | None = None
    sum_of_norms: Rows | None = None
    output: Float[Tensor, "batch head query d_value"] | None = None


@dataclass(frozen=True)
class ColumnStatistics:
    """What every key receives. A key that no query sees has 0 everywhere.

    Attributes:
        received_sum: sum over queries of the weight on this key.
        received_mean: the same, divided by the number of queries that see it.
        sink_rate: share of the queries that see it which give it more than ``eps``.
        visible: number of queries that see it.
    """

    received_sum: Columns
    received_mean: Columns
    sink_rate: Columns
    visible: Int[Tensor, "batch head key"]


@dataclass(frozen=True)
class TopKeys:
    """The keys with the largest weights of every row, largest first.

    Attributes:
        indices: their indices; -1 where the row sees fewer keys.
        weights: their weights; 0 there.
    """

    indices: Int[Tensor, "batch head query n"]
    weights: Float[Tensor, "batch head query n"]
