"""Models trained to have a known circuit: measured again by hand, with taps, against the programs' oracles."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.micro import hugging_face
from tests.reference import Reference, patched_logits
from workbench.circuits.activations import record
from workbench.circuits.graph import head_of
from workbench.circuits.known import known_models
from workbench.circuits.known.examine import examine
from workbench.circuits.known.library import PROGRAMS
from workbench.circuits.known.siit import RECORDS, TRAINED, Trained, bundled
from workbench.circuits.known.siit.interchange import interchanged, outputs
from workbench.circuits.known.siit.pair import TOLERANCE
from workbench.circuits.patching import PatchedRun
from workbench.models import Transformer, from_hf
from workbench.models.zoo import train

BY_KEY = {record.key: record for record in RECORDS}
KEYS = list(BY_KEY)


@pytest.fixture(scope="module")
def trained() -> dict[str, Trained]:
    return {key: bundled(record) for key, record in BY_KEY.items()}


def drawn(made: Trained, n: int, seed: int) -> list[list[Any]]:
    source = random.Random(seed)
    return [made.high.draw(source) for _ in range(n)]


def written(model: Transformer, tokens: Tensor, node: str) -> tuple[str, Any, Tensor]:
    """Hook, place in it, and value of what a head or an MLP writes."""
    place = head_of(node)
    name = f"blocks.{place[0]}.attn.hook_z" if place else f"blocks.{node[1:]}.hook_mlp_out"
    index = (slice(None), slice(None), place[1]) if place else slice(None)
    return name, index, model.run_with_cache(tokens, [name])[1][name][index]


def swapped(model: Transformer, base: Tensor, other: Tensor, node: str) -> Tensor:
    """Logits on ``base`` with what a node writes taken from ``other``."""
    name, index, value = written(model, other, node)

    def tap(x: Tensor) -> Tensor:
        x[index] = value
        return x

    found: Tensor = model(base, {name: tap})
    return found


def agree(made: Trained, said: Tensor, wanted: Tensor) -> Tensor:
    if made.high.output.numerical:
        return (said - wanted).abs()[:, 1:] <= TOLERANCE
    best = wanted[:, 1:].topk(2, -1).values
    clear = best[..., 0] - best[..., 1] > 0.25  # the mean of two values is no answer
    return (said.argmax(-1) == wanted.argmax(-1))[:, 1:][clear]


def test_there_are_enough_and_a_simple_ioi() -> None:
    assert len(KEYS) >= 8
    assert "siit-simple-ioi" in KEYS
    assert {r.key for r in known_models() if r.kind == "trained"} == set(KEYS)
    assert {folder.name for folder in TRAINED.iterdir()} == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_it_answers_as_the_oracle(key: str, trained: dict[str, Trained]) -> None:
    made = trained[key]
    oracle = next(p for p in PROGRAMS if f"siit-{p.key}" == key).oracle
    inputs = drawn(made, 300, 7)
    right = []
    for xs in inputs[:40]:
        for said, wanted in zip(made.run(xs), oracle(xs), strict=True):
            if wanted is not None:
                near = abs(said - wanted) <= TOLERANCE if made.high.output.numerical else said == wanted
                right.append(near)
    assert sum(right) / len(right) >= 0.985
    tokens = made.high.encode(inputs)
    assert agree(made, made.model(tokens), made.high.model(tokens)).double().mean() >= 0.99


@pytest.mark.parametrize("key", KEYS)
def test_nodes_of_the_circuit_mean_the_same_in_both_models(key: str, trained: dict[str, Trained]) -> None:
    made = trained[key]
    base, other = (made.high.encode(drawn(made, 400, seed)) for seed in (11, 12))
    for node in made.card["inside"]["nodes"]:
        wanted = swapped(made.high.model, base, other, node)
        assert agree(made, swapped(made.model, base, other, node), wanted).double().mean() >= 0.98, node


@pytest.mark.parametrize("key", KEYS)
def test_nodes_outside_the_circuit_change_no_answer(key: str, trained: dict[str, Trained]) -> None:
    made = trained[key]
    base, other = (made.high.encode(drawn(made, 400, seed)) for seed in (13, 14))
    plain, cfg = made.model(base), made.model.cfg
    everywhere = [f"a{i}.h{h}" for i in range(cfg.n_layers) for h in range(cfg.n_heads)]
    everywhere += [f"m{i}" for i in range(cfg.n_layers)]
    changed = []
    for node in set(everywhere) - set(made.card["inside"]["nodes"]):
        said = swapped(made.model, base, other, node)
        if made.high.output.numerical:
            changed.append(((said - plain).abs()[:, 1:] > TOLERANCE).double().mean())
        else:
            changed.append((said.argmax(-1) != plain.argmax(-1))[:, 1:].double().mean())
    assert torch.stack(changed).mean() <= 0.01


@pytest.mark.parametrize("key", KEYS)
def test_the_card_says_what_the_repository_promises(key: str, trained: dict[str, Trained]) -> None:
    figures = trained[key].card["figures"]
    for name in ("accuracy", "interchange", "strict"):
        assert figures[name] >= 0.99
    assert trained[key].card["inside"]["circuit"] == sorted(trained[key].high.edges.of_tokens)


def test_the_circuit_alone_is_the_behaviour_and_a_method_finds_it(trained: dict[str, Trained]) -> None:
    made = trained["siit-hist"]
    found = examine(made.model, made.task(64), made.true_edges, "eap-ig")
    assert found.faithfulness == pytest.approx(1, abs=0.1)
    assert found.truth.auroc > 0.9
    assert found.untrained.auroc < found.truth.auroc


def test_an_interchange_of_the_counting_head_gives_the_other_inputs_counts() -> None:
    high = BY_KEY["siit-hist"].pair.high
    base, other = (high.encode([xs]) for xs in (list("aaabbbcc"), list("abcabcab")))
    _, wrote = outputs(high.model, other)
    mask = torch.zeros(1, *BY_KEY["siit-hist"].pair.high.circuit.mask.shape, dtype=torch.bool)
    graph = high.circuit.graph
    mask[0, graph.writer_index["a0.h0"]] = graph.mask[graph.writer_index["a0.h0"]]
    said, _ = interchanged(high.model, base, wrote, mask)
    assert high.decode(said[:, 1:]) == [3, 3, 2, 3, 3, 2, 3, 3]


@pytest.mark.parametrize("family", ["gpt2", "llama-grouped"])
def test_edges_of_one_example_are_patched_as_by_brute_force(family: str) -> None:
    hf = hugging_face(family)
    model = from_hf(hf)
    reference = Reference(hf)
    tokens, other = torch.randint(3, 60, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    ablated = [out.detach() for out in reference.run(other, lambda w, r, out: out)[1]]
    drawn = torch.rand(3, *reference.graph.mask.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    edges = drawn & reference.graph.mask
    said, _ = interchanged(model, tokens, outputs(model, other)[1], edges)
    for i in range(3):
        one = patched_logits(hf, tokens[i : i + 1], [x[i : i + 1] for x in ablated], ~edges[i] & reference.graph.mask)
        torch.testing.assert_close(said[i : i + 1], one, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("key", KEYS)
def test_edges_called_unseen_change_nothing_in_the_program_and_the_others_do(
    key: str, trained: dict[str, Trained]
) -> None:
    made = trained[key]
    clean, corrupted = (made.high.encode(drawn(made, 400, seed)) for seed in (21, 22))
    task = replace(made.high.task(4), clean=clean, corrupted=corrupted, lengths=torch.full((400,), clean.shape[1]))
    task = replace(task, right=task.right[:1].expand(400, -1), wrong=task.wrong[:1].expand(400, -1), at=None)
    run = PatchedRun(made.high.model, task, record(made.high.model, corrupted))
    graph = made.high.circuit.graph
    for edge in made.true_edges:
        changed = False
        for at in range(1, clean.shape[1]):
            run.batch = replace(task, at=torch.full((400,), at))
            without = graph.mask.clone()
            without[graph.edge(edge)] = False
            changed = changed or not torch.allclose(run.logits(without), run.logits(graph.mask), atol=1e-3)
        assert changed == (edge not in made.length_edges), edge


def test_training_again_from_the_seed_gives_the_same_weights() -> None:
    record = replace(BY_KEY["siit-hist"].zoo(), schedule=replace(BY_KEY["siit-hist"].zoo().schedule, batch=32))
    one, two = (train(record, stop_after=3).state_dict() for _ in range(2))
    other = train(replace(record, seed=1), stop_after=3).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_input_of_another_length_or_token_is_said(trained: dict[str, Trained]) -> None:
    with pytest.raises(ValueError, match="trained on inputs of 8 tokens; this has 3"):
        trained["siit-hist"].run(list("abc"))
    with pytest.raises(ValueError, match="'z' is not in the vocabulary"):
        trained["siit-hist"].run(list("abcabcaz"))
