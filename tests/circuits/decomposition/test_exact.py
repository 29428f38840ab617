"""``exact`` is activation patching: against Hugging Face's own model with hooks, and against taps on ours."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.circuits.decomposition.cases import Inputs, Place, assert_close, draw_place, inputs_for, model_of, pair
from tests.circuits.decomposition.hf_patching import Patching
from workbench.circuits.decomposition import Logits, Similarity, contributions, decompose
from workbench.models import Transformer
from workbench.models.mechanisms import MECHANISMS

FAMILIES = (
    "gpt2",
    "llama-grouped",
    "qwen3",
    "gemma2",
    "gpt-neox",
    "bert",
    "bert-masked",
    "bert-classes",
    "vit-classes",
)


def precise(key: str) -> tuple[Any, Transformer]:
    """Wild weights make rounding larger from layer to layer: float64; but Hugging Face's RMSNorm is always float32."""
    return pair(key, weights="usual") if model_of(key).cfg.norm == "rms" else pair(key, double=True)


def real_only(values: Tensor, inputs: Inputs) -> Tensor:
    """What padding gives, set to 0; a classifier has one answer for each prompt."""
    if values.ndim == 2:
        return values
    real = torch.arange(values.shape[1]) < torch.tensor(inputs.lengths)[:, None]
    return values * real[:, :, None]


@pytest.mark.parametrize("key", FAMILIES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_exact_is_patching_hugging_faces_own_model(key: str, seed: int) -> None:
    hf, model = precise(key)
    rng = random.Random(seed)
    inputs = inputs_for(model, seed)
    reference = Patching(hf, inputs)
    places = [draw_place(rng, model, inputs.lengths) for _ in range(rng.choice([1, 1, 2, 4]))]
    kind = rng.choice(["zero", "mean", "others"])
    clean = reference.answer(reference.run(inputs.tokens)[0])
    patched = reference.answer(reference.patched(places, reference.baseline(kind)))
    found = decompose(
        model,
        inputs.tokens,
        [place.name for place in places],
        rule="exact",
        baseline=inputs.others if kind == "others" else kind,
        attention_mask=inputs.mask,
    )
    clean, patched = real_only(clean, inputs), real_only(patched, inputs)
    size = float(clean.abs().max())
    assert_close(real_only(found.irrelevant, inputs), patched)
    assert_close(real_only(found.relevant, inputs), clean - patched, least=size)


@pytest.mark.parametrize("key", ["gpt2", "llama-grouped", "bert-masked"])
def test_exact_contributions_to_a_logit_difference_are_patched_runs(key: str) -> None:
    hf, model = precise(key)
    inputs = inputs_for(model, 1)
    reference = Patching(hf, inputs)
    right, wrong = torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])
    at, rows = torch.tensor(inputs.lengths) - 1, torch.arange(3)

    def difference(out: object) -> Tensor:
        logits = reference.answer(out)[rows, at]
        return logits[rows, right] - logits[rows, wrong]

    places = [Place("head", 0, 1), Place("head", 1, 2, -1, -1), Place("mlp", 0), Place("resid", 0, 0, 1, 2)]
    expected = [
        difference(reference.run(inputs.tokens)[0]) - difference(reference.patched([place], reference.baseline("zero")))
        for place in [*places]
    ]
    found = contributions(
        model,
        inputs.tokens,
        [place.name for place in places],
        Logits(right, wrong, at),
        rule="exact",
        attention_mask=inputs.mask,
    )
    whole = difference(reference.run(inputs.tokens)[0])
    assert_close(found.whole, whole.float())
    assert_close(found.values, torch.stack(expected).float(), least=float(whole.abs().max()))


@pytest.mark.parametrize("key", ["bert-classes", "roberta-classes", "vit-classes", "deit-teacher"])
def test_exact_contributions_to_a_class_are_runs_without_the_source(key: str) -> None:
    hf, model = precise(key)
    inputs = inputs_for(model, 2)
    labels = torch.tensor([0, 4, 2])
    found = contributions(
        model, inputs.tokens, ["a1.h3", "input@2"], Logits(labels), rule="exact", attention_mask=inputs.mask
    )

    def value(taps: dict | None = None) -> Tensor:
        logits = model(inputs.tokens, taps, attention_mask=inputs.mask)
        return logits[torch.arange(3), labels]

    def without_head(z: Tensor) -> Tensor:
        z[:, :, 3] = 0
        return z

    def without_position(x: Tensor) -> Tensor:
        x[:, 2] = 0
        return x

    with torch.no_grad():
        given = {} if inputs.mask is None else {"attention_mask": inputs.mask}
        logits = hf(inputs.tokens, **given).logits
        expected = [
            value() - value({"blocks.1.attn.hook_z": without_head}),
            value() - value({"blocks.0.hook_resid_pre": without_position}),
        ]
    assert_close(found.whole, logits[torch.arange(3), labels].float())
    assert_close(found.values, torch.stack(expected).float(), least=float(logits.abs().max()))


@pytest.mark.parametrize("key", ["bert", "roberta"])
def test_exact_contributions_to_a_similarity_are_cosines_of_patched_sentences(key: str) -> None:
    hf, model = precise(key)
    inputs = inputs_for(model, 3)
    assert inputs.mask is not None
    vectors = torch.randn(3, model.cfg.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real = inputs.mask[..., None]

    def cosine(taps: dict | None) -> Tensor:
        out = model(inputs.tokens, taps, attention_mask=inputs.mask)
        return torch.cosine_similarity((out * real).sum(1) / real.sum(1), vectors)

    def without(z: Tensor) -> Tensor:
        z[:, :, 1] = 0
        return z

    found = contributions(
        model, inputs.tokens, ["a1.h1"], Similarity(vectors), rule="exact", attention_mask=inputs.mask
    )
    with torch.no_grad():
        out = hf(inputs.tokens, attention_mask=inputs.mask).last_hidden_state
        expected = cosine(None) - cosine({"blocks.1.attn.hook_z": without})
    assert_close(found.whole, torch.cosine_similarity((out * real).sum(1) / real.sum(1), vectors).float())
    assert_close(found.values[0], expected.float(), least=1.0)


@pytest.mark.parametrize("part", ["q", "k", "v", "z", "mlp", "resid"])
@pytest.mark.parametrize("key", ["gpt2", "llama-grouped", "gemma2", "gpt-neox", "bert-masked", "vit-classes"])
def test_exact_contributions_to_a_node_are_shares_of_what_a_patched_run_takes_from_it(key: str, part: str) -> None:
    model = model_of(key, double=True)
    inputs = inputs_for(model, 4)
    layer, head = 1, 2
    hook = {"mlp": f"blocks.{layer}.hook_mlp_out", "resid": "blocks.2.hook_resid_pre"}.get(
        part, f"blocks.{layer}.attn.hook_{part}"
    )
    if part == "resid" and model.cfg.n_layers == 2:
        hook = "blocks.1.hook_resid_post"
    target = {"mlp": f"m{layer}", "resid": "resid2", "z": f"a{layer}.h{head}"}.get(part, f"a{layer}.h{head}<{part}>")

    def read(taps: dict | None) -> Tensor:
        _, cache = model.run_with_cache(inputs.tokens, [hook], taps=taps, attention_mask=inputs.mask)
        found = cache[hook]
        if part in ("mlp", "resid"):
            return found[:, 1:3]
        index = head // model.cfg.group_size if part in ("k", "v") else head
        return found[:, 1:3, index]

    def without(z: Tensor) -> Tensor:
        z[:, :, 0] = 0
        return z

    with torch.no_grad():
        whole, patched = read(None).flatten(1), read({"blocks.0.attn.hook_z": without}).flatten(1)
    found = contributions(model, inputs.tokens, ["a0.h0"], f"{target}@1-2", rule="exact", attention_mask=inputs.mask)
    expected = ((whole - patched) * whole).sum(1) / whole.square().sum(1)
    assert_close(found.values[0], expected.float(), least=1.0)
    assert torch.equal(found.whole, torch.ones(3))


@pytest.mark.parametrize("target", ["m1", "a1.h0", "a1.h0<k>"])
def test_a_node_is_read_at_real_positions_alone(target: str) -> None:
    model = model_of("bert-masked", double=True)
    inputs = inputs_for(model, 6)
    together = contributions(model, inputs.tokens, ["a0"], target, rule="exact", attention_mask=inputs.mask)
    for row, n in enumerate(inputs.lengths):
        alone = contributions(model, inputs.tokens[row : row + 1, :n], ["a0"], target, rule="exact")
        assert_close(together.values[:, row], alone.values[:, 0], least=1.0)


@pytest.mark.parametrize("some", [False, True], ids=["all-heads", "some-heads"])
@pytest.mark.parametrize("mechanism", [m.key for m in MECHANISMS if m.values is None])
def test_exact_is_patching_whatever_the_attention_mechanism(mechanism: str, some: bool) -> None:
    for key in ("llama-grouped", "bert-masked"):
        plain = model_of(key, double=True)
        model = plain.with_attention(mechanism, heads=[(0, 1), (1, 0), (1, 3)] if some else None)
        generator = torch.Generator().manual_seed(0)
        for block in model.blocks:
            for parameter in block.attn.learned.values():
                parameter.data = parameter + 0.1 * torch.rand(parameter.shape, generator=generator)
        inputs = inputs_for(model, 5)
        check_patching(model, inputs)


def check_patching(model: Transformer, inputs: Inputs) -> None:
    """A head at one position, by another run of the same model with a tap."""

    def without(z: Tensor) -> Tensor:
        z[:, 1, 2] = 0
        return z

    found = decompose(model, inputs.tokens, ["a0.h2@1"], rule="exact", attention_mask=inputs.mask)
    with torch.no_grad():
        patched = model(inputs.tokens, {"blocks.0.attn.hook_z": without}, attention_mask=inputs.mask)
    assert_close(real_only(found.irrelevant, inputs), real_only(patched, inputs))
    assert float(found.relevant.abs().max()) > 1e-3
