"""What the expansion by path lengths costs, and which lengths and kinds of path carry ioi, on SmolLM2."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

from common import RESULTS, alternate, options, peak_growth, rows_of, save, show

import torch

from workbench import paths
from workbench.circuits import tasks
from workbench.models import Transformer, load
from workbench.paths.counts import shares

TOKENS, KEEP, PROMPTS, CHUNK = 64, 8, 32, 8
BASE = "plain forward"
EVERYTHING = "everything (one row)"


def main() -> None:
    """Time and memory of one prompt of 64 tokens; then contributions on 32 prompts of ioi."""
    parts = {"--cost", "--ioi", "--gradient"}
    only = (parts & set(sys.argv)) or parts
    sys.argv = [word for word in sys.argv if word not in only]
    args = options(__doc__ or "", rounds=3)
    model = load("smollm2-135m")
    if "--cost" in only:
        cost(model, args.rounds)
    if "--ioi" in only:
        ioi(model)
    if "--gradient" in only:
        gradient(model)


def cost(model: Transformer, rounds: int) -> None:
    """Kept lengths and two more, in plain forwards, is the bar."""
    tokens = torch.randint(100, 40_000, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    contestants = {BASE: lambda: forward(model, tokens), EVERYTHING: lambda: paths.query(model, tokens, ".*", 1000)}
    bars = {}
    for keep in (KEEP, 2 * KEEP, 4 * KEEP, 60):
        name = f"lengths 0 to {keep}"
        contestants[name] = lambda keep=keep: paths.decompose(model, tokens, 1000, keep=keep, dtype=torch.float32)
        bars[name] = keep + 3
    contestants["kinds to 8 hops"] = lambda: paths.decompose(
        model, tokens, 1000, by="kind", keep=KEEP, dtype=torch.float32
    )
    bars["kinds to 8 hops"] = (KEEP + 1) * (KEEP + 2) // 2 + 2
    contestants["gradient mass, 0 to 8"] = lambda: paths.gradient_mass(model, tokens, 1000, keep=KEEP, rule="frozen")
    forward(model, tokens[:, :16])  # brings the weights into memory
    peaks = {name: trimmed_peak(run) for name, run in contestants.items()}
    rows = rows_of(alternate(contestants, rounds), BASE, bars)
    for row in rows:
        row["peak MiB"] = peaks[row["what"]]
    title = f"Paths by length: SmolLM2-135M, {TOKENS} tokens"
    show(title, rows)
    save(RESULTS / "paths_cost.json", title, rows)


def trimmed_peak(run: Callable[[], object]) -> float:
    """Most MiB while ``run`` works, once freed memory has been given back, so that none is used again unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return peak_growth(run)


@torch.no_grad()
def forward(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """Logits at every position."""
    return model(tokens)


def ioi(model: Transformer) -> None:
    """Correct name minus wrong name, by length beside the number of paths, and by kind."""
    task = tasks.load("ioi", model, n=PROMPTS, seed=0)
    found = [run(model, task.rows(i, i + CHUNK)) for i in range(0, PROMPTS, CHUNK)]
    lengths, kinds = (torch.cat([pair[i] for pair in found]) for i in (0, 1))
    depth = lengths.shape[1] - 1
    counts = {level: shares(paths.path_counts(model, level)) for level in ("head", "block")}
    rows = []
    for k in range(depth + 1):
        column, up_to = lengths[:, k], lengths[:, : k + 1].sum(1)
        row = {"what": str(k), "mean": float(column.mean()), "sd": float(column.std())}
        row |= {"cumulative": float(up_to.mean()), "of positive sign": float((column > 0).double().mean())}
        rows.append(row | {f"share of paths ({level})": counts[level][k] for level in counts})
    title = f"ioi on SmolLM2-135M: correct minus wrong name by path length, {PROMPTS} prompts"
    facts = {
        "value": float(lengths.sum(1).mean()),
        "largest error": max(pair[2] for pair in found),
        "sum of absolute lengths": float(lengths.abs().sum(1).mean()),
        "paths": float(sum(paths.path_counts(model))),
        "mean length of all paths": {level: paths.mean_length(paths.path_counts(model, level)) for level in counts},
        "kinds [attentions][MLPs]": kinds.mean(0).tolist(),
    }
    show(title, [row for row in rows if abs(row["mean"]) > 1e-3])
    for a, row in enumerate(kinds.mean(0).tolist()):
        print(f"{a} attentions:", "  ".join(f"{x:8.3f}" for x in row))
    print({name: value for name, value in facts.items() if not name.startswith("kinds")})
    save(RESULTS / "paths_ioi.json", title, rows, **facts)


def gradient(model: Transformer, n: int = 4, keep: int = 30) -> None:
    """The norm of the gradient at the embedding through paths of each length."""
    task = tasks.load("ioi", model, n=PROMPTS, seed=0).rows(0, n)
    asked, mask = (task.right[:, 0], task.wrong[:, 0]), real(task)
    found = {
        rule: paths.gradient_mass(model, task.clean, asked, attention_mask=mask, keep=keep, rule=rule)
        for rule in ("tangent", "frozen")
    }
    rows = [
        {"what": str(k)} | {rule: float(mass.mass[:, k].mean()) for rule, mass in found.items()}
        for k in range(keep + 1)
    ]
    title = f"Gradient at the embedding by path length: ioi on SmolLM2-135M, {n} prompts"
    show(title, rows)
    whole = {f"whole ({rule})": float(mass.whole.mean()) for rule, mass in found.items()}
    print(whole)
    save(RESULTS / "paths_gradient.json", title, rows, **whole)


def real(task: tasks.Task) -> torch.Tensor:
    """[prompt, pos] 1 where a prompt has a token."""
    return (torch.arange(task.clean.shape[1]) < task.lengths[:, None]).long()


def run(model: Transformer, task: tasks.Task) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Contributions [prompt, length] and [prompt, attentions, MLPs] in some prompts, and the error of the sum."""
    asked = (task.right[:, 0], task.wrong[:, 0])
    mask = real(task)
    ens = paths.decompose(model, task.clean, asked, attention_mask=mask)
    by_kind = paths.decompose(model, task.clean, asked, attention_mask=mask, by="kind", keep=KEEP)
    assert by_kind.kinds_by_prompt is not None
    return ens.by_prompt, by_kind.kinds_by_prompt, float(ens.error.abs().max())


if __name__ == "__main__":
    main()
