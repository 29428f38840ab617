"""What Tracr makes of the library: layers and outputs of every program, as ``tracr_reference.json`` keeps them.

Run by hand in an environment that has ``tracr-pypi`` and need not have torch; it writes the file anew:

    python -m venv tracr && tracr/bin/pip install tracr-pypi==1.0.0
    tracr/bin/python tests/circuits/tracr_reference.py

The library is loaded with Tracr's own ``rasp`` in the place of ours, so what Tracr compiles are the same programs, by
the same source, without a line of our language or compiler. Where a program gives None, Tracr decodes any value.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("workbench", "workbench.circuits", "workbench.circuits.known")
HEADER = (
    "Outputs and numbers of layers of tracr-pypi 1.0.0 for the programs of workbench.circuits.known.library, "
    "written by tracr_reference.py; see there. Where a program gives None, Tracr's decoding gives any value."
)
N = 16


def library() -> Any:
    """The module of the library, loaded apart from the package and upon Tracr's ``rasp``."""
    from tracr.rasp import rasp

    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "workbench"}
    for name in kept:
        del sys.modules[name]
    try:
        for name in PACKAGES:
            empty = types.ModuleType(name)
            empty.__path__ = [str(ROOT.joinpath(*name.split(".")))]
            sys.modules[name] = empty
        sys.modules[f"{PACKAGES[-1]}.rasp"] = rasp
        sys.modules[PACKAGES[-1]].rasp = rasp  # type: ignore[attr-defined]
        return importlib.import_module(f"{PACKAGES[-1]}.library")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "workbench"]:
            del sys.modules[name]
        sys.modules.update(kept)


def inputs(program: Any, n: int) -> list[list[Any]]:
    """Random inputs of all lengths that a program is meant for."""
    source = random.Random(program.key)
    shortest = 2 if program.key == "add-first-two" else 1
    lengths = [source.randint(shortest, program.max_len) for _ in range(n)]
    return [program.draw(source, length) for length in lengths]


def measure(program: Any, given: Sequence[list[Any]]) -> dict[str, Any]:
    """Layers and outputs of a program that Tracr compiled."""
    from tracr.compiler import compiling

    made = compiling.compile_rasp_to_model(
        program.make(), set(program.vocab), program.max_len, causal=program.causal, compiler_bos="BOS"
    )
    outputs = [[plain(x) for x in made.apply(["BOS", *xs]).decoded[1:]] for xs in given]
    return {"layers": made.model_config.num_layers, "cases": [list(case) for case in zip(given, outputs, strict=True)]}


def plain(x: Any) -> Any:
    """A value as JSON keeps it."""
    return x if isinstance(x, bool | int | str) or x is None else round(float(x), 6)


def main(keys: Sequence[str]) -> None:
    """Write the file; given keys, only those programs are measured again."""
    known = json.loads(FILE.read_text(encoding="utf-8"))["programs"] if keys else {}
    programs = {
        program.key: known[program.key] if keys and program.key not in keys else measure(program, inputs(program, N))
        for program in library().PROGRAMS
    }
    lines = [f"{json.dumps(key)}: {json.dumps(found, separators=(',', ':'))}" for key, found in programs.items()]
    FILE.write_text(
        f'{{"about": {json.dumps(HEADER)},\n"programs": {{\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
