"""Tile programs over attention: statistics and sparse normalisers in memory that grows with n, not n squared."""

from workbench.kernels.entmax import entmax_attention, sparsemax_attention
from workbench.kernels.pointwise import sigmoid_attention, softpick_attention
from workbench.kernels.problem import NonFiniteScores
from workbench.kernels.statistics import (
    AttentionStatistics,
    ColumnStatistics,
    TopKeys,
    attention_statistics,
    column_statistics,
    top_keys,
)

__all__ = [
    "AttentionStatistics",
    "ColumnStatistics",
    "NonFiniteScores",
    "TopKeys",
    "attention_statistics",
    "column_statistics",
    "entmax_attention",
    "sigmoid_attention",
    "softpick_attention",
    "sparsemax_attention",
    "top_keys",
]
