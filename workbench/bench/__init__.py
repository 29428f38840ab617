"""Methods against each other: every method on every task of every model, and on models whose circuit is known.

    table = bench.run(["eap", "eap-ig"], ["ioi"], ["smollm2-135m"], n=32, seeds=[0, 1], out="found")
    bench.save(table, "found")

A *cell* is one method on one task, model and seed: its scores' CMD and CPR (Mueller et al. 2025, arXiv 2504.13151).
Beside them stands the same for edges in random order. On a known model a cell has the AUROC and the average precision
of the ranking (:mod:`workbench.circuits.ground_truth`), beside the same method on random weights. Each cell is a file
as soon as it is finished, so that an interrupted run goes on where it stopped.
"""

from workbench.bench.folder import save
from workbench.bench.table import RANDOM, BenchTable, Cell
from workbench.bench.work import run

__all__ = ["RANDOM", "BenchTable", "Cell", "run", "save"]
