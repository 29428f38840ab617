"""What a head writes and copies, against Hugging Face's weights; parts switched off, against a slow patched run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import digits, micro
from tests.reference import Reference, patched_logits
from workbench import inspection
from workbench.circuits import Circuit, Task, evaluate, tasks
from workbench.circuits.activations import graph_of
from workbench.circuits.graph import Graph
from workbench.head import answer_places, copy_score, direct_logits, look_at_head
from workbench.inspection import Given
from workbench.live import one_prompt, switch_off, without
from workbench.models import Transformer, from_hf

KINDS = ("llama-grouped", "gpt2")
PLAIN = ("llama-grouped", "llama-biased", "gpt2", "gpt-neox", "phi", "opt", "qwen2")
TOKENS = torch.tensor([[5, 9, 3, 9, 40, 3, 17]])
OTHER = torch.tensor([[5, 8, 3, 9, 41, 2, 17]])


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest) -> tuple[Any, Transformer]:
    hf = micro.hugging_face(request.param)
    return hf, from_hf(hf)


def given(tokens: Tensor = TOKENS) -> Given:
    return Given(tokens, tuple(str(t) for t in tokens[0].tolist()), "numbers")


@pytest.mark.parametrize("kind", PLAIN)
def test_what_all_parts_write_directly_adds_up_to_the_logits(kind: str) -> None:
    hf = micro.hugging_face(kind)
    model = from_hf(hf)
    n = model.cfg.n_layers
    names = [f"blocks.{layer}.{what}" for layer in range(n) for what in ("attn.hook_result", "hook_mlp_out")]
    _, cache = model.run_with_cache(TOKENS, [*names, "blocks.0.hook_resid_pre", f"blocks.{n - 1}.hook_resid_post"])
    parts = [cache["blocks.0.hook_resid_pre"][0, -1]]
    for layer in range(n):
        parts += [*cache[f"blocks.{layer}.attn.hook_result"][0, -1], cache[f"blocks.{layer}.hook_mlp_out"][0, -1]]
        bias = model.blocks[layer].attn.b_O
        parts += [] if bias is None else [bias]
    resid = cache[f"blocks.{n - 1}.hook_resid_post"][0, -1]
    summed = direct_logits(model, torch.stack(parts), resid).sum(0)
    # The final norm's and the unembedding's biases are no part's.
    constant = model.unembedding(torch.zeros_like(resid) if model.ln_final.bias is None else model.ln_final.bias)
    logits = hf(TOKENS).logits[0, -1] - constant
    assert torch.allclose(summed, logits - logits.mean(), atol=1e-4)


def test_a_head_s_tokens_and_sources_are_its_own_weights_doing(both: tuple[Any, Transformer]) -> None:
    hf, model = both
    found = look_at_head(model, given(), 1, 2, k=64)
    _, outputs, _ = Reference(hf).run(TOKENS, lambda w, r, out: out)
    written = outputs[model_graph(model).writer_index["a1.h2"]][0, -1]
    resid = sum(outputs)[0, -1] + Reference(hf).biases(len(model_graph(model).readers) - 1, outputs[0])[0, -1]
    expected = direct_logits(model, written, resid)  # checked above
    assert {int(m.token): pytest.approx(m.logit, abs=1e-4) for m in found.raised} == {
        i: float(expected[i]) for i in range(64)
    }
    assert [m.logit for m in found.lowered] == pytest.approx([m.logit for m in found.raised[::-1]])
    # Sources at full attention, weighed by the attention, are what it writes; nothing is lost.
    assert sum(s.share for s in found.sources) == pytest.approx(1, abs=1e-5)
    for token in set(TOKENS[0].tolist()):
        only = [s for s in found.sources if int(s.token) == token]
        assert all(s.rank >= 1 for s in only)
    assert found.norm == pytest.approx(float(written.norm() / resid.norm()), rel=1e-4)


def model_graph(model: Transformer) -> Graph:
    return Graph(model.cfg.n_layers, model.cfg.n_heads)


def hf_copy_score(hf: Any, layer: int, head: int, top: int) -> float:
    """Wang et al.'s score step by step on Hugging Face's modules."""
    reference, hits = Reference(hf), 0
    with torch.no_grad():
        _, outputs, _ = reference.run(TOKENS, lambda w, r, out: out)
        early = sum(outputs[: 1 + reference.heads + 1])
        bias = reference.layers[0].attn.c_proj.bias if reference.gpt2 else reference.layers[0].self_attn.o_proj.bias
        early = early if bias is None else early + bias
        for place, token in enumerate(TOKENS[0].tolist()):
            # One position alone attends to itself in full.
            written = reference.head(layer, head, *[early[:, place : place + 1]] * 3)
            norm = hf.transformer.ln_f if reference.gpt2 else hf.model.norm
            hits += token in hf.lm_head(norm(written))[0, 0].topk(top).indices.tolist()
    return hits / TOKENS.shape[1]


@pytest.mark.parametrize("top", [5, 20])
def test_the_copy_score_is_the_published_one(both: tuple[Any, Transformer], top: int) -> None:
    hf, model = both
    for head in range(model.cfg.n_heads):
        assert copy_score(model, TOKENS, 1, head, top=top) == pytest.approx(hf_copy_score(hf, 1, head, top))


def test_only_the_marked_tokens_are_asked_for(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=4)
    places = answer_places(task.clean, task.right, task.wrong)
    for row, place in zip(task.clean.tolist(), places.tolist(), strict=True):
        assert sum(place) >= 2
        assert sum(place) < len(row) / 2
    with pytest.raises(ValueError, match="No token is asked for"):
        copy_score(model, task.clean, 0, 0, where=torch.zeros_like(places))


def test_a_head_without_a_direct_way_says_why(model: Transformer) -> None:
    vision = digits.vision()
    seen = inspection.see(vision, inspection.sample(vision, 0)[0])
    assert "further layers" in look_at_head(vision, seen, 0, 0).unclear
    post = from_hf(micro.hugging_face("gemma2"))
    assert "normalises the stream" in look_at_head(post, given(), 0, 0).unclear
    with pytest.raises(ValueError, match="normalises the stream"):
        copy_score(post, TOKENS, 0, 0)
    with pytest.raises(ValueError, match=r"There is no head 9\.0"):
        look_at_head(model, given(), 9, 0)
    with pytest.raises(ValueError, match="There is no position 99"):
        look_at_head(model, given(), 0, 0, position=99)


# -- switched off ----------------------------------------------------------------------------------------------


def pair_task(model: Transformer) -> Task:
    return Task(
        name="numbers",
        title="Numbers",
        clean=TOKENS,
        corrupted=OTHER,
        lengths=torch.tensor([7]),
        right=torch.tensor([[11]]),
        wrong=torch.tensor([[12]]),
        clean_text=["clean"],
        corrupted_text=["corrupted"],
    )


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
@pytest.mark.parametrize(
    "off", [["a0.h1", "m0->a1.h2<q>", "a1.h0->logits"], ["a0.h1", "a1.h0", "a0.h2", "m1"], ["m0"], ["input", "a0.h0"]]
)
def test_parts_that_are_off_are_off_as_in_the_slow_run(
    both: tuple[Any, Transformer], ablation: Any, off: list[str]
) -> None:
    hf, model = both
    graph = model_graph(model)
    with torch.no_grad():
        _, other, _ = Reference(hf).run(OTHER, lambda w, r, out: out)
    ablated = {
        "resample": other,
        "mean": [out.mean(1, keepdim=True) for out in other],
        "zero": [torch.zeros_like(out) for out in other],
    }[ablation]
    mask = graph.mask.clone()
    for part in off:
        mask[graph.edge(part) if "->" in part else graph.writer_index[part]] = False
    expected, plain = patched_logits(hf, TOKENS, ablated, mask)[0, -1], hf(TOKENS).logits[0, -1]
    effect = switch_off(model, pair_task(model), off, ablation, k=64)
    assert effect.after == pytest.approx(float(expected[11] - expected[12]), abs=1e-4)
    assert effect.before == pytest.approx(float(plain[11] - plain[12]), abs=1e-4)
    probabilities = torch.zeros(64)
    for answer in effect.answers:
        probabilities[answer.index] = answer.after or 0.0
    assert torch.allclose(probabilities, expected.softmax(-1), atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "gpt-neox", "phi", "gpt-neo"])
def test_whole_parts_that_are_off_are_the_circuit_without_their_edges_in_every_family(kind: str) -> None:
    """The plain forward with outputs put in place, against the patched run, which has tests of its own."""
    model = from_hf(micro.hugging_face(kind))
    task, off = pair_task(model), ["a0.h1", "a1.h0", "m0"]
    report = evaluate(model, task, Circuit(graph_of(model), without(graph_of(model), off)))
    assert switch_off(model, task, off).after == pytest.approx(report.metric, abs=1e-4)


def test_nothing_off_is_the_model(model: Transformer) -> None:
    effect = switch_off(model, tasks.load("ioi", model, n=3), [])
    assert effect.before == effect.after
    assert all(answer.before == answer.after for answer in effect.answers)


def test_means_are_over_all_prompts_and_answers_of_one(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=5)
    whole = switch_off(model, task, ["a1.h1"], prompt=3)
    each = [switch_off(model, task.rows(i, i + 1), ["a1.h1"]) for i in range(5)]
    assert whole.after == pytest.approx(sum(one.after for one in each) / 5, abs=1e-5)
    assert whole.prompt_after == pytest.approx(each[3].after, abs=1e-5)
    assert [a.index for a in whole.answers] == [a.index for a in each[3].answers]


def test_what_cannot_be_switched_off_is_one_sentence(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=2)
    for part in ("logits", "a9.h9", "a1.h1->a0.h0<q>", ""):
        with pytest.raises(ValueError, match=r".") as caught:
            switch_off(model, task, [part])
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="prompts 0 to 1, not 2"):
        switch_off(model, task, [], prompt=2)
    with pytest.raises(ValueError, match="Unknown ablation"):
        switch_off(model, task, [], "noise")  # type: ignore[arg-type]


def test_all_but_named_parts(model: Transformer) -> None:
    graph = model_graph(model)
    mask = without(graph, ["m0", "a0.h0->logits"])
    gone = Circuit.full(graph).edges - Circuit(graph, mask).edges
    assert "a0.h0->logits" in gone
    assert all(edge.startswith("m0->") for edge in gone - {"a0.h0->logits"})
    assert len(gone) == 1 + int(graph.mask[graph.writer_index["m0"]].sum())


def test_one_prompt_is_measured_by_the_model_s_own_answer(model: Transformer) -> None:
    text = inspection.read(model, "When Mary and John went to the store, John gave a drink to")
    task = one_prompt(model, text)
    logits = model(text.tensor)[0, -1]
    assert task.right.item() == int(logits.argmax())
    assert float(task.metric(model(task.clean))[0]) == pytest.approx(float(logits.max()), abs=1e-5)
    with pytest.raises(ValueError, match="patching needs equally many"):
        one_prompt(model, text, inspection.read(model, "Mary"))
    with pytest.raises(ValueError, match="gives vectors"):
        one_prompt(digits.encoder(), text)
