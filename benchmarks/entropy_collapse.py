"""Entropy collapse in training, and what sigma-reparametrisation does to it (Zhai et al. 2023, arXiv 2303.06296).

A small decoder reads characters of Python's help texts, with learning rates that it bears and that it does not, with
plain and with sigma-reparametrised linear layers. An :class:`workbench.attention.EntropyMonitor` watches each run: what
matters is which comes first, the fall of entropy or the rise of the loss on held-out text.

Without options the recorded table is printed, and the first steps of one run are made again. ``--train`` trains what
the record lacks, a quarter of a minute a run; ``--docs`` writes table and figures into the documentation.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from common import RESULTS, save, show

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.attention.monitor import EntropyMonitor
from workbench.attention.sigma_reparam import sigma_reparametrise
from workbench.attention.training_record import Alarm, TrainingRecord
from workbench.figures.curves import Line, curves
from workbench.figures.figure import Figure, standalone
from workbench.models import ModelConfig, Transformer, fresh

TITLE = "Entropy collapse: characters of Python's help texts, 4 layers"
RECORD = RESULTS / "entropy_collapse.json"
DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "training-monitor.md"
CONTEXT, BATCH, EVERY = 64, 8, 10
RISE, SPAN, BEHIND = 0.1, 5, 0.2
"""Of the held-out loss, means over 5 readings are looked at: how many nats above the lowest before count as a rise, and
how many above the reparametrised run count as behind it."""
CHECKED = 150
"""Steps of a recorded run that are made again."""
TOLERANCE = 0.25
"""Nats by which another machine's rounding may move the mean entropy over those steps."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """How one run is trained: Adam, a learning rate that rises over ``warmup`` steps and then stays."""

    key: str
    title: str
    rate: float
    warmup: int = 100
    sigma: bool = False
    place: str = "pre"
    steps: int = 600


VARIANTS = (
    Variant("plain", "plain, 0.1", 0.1),
    Variant("sigma", "σ, 0.1", 0.1, sigma=True),
    Variant("plain-0.03", "plain, 0.03", 0.03),
    Variant("sigma-0.03", "σ, 0.03", 0.03, sigma=True),
    Variant("gentle", "plain, 0.003", 0.003),
    Variant("post", "post-norm, 0.01", 0.01, warmup=200, place="post"),
    Variant("post-sigma", "post-norm, σ, 0.01", 0.01, warmup=200, sigma=True, place="post"),
)
DRAWN = ("plain", "sigma", "gentle")
BESIDE = {"plain": "sigma", "plain-0.03": "sigma-0.03", "post": "post-sigma"}
"""Which run of the same seed, learning rate and batches a run is compared with."""


def main() -> None:
    """Train, or print and check; then write the page where that was asked for."""
    args = arguments()
    torch.set_num_threads(args.threads)
    chosen = [variant for variant in VARIANTS if not args.only or variant.key in args.only]
    if args.train:
        complete(args.json, chosen, args.seeds)
    record = read(args.json)
    show(TITLE, rows_of(record["runs"]))
    if args.docs:
        document(record)
    elif not args.train:
        check(record)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--train", action="store_true", help="train what the record lacks")
    parser.add_argument("--docs", action="store_true", help="write table and figures into the documentation")
    parser.add_argument("--only", nargs="+", metavar="KEY", choices=[v.key for v in VARIANTS], help="these alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="which seeds")
    parser.add_argument("--rounds", type=int, default=1, help="not used; every benchmark has it")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--json", type=Path, default=RECORD, help="the record")
    return parser.parse_args()


# -- one run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Characters as tokens: the first nine tenths to train on, the rest to judge by."""

    train: Tensor
    held_out: Tensor
    n_characters: int = 128

    @classmethod
    def prose(cls) -> Text:
        """The help texts of Python, 460,000 characters; no run reads them all, so that none learns them by heart."""
        text = "\n".join(topics[name] for name in sorted(topics))
        tokens = torch.tensor([min(ord(character), 127) for character in text])
        cut = len(tokens) * 9 // 10
        return cls(tokens[:cut], tokens[cut:])

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Windows [batch, context + 1] without end."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(0, len(self.train) - CONTEXT, (BATCH,), generator=generator)
            yield torch.stack([self.train[start : start + CONTEXT + 1] for start in starts])

    def judged(self, n: int = 24) -> Tensor:
        """Windows of held-out text, evenly spread."""
        starts = torch.linspace(0, len(self.held_out) - CONTEXT - 1, n).long()
        return torch.stack([self.held_out[start : start + CONTEXT + 1] for start in starts])


def model_of(variant: Variant, text: Text, seed: int) -> Transformer:
    """The untrained model: 4 layers of 4 heads, LayerNorm, learned positions, no dropout."""
    cfg = ModelConfig(
        family="workbench",
        n_layers=4,
        n_heads=4,
        n_key_value_heads=4,
        d_model=64,
        d_head=16,
        d_mlp=256,
        d_vocab=text.n_characters,
        n_ctx=CONTEXT,
        norm="layer",
        norm_eps=1e-5,
        act_fn="gelu",
        gated_mlp=False,
        positions="learned",
        attn_scale=0.25,
        attn_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=False,
        norm_place=variant.place,  # type: ignore[arg-type]
    )
    model = fresh(cfg, seed=seed, name=variant.key)
    model.requires_grad_(True)
    if variant.sigma:
        sigma_reparametrise(model, gamma=1.0)  # as in the paper
    return model.train()


def loss_of(model: Transformer, windows: Tensor) -> Tensor:
    """Mean cross-entropy of the next character, in nats."""
    return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def run(variant: Variant, text: Text, seed: int, steps: int) -> tuple[TrainingRecord, list[float]]:
    """Train; what the monitor read, and the held-out loss at its readings."""
    model = model_of(variant, text, seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=variant.rate)
    judged = text.judged()
    alarms: list[Alarm] = []
    monitor = EntropyMonitor(model, judged[::4, :-1], every=EVERY, norms=False, on_alarm=alarms.append)
    losses = [held_out(model, judged)]
    for step, batch in zip(range(steps), text.batches(100 + seed), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = variant.rate * min(1.0, (step + 1) / variant.warmup)
        optimiser.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimiser.step()
        if monitor.step(loss) is not None:
            losses.append(held_out(model, judged))
    return monitor.record, losses


@torch.no_grad()
def held_out(model: Transformer, judged: Tensor) -> float:
    """Loss on held-out text; the model stays in training mode but its weights and directions do not move."""
    model.eval()
    loss = loss_of(model, judged).item()
    model.train()
    return loss


# -- the record -----------------------------------------------------------------------------------------------


def read(path: Path) -> Record:
    """The record."""
    if not path.exists():
        raise SystemExit(f"{path} is not there yet; --train makes it.")
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


def complete(path: Path, chosen: list[Variant], seeds: list[int]) -> None:
    """Train what the record lacks, and save after each run."""
    text = Text.prose()
    runs: list[Record] = read(path)["runs"] if path.exists() else []
    for seed in seeds:
        for variant in chosen:
            if any(one["key"] == variant.key and one["seed"] == seed for one in runs):
                continue
            begin = time.perf_counter()
            found, losses = run(variant, text, seed, variant.steps)
            runs.append(told(variant, seed, found, losses))
            runs.sort(key=lambda one: ([v.key for v in VARIANTS].index(one["key"]), one["seed"]))
            save(path, TITLE, rows_of(runs), variants=[asdict(one) for one in VARIANTS], runs=runs)
            print(f"{variant.key}, seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)


def told(variant: Variant, seed: int, found: TrainingRecord, losses: list[float]) -> Record:
    """One run in plain numbers."""
    layers = [alarm.step for alarm in found.alarms if alarm.head is None]
    heads = [alarm.step for alarm in found.alarms if alarm.head is not None]

    def rounded(values: Any) -> list[float]:
        return [round(float(value), 4) for value in values]

    return {
        "key": variant.key,
        "seed": seed,
        "steps": found.steps,
        "loss": rounded(losses),
        "entropy": rounded(found.entropy.flatten(1).mean(-1)),
        "lowest layer": rounded(found.by_layer().amin(-1)),
        "floor": rounded(found.stacked("floor").flatten(1).mean(-1)),
        "logit range": rounded(found.stacked("logit_range").flatten(1).amax(-1)),
        "head alarm": heads[0] if heads else None,
        "layer alarm": layers[0] if layers else None,
        "heads": len(heads),
        "rise": rise(found.steps, losses),
    }


def rise(steps: list[int], losses: list[float]) -> int | None:
    """The step at which the loss has risen; None if that never comes."""
    means = smooth(losses)
    for at in range(1, len(means)):
        if not means[at] <= min(means[:at]) + RISE:
            return steps[at + SPAN - 1]
    return None


def behind(steps: list[int], losses: list[float], others: list[float]) -> int | None:
    """The step from which on the loss is behind the other run's to the end; None if it is not at the end."""
    late = [not mine <= other + BEHIND for mine, other in zip(smooth(losses), smooth(others), strict=True)]
    last = max((at for at, is_late in enumerate(late) if not is_late), default=-1)
    return None if last + 1 == len(late) else steps[last + SPAN]


def smooth(losses: list[float]) -> list[float]:
    """Means over so many readings in a row."""
    return [statistics.fmean(losses[at : at + SPAN]) for at in range(len(losses) - SPAN + 1)]


def rows_of(runs: list[Record]) -> list[Record]:
    """A row for each run."""
    titles = {variant.key: variant.title for variant in VARIANTS}
    return [
        {
            "what": titles[one["key"]],
            "seed": one["seed"],
            "head alarm": _or(one["head alarm"], "never"),
            "layer alarm": _or(one["layer alarm"], "never"),
            "behind σ": _or(fell_behind(one, runs), "never" if one["key"] in BESIDE else ""),
            "loss rises": _or(one["rise"], "never"),
            "lowest loss at": one["steps"][one["loss"].index(min(one["loss"]))],
            "lowest loss": min(one["loss"]),
            "last loss": one["loss"][-1],
            "last entropy": one["entropy"][-1],
        }
        for one in runs
    ]


def fell_behind(run: Record, runs: list[Record]) -> int | None:
    """When a run fell behind its counterpart of the same seed."""
    other = [one for one in runs if one["key"] == BESIDE.get(run["key"]) and one["seed"] == run["seed"]]
    return behind(run["steps"], run["loss"], other[0]["loss"]) if other else None


def _or(step: int | None, word: str) -> int | str:
    return word if step is None else step


def check(record: Record) -> None:
    """Make the first steps of a recorded run again; entropy must fall as recorded.

    Raises:
        SystemExit: it does not.
    """
    then = next((one for one in record["runs"] if one["key"] == "plain" and one["seed"] == 0), None)
    if then is None:
        raise SystemExit("The record has no run of 'plain' with seed 0.")
    found, _ = run(VARIANTS[0], Text.prose(), 0, CHECKED)
    now = found.entropy.flatten(1).mean(-1).tolist()
    apart = statistics.fmean(abs(a - b) for a, b in zip(now, then["entropy"], strict=False))
    print(f"plain: mean entropy after {CHECKED} steps {now[-1]:.3f} nats, recorded {then['entropy'][len(now) - 1]:.3f}")
    if apart > TOLERANCE:
        raise SystemExit(f"On the way they are {apart:.2f} nats apart: training no longer goes as it did.")


# -- the page -------------------------------------------------------------------------------------------------


def document(record: Record) -> None:
    """Write the figures and the table of the page."""
    for name, figure in pictures(record).items():
        (DOCS / "img" / f"{name}.svg").write_text(standalone(figure.svg) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(filled(page, record), encoding="utf-8")


def pictures(record: Record) -> dict[str, Figure]:
    """Entropy and loss of the pre-norm runs along training: means over seeds, bands from the least to the most."""
    runs = {key: [one for one in record["runs"] if one["key"] == key] for key in DRAWN}
    titles = {variant.key: variant.title for variant in VARIANTS}
    n = len(runs["plain"])
    alarm = statistics.median(one["layer alarm"] for one in runs["plain"])
    late = statistics.median(fell_behind(one, record["runs"]) or one["steps"][-1] for one in runs["plain"])
    marks = [(alarm, f"alarm, {alarm:.0f}"), (late, f"loss is behind, {late:.0f}")]
    caption = f"4 layers of 4 heads, characters. Mean and range of {n} seeds; alarm, behind σ: medians of plain, 0.1."

    def lines(what: str, **look: Any) -> list[Line]:
        return [_line(titles[key], found, what, **look) for key, found in runs.items()]

    bound = _line("least entropy, plain, 0.1", runs["plain"], "floor")
    bound = Line(bound.name, bound.x, bound.y, dashed=True)
    return {
        "entropy-collapse-entropy": curves(
            [*lines("entropy"), bound],
            x_title="step",
            y_title="attention entropy, nats",
            title="With plain layers entropy collapses first, then the loss is lost",
            caption=f"{caption} Dashed: the bound of Zhai et al. from each row's logits.",
            marks=marks,
        ),
        "entropy-collapse-loss": curves(
            lines("loss"),
            x_title="step",
            y_title="held-out loss, nats",
            title="The same learning rate trains with σ-reparametrised layers",
            caption=caption,
            marks=marks,
        ),
    }


def _line(name: str, runs: list[Record], what: str) -> Line:
    columns = list(zip(*(one[what] for one in runs), strict=True))
    means = [statistics.fmean(column) for column in columns]
    return Line(name, runs[0]["steps"], means, [min(column) for column in columns], [max(column) for column in columns])


def filled(page: str, record: Record) -> str:
    """The page's text with its table made from the record."""
    rows = rows_of(record["runs"])
    lines = [f"| {' | '.join(rows[0])} |", f"|---|{'---:|' * (len(rows[0]) - 1)}"]
    for row in rows:
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append(f"| {' | '.join(cells)} |")
    body = "\n".join(lines)
    return re.sub(
        r"(<!-- runs -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}\n{body}\n\n{found[2]}", page, flags=re.DOTALL
    )


if __name__ == "__main__":
    main()
