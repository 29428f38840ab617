"""The learned ranking: what it minimises goes down, and it is a ranking."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.circuits import Stopped, discover, evaluate, faithfulness_curve, ground_truth, tasks
from workbench.circuits.known import known_models
from workbench.circuits.known.examine import shown_edges
from workbench.circuits.refine import refine
from workbench.models import Transformer

KNOWN = {record.key: record for record in known_models()}


def test_learned_circuits_are_more_faithful_than_those_that_it_starts_from(model: Transformer) -> None:
    """On the prompts learned from: a model of random weights has no behaviour that others would share."""
    task = tasks.load("ioi", model, n=16, seed=1)
    before = discover(model, task, "eap-ig")
    after = refine(model, task, steps=100, learning_rate=0.1)
    cmd = [faithfulness_curve(model, task, scores, control=False).cmd for scores in (before, after)]
    assert cmd[1] < 0.8 * cmd[0]


def test_scores_are_signed_ranks(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=4)
    start, scores = discover(model, task, "eap"), refine(model, task, start="eap", steps=3)
    n, exists = scores.graph.n_edges, scores.graph.mask
    ranks = scores.values[exists].abs().sort().values
    torch.testing.assert_close(ranks, torch.arange(1, n + 1) / n)
    assert not scores.values[~exists].any()
    assert torch.equal(scores.values[exists] < 0, start.values[exists] < 0)
    assert scores.method == "learned-ranking"
    assert scores.settings["start"] == "eap"


def test_without_learning_the_ranking_is_that_of_the_start(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=4)
    start = discover(model, task, "eap-ig", ablation="mean")
    scores = refine(model, task, steps=1, learning_rate=1e-9, ablation="mean")
    for size in (5, 30, 100):
        assert torch.equal(scores.top(size, prune=False).mask, start.top(size, prune=False).mask)


@pytest.mark.parametrize("key", ["frac-prevs", "induction"])
def test_known_circuits_stay_found(key: str) -> None:
    made = KNOWN[key].load()
    task, edges = made.task(16), shown_edges(made)
    scores = refine(made.model, task, steps=40)
    assert ground_truth(scores, edges).auroc >= 0.9
    circuit = scores.top(len(edges) + 2)
    assert evaluate(made.model, task, circuit).faithfulness > 0.9


def test_a_seed_decides_everything_and_a_stop_keeps_the_ranking_so_far(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=6)
    run = lambda **options: refine(model, task, start="eap", steps=8, learning_rate=0.3, **options)  # noqa: E731
    one, again, other = run(), run(), run(seed=1)
    assert torch.equal(one.values, again.values)
    assert not torch.equal(one.values, other.values)
    seen = []
    stopped = run(progress=lambda p: seen.append((p.what, p.done, p.total)) or p.what[0] == "s" or p.done < 2)
    assert seen == [("scoring edges", 1, 1), ("learning the ranking", 1, 8), ("learning the ranking", 2, 8)]
    assert not stopped.complete
    assert not torch.equal(stopped.values, one.values)
    with pytest.raises(Stopped, match="Stopped before"):
        refine(model, task, start="eap", budget=1, progress=lambda p: False)


def test_bad_requests_are_explained(model: Transformer) -> None:
    task: Any = tasks.load("ioi", model, n=2)
    with pytest.raises(ValueError, match="did you mean 'eap-ig'"):
        refine(model, task, start="eap_ig")
    with pytest.raises(ValueError, match="'temperature' takes a number above 0, not 0"):
        refine(model, task, temperature=0)
    with pytest.raises(ValueError, match="'learning_rate' takes a number above 0, not -1"):
        refine(model, task, learning_rate=-1)
    with pytest.raises(ValueError, match="Unknown loss"):
        refine(model, task, loss="mse")  # type: ignore[arg-type]
