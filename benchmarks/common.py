"""What the benchmarks share: alternating timings, peak memory, a table and a JSON file.

Timings on a shared machine swing by several times from minute to minute. So every contestant is run in turn, round
after round, in one process, and what counts is the median of the ratios taken round by round.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Waiting threads sleep instead of spinning, as under `make` and the commands: two busy processes then share the
# cores evenly instead of starving each other. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
WIDTH = 110
TEMPLATE = "When {} and {} went to the store, {} gave a drink to"


def options(description: str, rounds: int) -> argparse.Namespace:
    """The command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each contestant runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    return chosen


def alternate(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round of each contestant, one warm-up round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            gc.collect()
            begin = time.perf_counter()
            result = run()
            took = time.perf_counter() - begin
            del result
            if turn:
                seconds[name].append(took)
    return seconds


def peak_growth(run: Callable[[], object]) -> float:
    """Most MiB of resident memory beyond the start while ``run`` works, sampled every few milliseconds.

    Memory that was freed before may be used again unseen: measure before anything large has run.
    """
    gc.collect()
    base = peak = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = run()
        peak = max(peak, _resident())
        del result
    finally:
        done.set()
        watcher.join()
    return (peak - base) / 2**20


def _resident() -> int:
    """Resident memory of this process in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("This system does not tell a process's memory.")


def rows_of(
    seconds: Mapping[str, list[float]], base: str, bounds: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """A row each: median seconds, the median ratio to ``base`` over the rounds, and the ratio to stay under."""
    rows = []
    for name, values in seconds.items():
        ratios = [mine / reference for mine, reference in zip(values, seconds[base], strict=True)]
        row = {"what": name, "seconds": statistics.median(values), "ratio": statistics.median(ratios)}
        rows.append(row | {"at most": (bounds or {}).get(name, "")})
    return rows


def report(name: str, title: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Print a table and write ``results/NAME.json``."""
    show(title, rows)
    for key, value in facts.items():
        Console(width=WIDTH).print(f"{key}: {value}")
    save(RESULTS / f"{name}.json", title, rows, **facts)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=WIDTH).print(table)


def save(path: Path, title: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Write rows, facts and what they were found with."""
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"title": title, "rows": rows, **facts, **machine}, indent=1) + "\n")
