"""Whether a written program says what its model says."""

from __future__ import annotations

from typing import Any

from workbench.circuits.known.programs.tasks import examples
from workbench.circuits.known.programs.train import Learned, discrete


def agreement(learned: Learned, text: str) -> float:
    """Share of held-out inputs at which the file's ``run`` and the network give the same answers everywhere.

    Args:
        learned: what training gave.
        text: the file that :func:`emit` wrote of it; it is run.
    """
    task, module = learned.program.task, {"__name__": learned.program.task.module}
    exec(compile(text, f"{task.module}.py", "exec"), module)
    run: Any = module["run"]
    inputs = examples(task.key).test
    said = discrete(learned.model, task.encode(inputs)).tolist()
    pairs = zip(inputs, said, strict=True)
    same: list[bool] = [run(list(words)) == [task.classes[c] for c in row[: len(words)]] for words, row in pairs]
    return sum(same) / len(same)
