"""The run store: a folder per run, so that a result outlives the process that made it.

A run folder holds ``run.json`` (what was asked, of which model, with which versions; how it went; the
report) and ``scores.safetensors`` (the edge scores). Both are replaced in one step, so that a reader never
sees half of one. While a process works on a run the folder also holds ``running``, which names that
process; a file ``cancel`` asks it to stop. A run can be looked at without its model.
"""

from workbench.runs.files import RunError
from workbench.runs.record import Run, RunInfo
from workbench.runs.store import RunStore, RunWriter, run_id

__all__ = ["Run", "RunError", "RunInfo", "RunStore", "RunWriter", "run_id"]
