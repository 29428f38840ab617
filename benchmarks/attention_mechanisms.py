"""Attention mechanisms trained on one toy task: loss, patterns and residual streams in one table.

Without options the recorded table is printed, and one mechanism is trained for a few seconds to see that it still
learns as it did. ``--train`` trains whatever the record lacks, which takes a minute or two each; stopped and started
again, it goes on where it was. ``--docs`` writes the tables into the documentation.

``loss``, ``excess``, ``excess bigram``, ``excess copy`` and ``sampled`` are defined in ``losses`` of
``comparison/training.py``, all else in ``comparison/metrics.py``; ``early excess`` is the excess after 100 steps.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import RESULTS, save, show

import torch

from comparison.backcopy import Backcopy
from comparison.training import Settings, Variant, measure, model_of, run, train, variants

TITLE = "Attention mechanisms on the Bigram-Backcopy task"
RECORD = RESULTS / "attention_mechanisms.json"
PAGE = Path(__file__).parents[1] / "docs" / "mechanisms-compared.md"
LOSSES = ("loss", "excess", "excess bigram", "excess copy", "sampled", "early excess")
PATTERN = ("entropy", "zeros", "sink", "sink strongest", "sink mass", "row sum", "empty")
STREAM = ("kurtosis", "kurtosis first", "largest")
NUMBERS = (*LOSSES, *PATTERN, *STREAM)
# Columns of each table on the page; the numbers whose spread over the seeds is told beside the mean.
TABLES = {
    "compared": ("loss", "excess", "entropy", "zeros", "sink", "sink strongest", "kurtosis"),
    "more": ("early excess", "excess bigram", "excess copy", "sampled", "sink mass", "row sum", "empty", *STREAM[1:]),
}
SPREAD = ("excess", "sink", "sink strongest", "kurtosis")
# Nats by which another machine's rounding may move the excess after the first steps.
TOLERANCE = 0.1

Record = dict[str, Any]


def main() -> None:
    """Train, or print and check; then write the page where that was asked for."""
    args = arguments()
    torch.set_num_threads(args.threads)
    task, settings = Backcopy(), replace(Settings(), steps=args.steps)
    chosen = [variant for variant in variants() if not args.only or variant.key in args.only]
    if args.train:
        complete(args.json, chosen, settings, task, args.seeds)
    record = read(args.json)
    show(TITLE, [{"what": row["what"]} | {name: row[name] for name in TABLES["compared"]} for row in record["rows"]])
    print(f"entropy of the process: {record['entropy']:.4f} nats per token")
    if args.docs:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
    elif not args.train:
        for variant in chosen[: args.rounds]:
            check(variant, record, task)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--train", action="store_true", help="train what the record lacks")
    parser.add_argument("--docs", action="store_true", help="write the tables into the documentation")
    parser.add_argument("--only", nargs="+", metavar="KEY", choices=[v.key for v in variants()], help="these alone")
    parser.add_argument("--steps", type=int, default=Settings().steps, help="training steps")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--rounds", type=int, default=1, help="without --train: how many mechanisms to check")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--json", type=Path, default=RECORD, help="the record; another file for other settings")
    return parser.parse_args()


def read(path: Path) -> Record:
    """The record, as :func:`write` left it."""
    if not path.exists():
        raise SystemExit(f"{path} is not there yet; --train makes it.")
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


def write(path: Path, runs: list[Record], settings: Settings, task: Backcopy) -> None:
    """The runs, and a row of means over the seeds for each mechanism, in the order of the registry."""
    facts = {"settings": settings.to_dict(), "entropy": task.entropy(settings.length)[0], "runs": runs}
    save(path, TITLE, rows_of_runs(runs), **facts)


def rows_of_runs(runs: list[Record]) -> list[Record]:
    """A row for each mechanism that was trained: means over its seeds."""
    rows = []
    for variant in variants():
        mine = [one for one in runs if one["key"] == variant.key]
        if mine:
            means = {name: statistics.fmean(one[name] for one in mine) for name in NUMBERS}
            rows.append({"what": variant.title, "key": variant.key, "seeds": len(mine)} | means)
    return rows


def complete(path: Path, chosen: list[Variant], settings: Settings, task: Backcopy, seeds: int) -> None:
    """Train what the record at ``path`` lacks, and save after each run."""
    runs: list[Record] = []
    if path.exists():
        found = read(path)
        if found["settings"] != settings.to_dict():
            raise SystemExit(f"{path} holds runs of other settings; name another file with --json.")
        runs = found["runs"]
    for seed in range(seeds):
        for variant in chosen:
            if any(one["key"] == variant.key and one["seed"] == seed for one in runs):
                continue
            begin = time.perf_counter()
            runs.append(run(variant, settings, task, seed))
            write(path, runs, settings, task)
            print(f"{variant.key}, seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)


def check(variant: Variant, record: Record, task: Backcopy) -> None:
    """Train the first steps of a recorded run again; its excess loss must come out as recorded.

    Raises:
        SystemExit: it does not.
    """
    settings = Settings(**record["settings"])
    told = next((one for one in record["runs"] if one["key"] == variant.key and one["seed"] == 0), None)
    if told is None:
        raise SystemExit(f"The record has no run of {variant.key} with seed 0.")
    model = model_of(variant, settings, task, 0)
    for done, _ in train(model, task, settings, 0):
        if done == min(settings.early, settings.steps):
            break
    now, then = measure(model, task, settings)["excess"], told["early excess"]
    print(f"{variant.key}: excess after {settings.early} steps {now:.3f}, recorded {then:.3f}")
    if abs(now - then) > TOLERANCE:
        raise SystemExit(f"That is further apart than {TOLERANCE}: the mechanism no longer learns as it did.")


def filled(page: str, record: Record) -> str:
    """The page's text with its tables made from the record."""
    for name, columns in TABLES.items():
        body = "\n".join(table(record, columns))
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, body=body: f"{found[1]}\n{body}\n\n{found[2]}",
            page,
            flags=re.DOTALL,
        )
    return page


def table(record: Record, columns: tuple[str, ...]) -> list[str]:
    """Lines of a Markdown table: means over the seeds, and the least and the most where the spread is told."""
    lines = [f"| mechanism | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for row in record["rows"]:
        cells = []
        for name in columns:
            values = [one[name] for one in record["runs"] if one["key"] == row["key"]]
            spread = f" ({figures(min(values))} – {figures(max(values))})" if name in SPREAD else ""
            cells.append(figures(row[name]) + spread)
        lines.append(f"| {row['what']} | {' | '.join(cells)} |")
    return lines


def figures(value: float) -> str:
    """A number as the page shows it: 0 only where it is exactly that."""
    if value == 0:
        return "0"
    if abs(value) < 0.00005:
        return "< 0.0001" if value > 0 else "> -0.0001"
    digits = next((digits for limit, digits in ((0.1, 4), (3, 3), (10, 2), (100, 1)) if abs(value) < limit), 0)
    return f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
