"""The run store: a folder per run, so that a result outlives the process that made it.

A run folder holds ``run.json`` (what was asked, of which model, with which versions; how it went; the
report) and ``scores.safetensors`` (the edge scores). Both are replaced in one step, so that a reader never
sees half of one. While a process works on a run the folder also holds ``running``, which names that
process; a file ``cancel`` asks it to stop. ``partial.safetensors`` has the scores that a long search found so far, and
stays when the process is killed. A run can be looked at without its model.
"""

from workbench.runs.choose import Construction, choose
from workbench.runs.files import RunError
from workbench.runs.record import Run, RunInfo
from workbench.runs.store import RunStore, RunWriter, run_id

__all__ = ["Construction", "Run", "RunError", "RunInfo", "RunStore", "RunWriter", "choose", "run_id"]
