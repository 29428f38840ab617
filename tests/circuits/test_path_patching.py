"""Path patching against its definition: one run of Hugging Face's weights for each path, everything else given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import micro, reference
from tests.circuits.test_attribution import random_task
from workbench.circuits import Scores
from workbench.circuits.exact import exact
from workbench.circuits.path_patching import path_patching
from workbench.models import Transformer, from_hf

KINDS = ["gpt2", "llama-grouped"]


def by_definition(
    hf: Any, base: Tensor, other: Tensor, metric: Any, *, direct: bool = False, mlps: bool = False
) -> Tensor:
    """What the metric of ``base`` loses when each sender tells each receiver what it says in ``other``."""
    ref = reference.Reference(hf)
    graph, readers = ref.graph, ref.graph.readers
    with torch.no_grad():
        logits, own, _ = ref.run(base, lambda w, r, out: out)
        _, foreign, _ = ref.run(other, lambda w, r, out: out)
        scores = torch.zeros(graph.mask.shape)
        for sender, receiver in graph.mask.nonzero().tolist():
            node = int(graph.reader_node[receiver])
            node = len(graph.writers) if node < 0 else node

            def mix(
                w: int, r: int, out: Tensor, sender: int = sender, receiver: int = receiver, node: int = node
            ) -> Tensor:
                on_the_way = mlps and readers[r][0] == "m" and r < receiver
                if r == receiver or on_the_way:
                    if w == sender:
                        return foreign[w]
                    return out if mlps and graph.writers[w][0] == "m" else own[w]
                if direct:
                    return out if w == node and readers[r] == "logits" else own[w]
                return out if w >= node else own[w]

            changed, _, _ = ref.run(base, mix)
            scores[sender, receiver] = (metric(logits) - metric(changed)).mean()
    return scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("direct", "mlps"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_each_path_carries_the_other_run_and_everything_beside_it_stays(
    kind: str, direction: Any, direct: bool, mlps: bool
) -> None:
    hf, task = micro.hugging_face(kind), random_task(batch=2)
    sides = (task.clean, task.corrupted) if direction == "noising" else (task.corrupted, task.clean)
    expected = by_definition(hf, *sides, task.metric, direct=direct, mlps=mlps)
    expected = expected if direction == "noising" else -expected
    scores = path_patching(from_hf(hf), task, direction=direction, direct=direct, mlps=mlps)
    torch.testing.assert_close(scores.values, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


def test_along_one_edge_with_all_after_it_run_anew_it_is_exact_patching(model: Transformer) -> None:
    task = random_task(vocab=200, unlike=True)
    for ablation in ("resample", "mean", "zero"):
        paths = path_patching(model, task, ablation=ablation)  # type: ignore[arg-type]
        assert torch.equal(paths.values, exact(model, task, ablation=ablation).values)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["gemma2"])
def test_models_that_normalise_what_is_added_have_edges_but_no_other_paths(kind: str) -> None:
    model, task = from_hf(micro.hugging_face(kind)), random_task(batch=2)
    assert path_patching(model, task, direction="denoising").values.any()
    for option in ("direct", "mlps"):
        with pytest.raises(ValueError, match="serves it without 'direct' and 'mlps'"):
            path_patching(model, task, **{option: True})  # type: ignore[arg-type]


def test_a_stopped_search_goes_on_where_it_was(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.circuits.partial.SECONDS", -1.0)
    task, kept = random_task(vocab=200), list[Scores]()
    options: dict[str, Any] = {"direction": "denoising", "mlps": True}
    path_patching(model, task, **options, progress=lambda p: p.done < 5, keep=kept.append)
    assert kept[-1].values.isnan().any()
    assert torch.equal(
        path_patching(model, task, **options, resume=kept[-1]).values, path_patching(model, task, **options).values
    )
    with pytest.raises(ValueError, match="mlps: True then, False now"):
        path_patching(model, task, direction="denoising", resume=kept[-1])


def test_bad_requests_are_explained(model: Transformer) -> None:
    task = random_task(vocab=200)
    with pytest.raises(ValueError, match="Unknown direction 'forward'; choose 'noising' or 'denoising'"):
        path_patching(model, task, direction="forward")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="which the ablation 'mean' has not"):
        path_patching(model, task, direction="denoising", ablation="mean")
