"""Paths cut from the classifier and re-weighted: the digits ViT, one that is trained briefly, and SmolLM2 on text."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from attention_observatory import text_of
from common import RESULTS, options, save, show

import torch
from torch import Tensor

from workbench.attention.low_pass import ring_shares
from workbench.circuits.intervals import bounds, resamples
from workbench.models import Transformer, load
from workbench.models.embedding import patches_of
from workbench.models.taps import Keep, Tap
from workbench.models.zoo import digits
from workbench.models.zoo.training import train
from workbench.paths.distillation import Distillation, accuracy_by_component, train_distilled
from workbench.paths.effects import Effects, effects
from workbench.paths.ensemble_scale import ensemble_scale
from workbench.paths.pruning import Compared, compare, prune
from workbench.paths.written import Written, collect, scored, weighted_taps

FOLDS = 5
BRIEF = 300
DECAYS = (0.001, 0.01, 0.1, 1.0)
DECAY = {"component": 0.01, "channel": 0.1}
"""On text, where a run takes a minute; not tried out there."""
WINDOW, WINDOWS, JUDGED = 64, 24, 4
SMOLLM2 = "smollm2-135m"


def main() -> None:
    """What was asked for of the parts below; all of them without."""
    parts = {"--digits", "--brief", "--text-effects", "--text-later", "--text-between", "--distil"}
    only = (parts & set(sys.argv)) or parts
    sys.argv = [word for word in sys.argv if word not in only]
    options(__doc__ or "", rounds=1)
    if "--digits" in only:
        images("digits-vit", load("digits-vit"))
    if "--brief" in only:
        images("digits-vit-brief", train(briefly(BRIEF)))
    if "--text-effects" in only:
        text_effects(load(SMOLLM2))
    for order in ("later", "between"):
        if f"--text-{order}" in only:
            text(load(SMOLLM2), order)
    if "--distil" in only:
        distil()


def briefly(steps: int) -> digits.ZooModel:
    """The record of the digits ViT with a schedule of so many steps."""
    return replace(digits.RECORD, schedule=replace(digits.RECORD.schedule, steps=steps, warmup=steps // 10))


def images(name: str, model: Transformer) -> None:
    """Held-out images: effects, pruning and EnsembleScale by cross-fitting, so that each image is reported on once."""
    parts = digits.split()
    found = effects(model, parts.test, parts.test_labels, centred=True, batch_size=128)
    rows = effect_rows(found)
    early = accuracy_by_component(model, parts.test, parts.test_labels)
    written = collect(model, parts.test, parts.test_labels, batch_size=128)
    singles = [alone(model, written, i) for i in range(len(written.components))]
    high = high_shares(model, parts.test)
    for i, row in enumerate(rows):
        row |= {"first ones": float(early[i]), "alone": singles[i], "high": high[i]}
    show(f"{name}: effects on {len(parts.test)} held-out images", narrow(rows))
    fold = torch.randperm(written.n, generator=torch.Generator().manual_seed(0)) % FOLDS
    changes, weights = cross_fitted(model, written, fold)
    facts: dict[str, Any] = {"loss": float(found.loss.mean()), "accuracy": float(found.accuracy.mean())}
    facts |= {"examples": written.n, "folds": FOLDS, "decays": DECAYS, "weights": weights}
    facts["high share of the last stream"] = streams_by_weights(model, parts.test, weights["component"])
    show(f"{name}: held-out images, search and learning on other ones", changes)
    print(facts)
    save(RESULTS / f"path_pruning_{name}.json", f"Paths of {name}", rows, changes=changes, **facts)


def narrow(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the intervals, which the file has."""
    return [{key: value for key, value in row.items() if not key.endswith("±")} for row in rows]


def effect_rows(found: Effects) -> list[dict[str, Any]]:
    """A row for each component: means with half their intervals."""
    rows = []
    means = {key: found.mean(key) for key in ("direct", "cut", "total", "passed_on", "loss_cut", "loss_deleted")}
    right = {key: found.mean(key) for key in ("accuracy_cut", "accuracy_deleted")}
    for i, name in enumerate(found.components):
        row: dict[str, Any] = {"what": name}
        for key, mean in {**means, **right}.items():
            row |= {key: float(mean.mean[i]), f"{key} ±": float(mean.half_width[i])}
        rows.append(row)
    return rows


def cross_fitted(model: Transformer, written: Written, fold: Tensor) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Each change judged on all examples, each of which is in the part that was reported on once.

    Intervals take examples as independent, though folds share what they learn on.
    """
    found: dict[str, list[Compared]] = {}
    seconds: dict[str, float] = {}
    chosen: dict[str, Any] = {"cut": [], "component": []}
    said: dict[str, list[Tensor]] = {"model": [], **{per: [] for per in DECAY}}
    targets: list[Tensor] = []
    for k in range(FOLDS):
        held = fold == k
        report = written.of(held)
        for by in ("loss", "accuracy"):
            begin = time.perf_counter()
            pruned = prune(model, written, by=by, parts=held.long())  # type: ignore[arg-type]
            note(found, seconds, f"pruned by {by}", compare(model, report, pruned.weights.to(report.total)), begin)
            chosen["cut"].append([by, *pruned.cut])
        parts = torch.where(held, 2, (fold == (k + 1) % FOLDS).long())
        for per in DECAY:
            begin = time.perf_counter()
            scale = ensemble_scale(model, written, per=per, decay=DECAYS, parts=parts)  # type: ignore[arg-type]
            note(found, seconds, f"EnsembleScale per {per}", compare(model, report, scale.weights), begin)
            said[per].append(report.logits(model, scale.weights))
            if per == "component":
                chosen["component"].append(scale.weights.tolist())
        said["model"].append(report.logits(model, report.ones()))
        targets.append(report.target)
    chosen["component"] = torch.tensor(chosen["component"]).mean(0).tolist()
    rows = [change_row(name, joined(parts)) | {"seconds": seconds[name] / FOLDS} for name, parts in found.items()]
    whole, target = torch.cat(said["model"]), torch.cat(targets)
    as_it_is = joined(found["pruned by loss"])
    best = at_best_temperatures([whole, whole], target, written.unit)
    rows.append(change_row("best temperature alone", replace(best, before=as_it_is.before)))
    for per in DECAY:
        best = at_best_temperatures([whole, torch.cat(said[per])], target, written.unit)
        rows.append(change_row(f"per {per}, both at their best temperature", best))
    sets = {name: [i] for i, name in enumerate(written.components)}
    sets |= {"all of block 0": [0, 1, 2], "all but the last": list(range(len(written.components) - 1))}
    for name, some in sets.items():
        one = written.ones()
        one[some] = 0
        rows.append(change_row(f"{name} cut", compare(model, written, one)))
    return rows, chosen


def at_best_temperatures(sides: list[Tensor], target: Tensor, unit: str) -> Compared:
    """Two sets of logits, each with the temperature that is best on these very images."""
    found = []
    for logits in sides:
        tried = torch.logspace(-1, 0.5, 120)
        losses = torch.stack([torch.nn.functional.cross_entropy(logits / t, target) for t in tried])
        found.append(scored(logits / tried[losses.argmin()], target))
    (before, right), (after, right_after) = found
    return Compared(before.double(), after.double(), right.double(), right_after.double(), unit)


def note(found: dict[str, list[Compared]], seconds: dict[str, float], name: str, one: Compared, begin: float) -> None:
    """Keep one fold, and how long it took."""
    found.setdefault(name, []).append(one)
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin


def joined(parts: list[Compared]) -> Compared:
    """Several parts of the examples as one."""
    names = ("before", "after", "right_before", "right_after")
    return Compared(*(torch.cat([getattr(one, name) for one in parts]) for name in names), parts[0].unit)


def change_row(name: str, one: Compared) -> dict[str, Any]:
    """Loss and accuracy before and after, with the interval of the paired difference."""
    loss, right = one.interval(), one.interval("accuracy")
    row = {"what": name, "loss before": float(one.before.mean()), "after": float(one.after.mean())}
    row |= {"change": one.loss, "low": loss[0], "high": loss[1]}
    return row | {"accuracy change": one.accuracy, "accuracy low": right[0], "accuracy high": right[1]}


def alone(model: Transformer, written: Written, i: int) -> float:
    """Accuracy of one component by itself through the final norm and the head."""
    weights = torch.zeros_like(written.ones())
    weights[i] = 1
    return float(written.scores(model, weights)[1].mean())


@torch.no_grad()
def high_shares(model: Transformer, pictures: Tensor) -> list[float]:
    """Share of each component's energy over the grid of patches that is not constant; mean over images."""
    names = ["blocks.0.hook_resid_pre"]
    for layer in range(model.cfg.n_layers):
        names += [f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.hook_mlp_out"]
    kept: dict[str, Tensor] = {}
    model(pictures, {name: Keep(kept, name, None) for name in names})
    return [1 - float(rings(model, pictures, kept[name])[:, 0].mean()) for name in names]


def rings(model: Transformer, pictures: Tensor, x: Tensor) -> Tensor:
    """Share of energy of each ring of spatial frequencies [image, ring], patches alone."""
    grid = patches_of(model, pictures[:1])[1]
    return ring_shares(x[:, -grid[0] * grid[1] :].reshape(len(x), *grid, -1))


@torch.no_grad()
def streams_by_weights(model: Transformer, pictures: Tensor, weights: list[float]) -> dict[str, Any]:
    """Share of the last stream's energy that is not constant, before and after re-weighting, and the paired change."""
    shares = {}
    hook = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    for name, chosen in (("before", [1.0] * len(weights)), ("after", weights)):
        taps: dict[str, Tap] = weighted_taps(model, "sublayer", torch.tensor(chosen))
        kept: dict[str, Tensor] = {}
        model(pictures, taps | {hook: Keep(kept, hook, taps[hook])})
        shares[name] = 1 - rings(model, pictures, kept[hook])[:, 0]
    change = shares["after"] - shares["before"]
    interval = bounds(resamples(len(change)) @ change.double())
    return {name: float(x.mean()) for name, x in shares.items()} | {
        "change": float(change.mean()),
        "interval": interval,
    }


def text_effects(model: Transformer) -> None:
    """Effects on a few windows of English text."""
    tokens = text_of(model, WINDOW * WINDOWS).view(WINDOWS, WINDOW)
    found = effects(model, tokens[-JUDGED:], centred=True, batch_size=JUDGED)
    rows = effect_rows(found)
    title = f"{model.name}: effects on {JUDGED * (WINDOW - 1)} next tokens"
    show(title, narrow([row for row in rows if abs(row["loss_cut"]) > 0.01]))
    facts = {"loss": float(found.loss.mean()), "accuracy": float(found.accuracy.mean())}
    save(RESULTS / f"path_effects_{model.name}.json", title, rows, **facts)


def text(model: Transformer, order: str) -> None:
    """Windows of English text: pruning and EnsembleScale, reported on ``later`` text or on windows ``between``."""
    tokens = text_of(model, WINDOW * WINDOWS).view(WINDOWS, WINDOW)
    written = collect(model, tokens, batch_size=8)
    number = torch.arange(WINDOWS)
    halves, thirds = (number % 2, number % 3) if order == "between" else (number * 2 // WINDOWS, number * 3 // WINDOWS)
    changes, facts = [], dict[str, Any](windows=WINDOWS, window=WINDOW, order=order)
    begin = time.perf_counter()
    pruned = prune(model, written, parts=halves, candidates=4, most=6)
    changes.append(change_row("pruned by loss", pruned.report) | {"seconds": time.perf_counter() - begin})
    sure = [i for i, interval in enumerate(pruned.alone_intervals.tolist()) if interval[0][1] < 0]
    facts |= {"cut": pruned.cut, "loss and accuracy of the search": pruned.path}
    facts["lower the loss when cut alone"] = {
        pruned.components[i]: [float(pruned.alone[i, 0]), pruned.alone_intervals[i, 0].tolist()] for i in sure
    }
    for per, decay in DECAY.items():
        begin = time.perf_counter()
        scale = ensemble_scale(model, written, per=per, decay=decay, parts=thirds, steps=15)  # type: ignore[arg-type]
        took = time.perf_counter() - begin
        row = change_row(f"EnsembleScale per {per}", compare(model, written.of(thirds == 2), scale.weights))
        changes.append(row | {"seconds": took})
        facts[f"weights per {per}"] = dict(zip(scale.components, scale.by_component.tolist(), strict=True))
        facts[f"history per {per}"] = scale.history
    show(f"{model.name}: held-out text, {order}", changes)
    print(facts)
    save(RESULTS / f"path_pruning_{model.name}_{order}.json", f"Paths of {model.name}", [], changes=changes, **facts)


def distil(seeds: int = 3) -> None:
    """Accuracy of the first components alone, with teaching from the whole and without."""
    parts = digits.split()
    rows = []
    for weight in (0.0, 0.1, 1.0):
        found = []
        for seed in range(seeds):
            model = train_distilled(briefly(BRIEF), Distillation(weight=weight), seed=seed)
            found.append(accuracy_by_component(model, parts.test, parts.test_labels))
        mean, spread = torch.stack(found).mean(0), torch.stack(found).std(0)
        names = ["embed"] + [f"{kind}{layer}" for layer in range(3) for kind in "am"]
        row: dict[str, Any] = {"what": f"weight {weight:g}"}
        for i, name in enumerate(names):
            row |= {name: float(mean[i]), f"{name} sd": float(spread[i])}
        rows.append(row)
    title = f"Self-distillation, {BRIEF} steps, {seeds} seeds: accuracy of the components up to one"
    show(title, rows)
    save(RESULTS / "path_pruning_distillation.json", title, rows)


if __name__ == "__main__":
    main()
