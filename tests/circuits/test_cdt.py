"""Contextual decomposition as a method: against gradients and patching on Hugging Face's weights; known circuits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests import micro
from tests.circuits.test_attribution import random_task
from tests.reference import Reference, edge_attribution, patched_logits
from workbench.circuits import discover, evaluate, ground_truth
from workbench.circuits.activations import graph_of
from workbench.circuits.cdt import cdt
from workbench.circuits.cdt_search import cdt_search, nodes_mask
from workbench.circuits.graph import Circuit, Scores
from workbench.circuits.known import known_models
from workbench.circuits.known.examine import shown_edges
from workbench.circuits.progress import Progress, Stopped
from workbench.models import Transformer, fresh, from_hf


def known(key: str):
    return next(record for record in known_models() if record.key == key).load()


@pytest.mark.parametrize("kind", micro.KINDS)
def test_tangents_at_every_step_are_edge_attribution(kind: str) -> None:
    hf = micro.hugging_face(kind)
    model = from_hf(hf)
    task = random_task()
    expected = edge_attribution(hf, task.clean, task.corrupted, task.metric) / len(task)
    found = cdt(model, task, rule="tangent").values
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2"])
def test_the_rule_exact_patches_edges_into_logits_and_whole_nodes(kind: str) -> None:
    hf = micro.hugging_face(kind)
    model = from_hf(hf)
    task, graph = random_task(), graph_of(model)
    with torch.no_grad():
        _, ablated, _ = Reference(hf).run(task.corrupted, lambda w, r, out: out)
    whole = task.metric(patched_logits(hf, task.clean, ablated, graph.mask))
    edges, nodes = cdt(model, task).values, cdt(model, task, level="nodes").values
    worth = []
    for writer in range(len(graph.writers)):
        mask = graph.mask.clone()
        mask[writer, -1] = False
        alone = (whole - task.metric(patched_logits(hf, task.clean, ablated, mask))).mean()
        assert float(edges[writer, -1]) == pytest.approx(float(alone), rel=1e-3, abs=1e-5)
        mask[writer] = False
        worth.append(float((whole - task.metric(patched_logits(hf, task.clean, ablated, mask))).mean()))
    assert nodes[:, -1].tolist() == pytest.approx(worth, rel=1e-3, abs=1e-5)
    for writer, reader in graph.mask.nonzero().tolist():
        other = int(graph.reader_node[reader])
        ends = [worth[writer]] if other < 0 else [worth[writer], worth[other]]
        assert float(nodes[writer, reader]) == pytest.approx(min(ends, key=abs), rel=1e-3, abs=1e-5)


def test_where_the_way_behind_a_reader_is_linear_its_edges_are_patched_exactly() -> None:
    cfg = replace(from_hf(micro.hugging_face("gpt2", layers=1)).cfg, norm="none")
    model = fresh(cfg, seed=1)
    task, graph = random_task(), graph_of(model)
    names = ["blocks.0.hook_resid_pre", "blocks.0.attn.hook_z"]
    with torch.no_grad():
        (_, clean), (_, other) = (model.run_with_cache(tokens, names) for tokens in (task.clean, task.corrupted))
        heads = torch.einsum("bphe,hed->hbpd", clean[names[1]] - other[names[1]], model.blocks[0].attn.W_O)
        written = [clean[names[0]] - other[names[0]], *heads]
        whole = task.metric(model(task.clean))
        found = cdt(model, task).values
        for writer, change in enumerate(written):
            without = task.metric(model(task.clean, {"blocks.0.mlp.hook_in": lambda x, change=change: x - change}))
            alone = float((whole - without).mean())
            assert float(found[writer, graph.mlp_reader(0)]) == pytest.approx(alone, rel=1e-3, abs=1e-6)
            assert abs(alone) > 1e-4


@pytest.mark.parametrize("key", ["hist", "sort", "sort-freq", "induction", "simple-ioi"])
def test_circuits_on_plateaus_are_found_where_gradients_see_nothing(key: str) -> None:
    made = known(key)
    task = made.task(32, 0)
    # What lies behind two plateaus has scores of 1e-33, or none.
    assert ground_truth(cdt(made.model, task), shown_edges(made)).auroc > (0.9 if key == "sort-freq" else 0.999)
    if key in ("hist", "sort-freq"):
        assert ground_truth(discover(made.model, task, method="eap-ig"), shown_edges(made)).auroc < 0.7


def test_a_trained_circuit_is_found() -> None:
    made = known("siit-simple-ioi")
    assert ground_truth(cdt(made.model, made.task(32, 0)), shown_edges(made)).auroc > 0.97


def test_a_stop_keeps_whole_batches_and_going_on_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_hf(micro.hugging_face("llama-grouped"))
    task = random_task(batch=5)
    monkeypatch.setattr("workbench.circuits.cdt.PROMPTS", 2)
    for level in ("edges", "nodes"):
        whole = cdt(model, task, level=level)
        handed: list[Scores] = []
        steps = len(graph_of(model).writers) * (2 if level == "edges" else 1)

        def until(step: Progress, last: int = steps + 1) -> bool:
            return step.done < last

        monkeypatch.setattr("workbench.circuits.partial.SECONDS", -1.0)
        part = cdt(model, task, level=level, progress=until, keep=handed.append)
        assert 0 < part.n_examples < 5
        assert not part.complete
        on = cdt(model, task, level=level, resume=handed[-1])
        assert on.complete
        assert torch.allclose(on.values, whole.values, atol=1e-6)
        with pytest.raises(ValueError, match="rule: 'exact' then, 'frozen' now"):
            cdt(model, task, level=level, rule="frozen", resume=handed[-1])
    with pytest.raises(Stopped):
        cdt(model, task, progress=lambda step: False)


def test_wrong_settings_are_refused() -> None:
    model = from_hf(micro.hugging_face("gpt2"))
    task = random_task()
    with pytest.raises(ValueError, match="level"):
        discover(model, task, method="cdt", level="words")
    with pytest.raises(ValueError, match="rule"):
        discover(model, task, method="cdt", rule="exakt")
    odd = model.with_attention("cosine")
    with pytest.raises(ValueError, match="It admits 'exact'"):
        discover(odd, task, method="cdt", rule="shapley")
    assert discover(odd, task, method="cdt").complete


# -- the search ------------------------------------------------------------------------------------------------


def faithfulness(model: Transformer, task, heads) -> float:
    graph = graph_of(model)
    return evaluate(model, task, Circuit(graph, nodes_mask(graph, heads))).faithfulness


@pytest.mark.parametrize("key", ["reverse", "sort", "siit-simple-ioi"])
def test_the_search_finds_the_heads_of_a_known_circuit(key: str) -> None:
    made = known(key)
    task = made.task(32, 0)
    found = cdt_search(made.model, task)
    true = {end.split("<")[0] for edge in shown_edges(made) for end in edge.split("->") if end.startswith("a")}
    assert true <= set(found.heads)
    assert found.faithfulness == pytest.approx(faithfulness(made.model, task, found.heads), abs=1e-5)
    assert found.circuit.edges == Circuit(graph_of(made.model), nodes_mask(graph_of(made.model), found.heads)).edges


def test_no_head_that_is_left_can_go_without_harm() -> None:
    model = from_hf(micro.hugging_face("llama-grouped", layers=2))
    task = random_task(batch=4)
    found = cdt_search(model, task, share=0.9, tolerance=0.0)
    now = abs(1 - found.faithfulness)
    for head in found.heads:
        without = [other for other in found.heads if other != head]
        assert abs(1 - faithfulness(model, task, without)) >= now - 1e-6
    assert found.rounds[0].targets == ("logits",)


def test_a_search_that_is_stopped_keeps_its_rounds_or_says_that_there_is_nothing() -> None:
    made = known("siit-simple-ioi")
    task = made.task(16, 0)
    seen: list[str] = []

    def second_round(step: Progress) -> bool:
        seen.append(step.what)
        return not (step.what == "scoring heads" and "dropping heads" in seen)

    found = cdt_search(made.model, task, progress=second_round)
    assert len(found.rounds) == 1
    assert not found.complete
    with pytest.raises(Stopped):
        cdt_search(made.model, task, progress=lambda step: False)
    with pytest.raises(ValueError, match="share"):
        cdt_search(made.model, task, share=0)
