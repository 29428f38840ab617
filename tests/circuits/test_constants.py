"""Optimal constants that are learned once: handed over, kept, gone on with."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import micro
from tests.circuits.test_attribution import random_task
from workbench.circuits import (
    Progress,
    Stopped,
    completeness,
    curve_interval,
    discover,
    evaluate,
    faithfulness_curve,
    methods,
    minimality,
    prompt_stability,
    random_control,
    untrained_control,
)
from workbench.circuits.activations import WriterOutputs, graph_of
from workbench.circuits.graph import Circuit
from workbench.circuits.optimal import are_for, learning_passes, optimal_constants, pack, unpack
from workbench.circuits.patching import PatchedRun
from workbench.models import Transformer, fresh, from_hf

MICRO = from_hf(micro.hugging_face("llama-grouped"))
TASK = random_task(batch=6)
FEW: dict[str, Any] = {"steps": 12, "prompts": 2}


def flat(outputs: WriterOutputs) -> torch.Tensor:
    """All constants in one row."""
    return torch.cat([x.flatten() for x in (outputs.embed, *outputs.z, *outputs.mlp)])


def no_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("constants were learned though they were there")

    monkeypatch.setattr("workbench.circuits.optimal.optimal_constants", refuse)


def some_circuit() -> Circuit:
    graph = graph_of(MICRO)
    return Circuit(graph, graph.mask & (torch.rand(graph.mask.shape, generator=torch.Generator().manual_seed(4)) < 0.6))


def test_every_measure_takes_constants_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    constants, circuit = optimal_constants(MICRO, TASK, **FEW), some_circuit()
    no_learning(monkeypatch)
    run = PatchedRun(MICRO, TASK, constants.outputs)
    full, empty, kept = (float(run.metric(m).mean()) for m in (circuit.graph.mask, circuit.mask & False, circuit.mask))
    share = (kept - empty) / (full - empty)
    judged = evaluate(MICRO, TASK, circuit, constants)
    assert judged.faithfulness == pytest.approx(share, abs=1e-4)
    assert type(judged.ablation) is str
    scores = discover(MICRO, TASK, "exact", ablation=constants)
    assert random_control(MICRO, TASK, circuit, constants, draws=1).faithfulness == pytest.approx(share, abs=1e-4)
    assert minimality(MICRO, TASK, circuit, constants).faithfulness == pytest.approx(share, abs=1e-4)
    assert completeness(MICRO, TASK, circuit, constants, draws=1).ablation == "optimal"
    curve = faithfulness_curve(MICRO, TASK, scores, constants)
    assert curve.metric_empty == pytest.approx(empty, abs=1e-5)
    assert curve_interval(MICRO, TASK, scores, constants).cmd == pytest.approx(curve.cmd, abs=1e-4)
    assert prompt_stability(MICRO, TASK, "eap", n_edges=9, pieces=2, ablation=constants).complete


@pytest.mark.parametrize("key", [one.key for one in methods() if "optimal" in one.ablations])
def test_every_method_takes_constants_as_they_are(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = optimal_constants(MICRO, TASK, **FEW)
    options: dict[str, Any] = (
        {"steps": 2} if "steps" in next(one for one in methods() if one.key == key).options else {}
    )
    found = discover(MICRO, TASK, key, ablation=constants, **options)
    no_learning(monkeypatch)
    again = discover(MICRO, TASK, key, ablation=constants, **options)
    assert torch.equal(found.values, again.values)
    assert json.loads(json.dumps(found.settings["ablation"])) == "optimal"


def test_an_edge_to_the_logits_is_worth_what_patching_in_its_constant_does() -> None:
    constants = optimal_constants(MICRO, TASK, **FEW)
    scores = discover(MICRO, TASK, "exact", ablation=constants)
    run, graph = PatchedRun(MICRO, TASK, constants.outputs), graph_of(MICRO)
    edge = graph.edge("m1->logits")
    mask = graph.mask.clone()
    mask[edge] = False
    worth = float((run.metric(graph.mask) - run.metric(mask)).mean())
    assert float(scores.values[edge]) == pytest.approx(worth, abs=1e-5)


def test_a_copy_is_the_bare_word() -> None:
    constants = optimal_constants(MICRO, TASK, **FEW)
    for plain in (copy.deepcopy(constants), pickle.loads(pickle.dumps(constants)), str(constants)):
        assert plain == "optimal"
        assert type(plain) is str
    assert json.dumps({"ablation": constants}) == '{"ablation": "optimal"}'


@pytest.mark.parametrize("stop", [1, 7])
def test_a_search_that_was_cut_off_goes_on_to_the_same_constants(tmp_path: Path, stop: int) -> None:
    whole, path = optimal_constants(MICRO, TASK, **FEW), tmp_path / "constants"
    optimal_constants(
        MICRO, TASK, **FEW, progress=lambda p: p.done < stop, keep=lambda c: path.write_bytes(pack(c)) and None
    )
    part = unpack(path)
    assert (part.done, part.complete) == (stop, False)
    assert not torch.allclose(flat(part.outputs), flat(whole.outputs))
    steps: list[Progress] = []
    rest = optimal_constants(
        MICRO, TASK, **FEW, resume=part, progress=steps.append, keep=lambda c: path.write_bytes(pack(c)) and None
    )
    assert [step.done for step in steps] == list(range(stop + 1, 13))
    torch.testing.assert_close(flat(rest.outputs), flat(whole.outputs), atol=1e-6, rtol=1e-6)
    assert rest.state == {}
    stored = unpack(path)
    assert torch.equal(flat(stored.outputs), flat(rest.outputs))
    assert stored.about == rest.about
    assert optimal_constants(MICRO, TASK, **FEW, resume=stored) is stored


def test_constants_in_half_precision_are_kept_as_they_are(tmp_path: Path) -> None:
    model = from_hf(micro.hugging_face("gpt2")).to(torch.bfloat16)
    constants = optimal_constants(model, TASK, steps=2)
    (tmp_path / "c").write_bytes(pack(constants))
    back = unpack(tmp_path / "c").outputs
    assert back.embed.dtype == torch.bfloat16
    assert torch.equal(back.z[1], constants.outputs.z[1])


def test_what_is_kept_belongs_to_one_model_one_task_and_one_search(tmp_path: Path) -> None:
    constants, other = optimal_constants(MICRO, TASK, **FEW), fresh(MICRO.cfg, seed=3)
    assert are_for(constants, MICRO, TASK)
    assert not are_for(constants, other, TASK)
    assert not are_for(constants, MICRO, random_task(batch=6, seed=9))
    with pytest.raises(ValueError, match="learned on another model"):
        evaluate(other, TASK, some_circuit(), constants)
    with pytest.raises(ValueError, match=r"steps: 12 then, 13 now"):
        optimal_constants(MICRO, TASK, steps=13, prompts=2, resume=constants)
    with pytest.raises(ValueError, match=r"prompts: 6 \(\w+\) then, 5 \(\w+\) now"):
        optimal_constants(MICRO, TASK.rows(0, 5), **FEW, resume=constants)
    (tmp_path / "cut").write_bytes(pack(constants)[:99])
    for name in ("cut", "nothing"):
        with pytest.raises(ValueError, match="holds no constants"):
            unpack(tmp_path / name)


def test_a_random_model_learns_constants_of_its_own() -> None:
    constants = optimal_constants(MICRO, TASK, **FEW)
    found = untrained_control(MICRO, TASK, "eap", n_edges=40, draws=1, ablation=constants)
    other = fresh(MICRO.cfg, seed=0)
    circuit = discover(other, TASK, "eap", ablation="optimal").top(40)
    assert found.own == pytest.approx([evaluate(other, TASK, circuit, "optimal").faithfulness], abs=1e-5)
    assert found.transferred == pytest.approx([evaluate(MICRO, TASK, circuit, constants).faithfulness], abs=1e-5)


def test_learning_is_shown_and_can_be_stopped() -> None:
    steps: list[Progress] = []
    with pytest.raises(Stopped, match="constants"):
        evaluate(MICRO, TASK, some_circuit(), "optimal", progress=lambda p: steps.append(p) or p.done < 3)
    assert {step.what for step in steps} == {"learning constants"}
    assert len(steps) == 3


def test_a_search_learns_its_constants_once_also_where_it_starts_from_another_s_scores() -> None:
    steps: list[Progress] = []
    found = discover(MICRO, TASK, "learned-ranking", start="eap", steps=2, ablation="optimal", progress=steps.append)
    assert [step.done for step in steps if step.what == "learning constants"] == list(range(1, 201))
    constants = optimal_constants(MICRO, TASK)
    given = discover(MICRO, TASK, "learned-ranking", start="eap", steps=2, ablation=constants)
    torch.testing.assert_close(found.values, given.values)
    with pytest.raises(Stopped, match="constants"):
        discover(MICRO, TASK, "eap", ablation="optimal", progress=lambda p: p.done < 3)


def test_the_cost_is_what_learning_takes() -> None:
    seen = {"forward": 0, "grad": 0}

    def count(_: Any, inputs: Any, __: Any) -> None:
        seen["forward"] += len(inputs[0])
        seen["grad"] += len(inputs[0]) * torch.is_grad_enabled()

    model = fresh(MICRO.cfg, seed=1)
    handle = model.register_forward_hook(count)
    optimal_constants(model, TASK, steps=30, prompts=3)
    handle.remove()
    forwards, backwards = learning_passes(len(TASK), 30, 3)
    assert seen["forward"] / len(TASK) == pytest.approx(
        forwards, abs=0.5
    )  # the first batch is run once more for spreads
    assert seen["grad"] / len(TASK) == pytest.approx(backwards)


def test_a_model_that_is_given_constants_keeps_its_weights_frozen(model: Transformer) -> None:
    before = model.fingerprint
    optimal_constants(model, random_task(vocab=200, batch=2), steps=2)
    assert model.fingerprint == before
