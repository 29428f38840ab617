"""Statistics of attention without its pattern: sweeps over tiles, in memory that grows with the length only."""

from workbench.kernels.statistics.columns import column_statistics
from workbench.kernels.statistics.record import AttentionStatistics, ColumnStatistics, TopKeys
from workbench.kernels.statistics.rows import attention_statistics
from workbench.kernels.statistics.top import top_keys

__all__ = [
    "AttentionStatistics",
    "ColumnStatistics",
    "TopKeys",
    "attention_statistics",
    "column_statistics",
    "top_keys",
]
