"""Why methods differ on SmolLM2-135M: the sizes that cost them, and their edges against exact patching.

A row a method: CMD and CPR, faithfulness by size, and the edges that pruning leaves. ``--edges 200`` adds how well its
scores agree with patching: half of the edges are drawn from the best 1 % of any method, half from all. ``--path`` adds
what the metric is along the embeddings that EAP-IG and EAP-GP take gradients at, ``--tail`` whether what many small
edges do adds up: the loss from cutting all but the best, or half of those, beside the sum of their scores.

``workbench bench`` makes the plain table; this one also takes variants of a method, written with options and words of
its own:

    hisp:ablation=resample            an option
    relp:metric=logit-diff            scored by another metric than the task's, judged by the task's
    information-flow:grow=greedy      circuits grown from the logits
    activation-patching:nodes=writer  an edge carries its writer's score, not that of its lesser end
    learned-ranking:pairs=64          found on other prompts (seed 7), as many as said
    relp:mend=input->m0               the score of one edge replaced by its exact effect
    eap-ig:exact=2000:first=4         so many of its best edges patched on the first prompts, and ordered by that
                                      before all others
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from common import RESULTS, save, show

import torch
from torch import Tensor

from workbench.circuits import Circuit, Scores, Task, discover, tasks
from workbench.circuits.activations import Ablator, graph_of, record
from workbench.circuits.eap_gp import gradient_path
from workbench.circuits.evaluate import FRACTIONS, circuit_metrics, full_metric
from workbench.circuits.exact import Ablated
from workbench.circuits.graph import Ranking
from workbench.models import Transformer, load

OWN = ("metric", "grow", "nodes", "pairs", "exact", "first", "mend")
OTHER_SEED = 7
BUDGET = 400 * 2**20


def parts_of(variant: str) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Method, its options and our own words."""
    key, *given = variant.split(":")
    words = dict(word.split("=", 1) for word in given)
    options = {name: _number(value) for name, value in words.items() if name not in OWN}
    return key, options, {name: value for name, value in words.items() if name in OWN}


def _number(value: str) -> str | int | float | bool:
    if value in ("True", "False"):
        return value == "True"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def scores_of(model: Transformer, task: Task, variant: str, keep: Path | None) -> Scores:
    """Scores of a variant; those in ``keep`` are not made again."""
    spec = task.spec
    name = re.sub(r"[^\w.=-]", "_", f"{variant}-{spec['name']}-{spec['n']}-{spec['seed']}.pt")
    if keep is not None and (keep / name).exists():
        values = torch.load(keep / name)
        return Scores(graph_of(model), values, variant, task.name, {}, len(task))
    key, options, own = parts_of(variant)
    asked, begin = task, time.perf_counter()
    if "pairs" in own:
        asked = tasks.load(spec["name"], model, n=int(own["pairs"]), seed=OTHER_SEED)
    if "first" in own:
        asked = task.rows(0, int(own["first"]))
    if "metric" in own:
        asked = asked.with_metric(cast(Any, own["metric"]), model)
    if "exact" in own:
        scores = patched_first(model, asked, scores_of(model, task, key, keep), int(own["exact"]))
    elif "nodes" in own:
        scores = by_writer(scores_of(model, task, key, keep))
    elif "mend" in own:
        scores = mended(
            model, task, scores_of(model, task, variant.removesuffix(f":mend={own['mend']}"), keep), own["mend"]
        )
    elif "grow" in own:
        scores = scores_of(model, task, key, keep)
    else:
        scores = discover(model, asked, key, **options)
    print(f"{variant} on {task.name}, seed {spec['seed']}: {time.perf_counter() - begin:.0f} s", flush=True)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        torch.save(scores.values, keep / name)
    return scores


def by_writer(scores: Scores) -> Scores:
    """Scores of nodes where every edge carries its writer's alone; all writers are read by ``logits``."""
    values = scores.values[:, -1:] * scores.graph.mask
    return Scores(scores.graph, values, scores.method, scores.task)


def patched_first(model: Transformer, task: Task, scores: Scores, n: int) -> Scores:
    """The best ``n`` edges by their exact effect, before all others in their own order."""
    chosen = scores.ranked().flatten().topk(n).indices
    effects = exact_effects(model, task, chosen).to(scores.values)
    values = scores.values.clone()
    values.view(-1)[chosen] = 0.0
    values *= effects.abs().min().clamp(min=1e-9) / values.abs().max() / 2
    values.view(-1)[chosen] = effects
    return Scores(scores.graph, values, f"{scores.method}, exact", task.name, {}, len(task))


def mended(model: Transformer, task: Task, scores: Scores, edge: str) -> Scores:
    """The same with one edge's score replaced by its exact effect."""
    writer, reader = scores.graph.edge(edge)
    values, at = scores.values.clone(), writer * len(scores.graph.readers) + reader
    values[writer, reader] = exact_effects(model, task, torch.tensor([at]))[0]
    print(f"{edge}: {scores.values[writer, reader]:.3f} by {scores.method}, {values[writer, reader]:.3f} by patching")
    return Scores(scores.graph, values, scores.method, task.name, {}, len(task))


def exact_effects(model: Transformer, task: Task, edges: Tensor) -> Tensor:
    """What the mean metric loses when each of ``edges`` (flat indices) alone is ablated."""
    graph = graph_of(model)
    writers, readers = edges // len(graph.readers), edges % len(graph.readers)
    total = torch.zeros(len(edges), dtype=torch.float64)
    # A few prompts at once: more of them make no matrix product faster.
    for batch in task.batches(8):
        run = Ablated(model, batch, Ablator(model, batch, "resample", len(batch))(batch), BUDGET)
        for reader in sorted(set(readers.tolist())):
            at = (readers == reader).nonzero().flatten()
            total[at] += run.effects(reader, writers[at].tolist()).double().sum(1)
    return total / len(task)


def circuits_of(scores: Scores, ranking: Ranking, grow: bool) -> Iterator[Circuit]:
    """The circuits of MIB's sizes but the whole model."""
    for fraction in FRACTIONS[:-1]:
        n = round(fraction * scores.graph.n_edges)
        yield scores.greedy(n, ranking) if grow else scores.top(n, ranking)


def judged(model: Transformer, task: Task, scores: Scores, grow: bool) -> dict[str, Any]:
    """Areas, and by size: faithfulness of both rankings and the edges that are left."""
    kinds: tuple[Ranking, Ranking] = ("absolute", "signed")
    circuits = [circuit for kind in kinds for circuit in circuits_of(scores, kind, grow)]
    masks = [circuit.mask for circuit in circuits] + [torch.zeros_like(scores.graph.mask)]
    once = {mask.numpy().tobytes(): mask for mask in masks}  # where no score is negative both rankings are one
    found = dict(zip(once, circuit_metrics(model, task, list(once.values())).mean(1).tolist(), strict=True))
    *means, empty = [found[mask.numpy().tobytes()] for mask in masks]
    full, n = full_metric(model, task), len(FRACTIONS) - 1
    kept = [(mean - empty) / (full - empty) for mean in means]
    absolute, signed = [*kept[:n], 1.0], [*kept[n:], 1.0]
    return {
        "cmd": area([abs(1 - f) for f in absolute]),
        "cpr": area(signed),
        "absolute": [round(f, 3) for f in absolute],
        "signed": [round(f, 3) for f in signed],
        "edges": [circuit.n_edges for circuit in circuits[:n]],
        "edges_signed": [circuit.n_edges for circuit in circuits[n:]],
        "metric_full": full,
        "metric_empty": empty,
    }


def area(values: Sequence[float]) -> float:
    """Trapezoids over the share of edges."""
    return float(torch.trapezoid(torch.tensor(values, dtype=torch.float64), torch.tensor(FRACTIONS).double()))


def tail(model: Transformer, task: Task, scores: Scores, share: float) -> dict[str, float]:
    """Cutting all edges but the best ``share``, as shares of the behaviour.

    ``sum``: their scores added up; ``all``: what cutting them takes; ``half``: what cutting half of them takes, drawn
    three times at random.
    """
    graph, generator = scores.graph, torch.Generator().manual_seed(0)
    best = scores.top(round(share * graph.n_edges), prune=False).mask
    halves = [best | (torch.rand(best.shape, generator=generator) < 0.5) & graph.mask for _ in range(3)]
    masks = [best, *halves, torch.zeros_like(best)]
    cut, *half, empty = circuit_metrics(model, task, masks).mean(1).tolist()
    full = full_metric(model, task)
    return {
        "share": share,
        "sum": float(scores.values[graph.mask & ~best].sum()) / (full - empty),
        "all": (full - cut) / (full - empty),
        "half": (full - sum(half) / len(half)) / (full - empty),
    }


def sample(found: Sequence[Scores], n: int) -> Tensor:
    """``n`` edges (flat indices): one half from the best 1 % of any method, one from all others."""
    graph, generator = found[0].graph, torch.Generator().manual_seed(0)
    best = torch.zeros(graph.mask.numel(), dtype=torch.bool)
    for scores in found:
        best[scores.ranked().flatten().topk(graph.n_edges // 100).indices] = True
    halves = []
    for group in (best, graph.mask.flatten() & ~best):
        at = group.nonzero().flatten()
        halves.append(at[torch.randperm(len(at), generator=generator)[: n // 2]])
    return torch.cat(halves)


def agreement(scores: Scores, edges: Tensor, truth: Tensor) -> dict[str, float]:
    """How the scores of a sample of edges stand to their exact effects.

    ``slope``: of the scores over the effects; ``sign``: share of the size of the effects whose sign is right.
    """
    x = scores.values.flatten()[edges].double()
    return {
        "pearson": correlation(x, truth),
        "spearman": correlation(ranks(x), ranks(truth)),
        "by size": correlation(ranks(x.abs()), ranks(truth.abs())),
        "slope": float((x * truth).sum() / (truth * truth).sum()),
        "sign": float(truth.abs()[x * truth > 0].sum() / truth.abs().sum()),
    }


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's."""
    return float(torch.corrcoef(torch.stack((x, y)))[0, 1])


def ranks(x: Tensor) -> Tensor:
    """Places in ascending order."""
    return x.argsort(stable=True).argsort(stable=True).double()


@torch.no_grad()
def path(model: Transformer, task: Task) -> list[dict[str, Any]]:
    """The metric along both paths of embeddings, and how far each point is from the clean prompt's.

    Distances are those of all positions of a prompt together; EAP-IG's line has the length of its last row.
    """
    clean, other = record(model, task.clean).embed, record(model, task.corrupted).embed
    points = [("EAP-IG", i / 5, torch.lerp(clean, other, i / 5)) for i in range(6)]
    points += [("EAP-GP", i + 1, point) for i, point in enumerate(gradient_path(model, task, clean, other, 5))]
    rows = []
    for name, at, embed in points:
        logits = model(embed)[torch.arange(len(task)), task.last]
        metric, gone = task.score(logits), (embed - clean).flatten(1).norm(dim=1)
        along = ((embed - clean) * (other - clean)).flatten(1).sum(1) / (other - clean).flatten(1).norm(dim=1) ** 2
        rows.append(
            {
                "what": name,
                "at": at,
                "metric": float(metric.mean()),
                "distance": float(gone.mean()),
                "share of the way": float(along.mean()),
            }
        )
    return rows


def main() -> None:
    """Score, judge, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="eap,eap-ig", help="variants, with commas between")
    parser.add_argument("--tasks", default="ioi")
    parser.add_argument("--n", type=int, default=16, help="pairs of prompts")
    parser.add_argument("--rounds", type=int, default=1, help="how many seeds of the prompts")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--edges", type=int, default=0, help="edges patched to compare with")
    parser.add_argument("--path", action="store_true", help="the metric along the paths of EAP-IG and EAP-GP")
    parser.add_argument("--tail", action="store_true", help="what cutting many small edges takes")
    parser.add_argument("--no-curve", action="store_true", help="do not judge circuits")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep", type=Path, help="a folder for scores, which are not made again")
    parser.add_argument("--out", type=Path, default=RESULTS / "smollm2_methods.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, rows, lines = load("smollm2-135m"), [], []
    for name in args.tasks.split(","):
        for seed in range(args.first, args.first + args.rounds):
            task = tasks.load(name, model, n=args.n, seed=seed)
            variants = [variant for variant in args.methods.split(",") if variant]
            found = [scores_of(model, task, variant, args.keep) for variant in variants]
            edges = sample(found, args.edges) if args.edges else torch.empty(0)
            truth = exact_effects(model, task.rows(0, 8), edges) if args.edges else edges
            for variant, scores in zip(variants, found, strict=True):
                row: dict[str, Any] = {"task": name, "seed": seed, "what": variant}
                if not args.no_curve:
                    row |= judged(model, task, scores, parts_of(variant)[2].get("grow") == "greedy")
                if args.tail:
                    row["tails"] = [tail(model, task, scores, share) for share in (0.05, 0.2)]
                if args.edges:
                    row |= agreement(scores, edges, truth)
                rows.append(row)
                print({key: round(x, 4) if isinstance(x, float) else x for key, x in row.items()}, flush=True)
            if args.path:
                lines += [{"task": name, "seed": seed} | row for row in path(model, task.rows(0, 8))]
    save(args.out, "Methods on SmolLM2-135M", rows, paths=lines, prompts=args.n)
    if rows:
        show("Methods on SmolLM2-135M", [{k: v for k, v in row.items() if not isinstance(v, list)} for row in rows])
    if lines:
        show("Along the paths of embeddings", lines)


if __name__ == "__main__":
    main()
