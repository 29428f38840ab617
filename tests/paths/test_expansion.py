"""Contributions by length and kind, against paths enumerated one by one and against Hugging Face's logits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.circuits.decomposition.cases import inputs_for, pair
from tests.paths.cases import ENUMERATED, TOLERANCE, Case, case, length, said
from tests.paths.reference import run
from workbench import paths
from workbench.circuits.progress import Progress, Stopped
from workbench.models.families.samples import SAMPLES

FEW = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


def hf_logits(hf: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
    with torch.no_grad():
        if tokens.is_floating_point():
            return hf(pixel_values=tokens).logits
        return hf(input_ids=tokens, attention_mask=mask).logits


@pytest.mark.parametrize("key", ENUMERATED)
def test_the_enumeration_itself_sums_to_the_logits_of_hugging_face(key: str) -> None:
    found = sum(case(key).words.values())
    torch.testing.assert_close(found, case(key).run.logits, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("key", ENUMERATED)
@FEW
@given(data=st.data())
def test_each_length_is_the_sum_of_its_paths(key: str, data: st.DataObject) -> None:
    c = case(key)
    token, at = draw(data, c)
    by_word = said(c.words, token, at)
    ens = paths.decompose(c.model, c.inputs, token, at=at)
    for k, (whole, bias) in enumerate(zip(ens.by_length, ens.bias_by_length, strict=True)):
        at_length = {word: x for word, x in by_word.items() if length(word) == k}
        assert float(whole) == pytest.approx(sum(at_length.values()), abs=TOLERANCE)
        from_bias = [x for word, x in at_length.items() if word[0] == "bias" and len(word) > 1]
        assert float(bias) == pytest.approx(sum(from_bias), abs=TOLERANCE)
    assert float(ens.readout_bias) == pytest.approx(by_word["bias",], abs=TOLERANCE)
    assert float(ens.direct) == pytest.approx(by_word["embed",], abs=TOLERANCE)
    assert float(ens.value) == pytest.approx(sum(by_word.values()), abs=TOLERANCE)


@pytest.mark.parametrize("key", ENUMERATED)
@FEW
@given(data=st.data())
def test_each_kind_is_the_sum_of_its_paths_and_the_bucket_of_all_longer_ones(key: str, data: st.DataObject) -> None:
    c = case(key)
    token, at = draw(data, c)
    keep = data.draw(st.integers(0, ens_depth(c)))
    by_word = said(c.words, token, at)
    ens = paths.decompose(c.model, c.inputs, token, at=at, by="kind", keep=keep)
    expected = torch.zeros(keep + 1, keep + 1, dtype=torch.float64)
    for word, x in by_word.items():
        if length(word) <= keep and word != ("bias",):
            expected[sum(name[0] == "a" for name in word), sum(name[0] == "m" for name in word)] += x
    torch.testing.assert_close(ens.kinds, expected, rtol=0, atol=TOLERANCE)
    for how in ("length", "kind"):
        for biases in ("apart", "within"):
            ens = paths.decompose(c.model, c.inputs, token, at=at, by=how, keep=keep, biases=biases)
            for k, x in enumerate(ens.by_length[: keep + 1]):
                assert float(x) == pytest.approx(sum(v for w, v in by_word.items() if length(w) == k), abs=TOLERANCE)
            longer = sum(v for w, v in by_word.items() if length(w) > keep)
            assert ens.truncated == (keep < ens.depth)
            assert len(ens.labels) == len(ens.by_length) == len(ens.counts) == keep + 1 + ens.truncated
            if ens.truncated:
                assert float(ens.by_length[-1]) == pytest.approx(longer, abs=TOLERANCE)


def draw(data: st.DataObject, c: Case) -> tuple[int, int | None]:
    at = None if c.once else data.draw(st.integers(0, c.width - 1))
    return data.draw(st.integers(0, c.n_out - 1)), at


def ens_depth(c: Case) -> int:
    return len([step for step in c.run.steps if step.parts])


@pytest.mark.parametrize("key", [sample.key for sample in SAMPLES])
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_lengths_sum_to_the_true_answer_in_every_family(key: str, data: st.DataObject) -> None:
    hf, model = pair(key)
    i = inputs_for(model, seed=data.draw(st.integers(0, 3)))
    n, depth = len(i.lengths), model.cfg.n_layers * (1 if model.cfg.parallel else 2)
    keep = data.draw(st.none() | st.integers(0, depth))
    by = data.draw(st.sampled_from(["length", "kind"]))
    at = torch.tensor([data.draw(st.integers(0, m - 1)) for m in i.lengths])
    if model.cfg.head == "none":
        target = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            stream = model(i.tokens, attention_mask=i.mask, stop_at_layer=model.cfg.n_layers)
        true = stream[torch.arange(n), at] @ target
    else:
        right, wrong = (torch.tensor([data.draw(st.integers(0, model.cfg.n_out - 1)) for _ in range(n)]) for _ in "ab")
        target = data.draw(st.sampled_from([right, (right, wrong)]))
        logits = hf_logits(hf, i.tokens, i.mask)
        at = None if model.cfg.pooling != "none" else at
        logits = logits if at is None else logits[torch.arange(n), at]
        true = logits[torch.arange(n), right]
        true = true if isinstance(target, Tensor) else true - logits[torch.arange(n), wrong]
    ens = paths.decompose(model, i.tokens, target, at=at, attention_mask=i.mask, keep=keep, by=by)
    assert ens.relative_error <= 1e-4
    # The answer of Hugging Face is itself rounded: a difference of two logits can be a hundredth of either.
    parts = ens.by_prompt.abs().sum(1)
    assert ((ens.total - true.double()).abs() <= 1e-4 * true.double().abs() + 3e-6 * parts + 1e-6).all()
    everything = paths.query(model, i.tokens, ".*", target, at=at, attention_mask=i.mask)
    assert ((everything.contribution - true.double()).abs() <= 1e-4 * true.double().abs() + 3e-6 * parts + 1e-6).all()


def test_the_target_is_read_at_every_position_and_for_each_prompt() -> None:
    c = case("gpt2")
    other = (c.inputs + 7) % c.n_out
    ens = paths.decompose(c.model, torch.cat((c.inputs, other)), torch.tensor([4, 9]), at=torch.tensor([1, -1]))
    for k, row in enumerate(ens.by_position_by_prompt[0]):
        expected = sum(x[:, 4] for word, x in c.words.items() if length(word) == k)
        torch.testing.assert_close(row, expected, rtol=0, atol=TOLERANCE)
    assert ens.at == [1, c.width - 1]
    torch.testing.assert_close(ens.by_prompt[0], ens.by_position_by_prompt[0, :, 1])
    alone = paths.decompose(c.model, other, 9)
    torch.testing.assert_close(ens.by_prompt[1], alone.by_prompt[0])
    torch.testing.assert_close(ens.by_length, (ens.by_prompt[0] + ens.by_prompt[1]) / 2)


def test_a_padded_prompt_says_what_it_says_alone() -> None:
    c = case("bert-masked")
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    short = paths.decompose(c.model, c.inputs[:, :3], 5)
    padded = paths.decompose(c.model, c.inputs, 5, attention_mask=mask)
    assert padded.at == [2]
    torch.testing.assert_close(padded.by_prompt, short.by_prompt)


def test_a_direction_is_read_in_the_last_stream() -> None:
    c = case("llama-grouped")
    direction = torch.randn(c.model.cfg.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ens = paths.decompose(c.model, c.inputs, direction)
    for k, x in enumerate(ens.by_length):
        expected = sum(float((r[-1] @ direction).detach()) for word, r in c.run.words().items() if length(word) == k)
        assert float(x) == pytest.approx(expected, abs=TOLERANCE)
    assert ens.unit == "residual"


def test_half_precision_is_computed_in_single() -> None:
    model = pair("gpt2")[1]
    half = paths.decompose(type(model)(model.cfg, {k: v.bfloat16() for k, v in model.weights().items()}), tokens(), 3)
    assert half.relative_error < 1e-5
    double = paths.decompose(model, tokens(), 3, dtype=torch.float64)
    assert double.relative_error < 1e-13
    torch.testing.assert_close(double.by_prompt, paths.decompose(model, tokens(), 3).by_prompt, rtol=1e-4, atol=1e-5)


def tokens() -> Tensor:
    return torch.tensor([[5, 9, 3, 7, 11, 4]])


def test_the_result_names_what_it_did_and_is_plain_data() -> None:
    ens = paths.decompose(pair("gpt2")[1], tokens(), (3, 8), keep=2)
    found = json.loads(json.dumps(ens.to_dict()))
    assert found["rule"].startswith("frozen")
    assert found["labels"] == ["0", "1", "2", "3+"]
    assert sum(found["by_length"]) == pytest.approx(float(ens.value), rel=1e-4)
    assert found["counts"] == ["1", "8", "22", "33"]  # (1 + 3z)^2 (1 + z)^2
    own = paths.decompose(pair("gpt2")[1], tokens())
    assert own.target == f"logit of {int(pair('gpt2')[1](tokens())[0, -1].argmax())}"


@pytest.mark.parametrize(
    ("options", "said_so"),
    [
        ({"keep": 5}, "passes 4 sublayers; keep 0 to 4, not 5"),
        ({"keep": -1}, "keep 0 to 4, not -1"),
        ({"by": "head"}, "'by' is 'length' or 'kind', not 'head'"),
        ({"biases": "none"}, "'biases' is 'apart' or 'within'"),
        ({"target": 64}, "no token 64: .* has 0 to 63"),
        ({"target": 2.5}, "number or text"),
        ({"target": True}, "number or text"),
        ({"target": (1, 2, 3)}, "a pair"),
        ({"target": torch.tensor([1, 2, 3])}, r"one token for each of the 1 prompts, \[1\]; got \[3\]"),
        ({"target": torch.zeros(7)}, r"d_model = 24 numbers; got a tensor \[7\]"),
        ({"target": torch.full((24,), torch.nan)}, "not finite"),
        ({"at": 6}, "Prompt 0 has no such position: it has 0 to 5"),
        ({"at": 1.5}, "whole number"),
        ({"dtype": torch.bfloat16}, "float32 or float64"),
        ({"tokens": torch.zeros(0, 4, dtype=torch.long)}, "no prompt"),
    ],
)
def test_bad_input_is_one_sentence(options: dict[str, Any], said_so: str) -> None:
    given_ = {"tokens": tokens(), "target": 3} | options
    with pytest.raises(ValueError, match=said_so):
        paths.decompose(pair("gpt2")[1], **given_)


def test_activations_that_are_not_finite_name_the_layer() -> None:
    model = pair("gpt2")[1]
    weights = {name: tensor.clone() for name, tensor in model.weights().items()}
    weights["blocks.1.mlp.out.weight"][0, 0] = torch.inf
    with pytest.raises(ValueError, match="that leave layer 1 of model are not finite"):
        paths.decompose(type(model)(model.cfg, weights), tokens(), 3)


def test_a_model_without_logits_asks_for_a_direction_and_a_classifier_for_no_position() -> None:
    with pytest.raises(ValueError, match="gives no logits; give a direction"):
        paths.decompose(pair("bert")[1], tokens(), 3)
    with pytest.raises(ValueError, match="leave 'at' out"):
        paths.decompose(pair("bert-classes")[1], tokens(), 3, at=1)


def test_an_attention_that_cannot_be_held_is_refused() -> None:
    model = pair("gpt2")[1].with_attention("value-residual")
    with pytest.raises(ValueError, match="value-residual"):
        paths.decompose(model, tokens(), 3)


@pytest.mark.real
def test_on_smollm2_lengths_are_the_coefficients_of_the_answer_as_a_polynomial(smol: Any) -> None:
    """With what every sublayer adds times z, the answer is the sum over k of z^k times what length k carries."""
    from transformers import AutoModelForCausalLM

    from workbench.models.registry import cache_folder

    hf = AutoModelForCausalLM.from_pretrained(cache_folder() / "smollm2-135m", dtype=torch.float64)
    inputs = smol.to_tokens("When Mary and John went to the store, John gave a drink to")
    token = smol.to_single_token(" Mary")
    ens = paths.decompose(smol, inputs, token, dtype=torch.float64)
    assert ens.relative_error < 1e-10
    held = run(hf, {"input_ids": inputs})
    with torch.no_grad():
        for z in (0.2, 0.7, -0.4):
            x = held.start
            for step in held.steps:
                x = x + z * sum(linear(x) for linear, _ in step.parts.values() if linear is not None)
            terms = torch.tensor([z**k for k in range(61)], dtype=torch.float64) * ens.by_length
            assert float(terms.sum()) == pytest.approx(
                float(held.readout(x)[-1, token]), abs=1e-5 * float(terms.abs().sum())
            )


def test_a_stop_is_heard_after_a_block() -> None:
    c = case("llama-grouped")
    for work in (
        lambda progress: paths.decompose(c.model, c.inputs, 3, progress=progress),
        lambda progress: paths.query(c.model, c.inputs, ".*", 3, progress=progress),
        lambda progress: paths.gradient_mass(c.model, c.inputs, 3, progress=progress),
    ):
        seen: list[Progress] = []
        work(seen.append)
        assert [(at.done, at.total) for at in seen] == [(1, 2), (2, 2)]
        with pytest.raises(Stopped):
            work(lambda _: False)
