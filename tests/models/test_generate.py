"""Writing on with kept keys and values, and vectors of whole texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import micro
from tests.models.test_variants import DECODER
from workbench.models import Past, Transformer, from_hf, load, sentence_embeddings

DECODERS = ["llama-grouped", "gpt2", "gpt-neo", "gpt-neox", "mistral", "qwen3", "gemma2", "gemma3", "phi", "opt"]


@pytest.mark.parametrize("kind", DECODERS)
def test_text_goes_on_as_hugging_face_writes_it(kind: str) -> None:
    hf = micro.hugging_face(kind)
    model = from_hf(hf)
    tokens = torch.randint(3, 64, (2, 7), generator=torch.Generator().manual_seed(1))
    theirs = hf.generate(tokens, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(model.generate(tokens, 9, stop_at=-1), theirs)
    assert torch.equal(model.generate(tokens, 9, stop_at=-1, use_past=False), theirs)


@pytest.mark.parametrize("kind", DECODERS)
def test_any_way_of_cutting_a_text_into_calls_gives_the_same_logits_and_activations(kind: str) -> None:
    model = from_hf(micro.hugging_face(kind))
    tokens = torch.randint(0, 64, (2, 11), generator=torch.Generator().manual_seed(2))
    names = ["blocks.1.attn.hook_pattern", "blocks.1.hook_resid_post"]
    whole, cache = model.run_with_cache(tokens, names)
    past, begin = Past(), 0
    for end in (1, 4, 5, 11):
        part, kept = model.run_with_cache(tokens[:, begin:end], names, past=past)
        torch.testing.assert_close(part, whole[:, begin:end], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept["resid_post", 1], cache["resid_post", 1][:, begin:end], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept["pattern", 1], cache["pattern", 1][:, :, begin:end, :end], atol=1e-5, rtol=1e-4)
        begin = end
    assert len(past) == 11


def test_a_tap_works_at_every_step(model: Transformer) -> None:
    tokens = model.to_tokens("When Mary and John went")
    taps = {"blocks.0.attn.hook_z": lambda z: z * 0.5, "blocks.1.hook_mlp_out": lambda x: -x}
    kept = model.generate(tokens, 8, taps=taps, stop_at=-1)
    assert torch.equal(kept, model.generate(tokens, 8, taps=taps, stop_at=-1, use_past=False))
    assert not torch.equal(kept, model.generate(tokens, 8, stop_at=-1))


def test_texts_of_unlike_length_are_padded_on_the_left(model: Transformer) -> None:
    one, two = model.to_tokens("When Mary"), model.to_tokens("When Mary and John went to")
    pad = two.shape[1] - one.shape[1]
    both = torch.cat((torch.cat((torch.zeros(1, pad, dtype=torch.long), one), 1), two))
    mask = torch.ones_like(both)
    mask[0, :pad] = 0
    out = model.generate(both, 6, attention_mask=mask, stop_at=-1)
    assert torch.equal(out[0, pad:], model.generate(one, 6, stop_at=-1)[0])
    assert torch.equal(out[1], model.generate(two, 6, stop_at=-1)[0])


def test_drawing_is_repeatable_and_follows_the_settings(model: Transformer) -> None:
    tokens = model.to_tokens("When Mary and John")
    one = model.generate(tokens, 10, temperature=1.0, seed=1, stop_at=-1)
    assert torch.equal(one, model.generate(tokens, 10, temperature=1.0, seed=1, stop_at=-1))
    assert not torch.equal(one, model.generate(tokens, 10, temperature=1.0, seed=2, stop_at=-1))
    likeliest = model.generate(tokens, 10, stop_at=-1)
    assert torch.equal(model.generate(tokens, 10, temperature=1.0, top_k=1, stop_at=-1), likeliest)


def test_a_text_ends_at_its_end_token_and_a_step_can_stop_it(model: Transformer) -> None:
    tokens = model.to_tokens("When Mary and John")
    first = int(model.generate(tokens, 1, stop_at=-1)[0, -1])
    assert model.generate(tokens, 9, stop_at=first).shape[1] == tokens.shape[1] + 1
    steps: list[int] = []
    out = model.generate(tokens, 9, stop_at=-1, step=lambda done, total: steps.append(done) or done == 3)
    assert steps == [1, 2, 3]
    assert out.shape[1] == tokens.shape[1] + 3


def test_a_failed_call_leaves_the_past_as_it_was(model: Transformer) -> None:
    past = Past()
    tokens = model.to_tokens("When Mary and John went to")
    model(tokens[:, :3], past=past)

    def fail(x: torch.Tensor) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        model(tokens[:, 3:], {"blocks.1.attn.hook_z": fail}, past=past)
    assert len(past) == 3
    torch.testing.assert_close(model(tokens[:, 3:], past=past), model(tokens)[:, 3:], atol=1e-5, rtol=1e-5)


def test_what_cannot_be_written_on_is_said_in_one_sentence(model: Transformer) -> None:
    from workbench.models import fresh

    tokens = model.to_tokens("When Mary")
    with pytest.raises(ValueError, match="more than the 40 that"):
        model.generate(tokens, 39)
    with pytest.raises(ValueError, match="at least 1 new token"):
        model.generate(tokens, 0)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        model.generate(tokens, 2, temperature=-1.0)
    with pytest.raises(ValueError, match="padded on the left"):
        model.generate(tokens, 2, attention_mask=torch.tensor([[1, 0]]))
    encoder = fresh(__import__("dataclasses").replace(DECODER, causal=False, head="none", tied=False))
    with pytest.raises(ValueError, match="does not predict the next token"):
        encoder.generate(torch.zeros(1, 3, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="needs the whole text at once"):
        encoder(torch.zeros(1, 3, dtype=torch.long), past=Past())
    past = Past()
    model(tokens, past=past)
    with pytest.raises(ValueError, match="use one cache for one batch"):
        model(tokens.repeat(2, 1), past=past)


@pytest.fixture(scope="module")
def minilm() -> Transformer:
    return load("minilm-l6")


@pytest.mark.real
def test_sentence_vectors_are_those_of_sentence_transformers_recipe(minilm: Transformer) -> None:
    from transformers import AutoModel, AutoTokenizer

    from workbench.models import registry

    folder = registry.get("minilm-l6")
    texts = ["A man is eating food.", "A man eats a piece of bread, they say.", "The sky is blue"]
    hf: Any = AutoModel.from_pretrained(folder)
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, real = hf(**batch).last_hidden_state, batch["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)
    ours = sentence_embeddings(minilm, texts)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert ours[0] @ ours[1] > 0.6 > 0.2 > ours[0] @ ours[2]
    # Padding is seen in the tokens themselves: a text in a batch is what it is alone.
    torch.testing.assert_close(sentence_embeddings(minilm, texts[2])[0], ours[2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        minilm(minilm.to_tokens(texts))[2, :6], minilm(minilm.to_tokens(texts[2]))[0], atol=1e-4, rtol=1e-4
    )


@pytest.mark.real
def test_pairs_of_texts_have_two_token_types(minilm: Transformer) -> None:
    given = minilm.to_inputs([("Who wrote it?", "Mary did."), "One text"])
    assert given["token_types"][0].tolist() == [0] * 6 + [1] * 4
    assert given["attention_mask"].sum(1).tolist() == [10, 4]
    assert not torch.allclose(
        minilm(**given)[0], minilm(given["tokens"], attention_mask=given["attention_mask"])[0], atol=1e-3
    )
    with pytest.raises(ValueError, match="is no encoder of text"):
        sentence_embeddings(load(micro_folder_of_a_decoder()), "x")


def micro_folder_of_a_decoder() -> str:
    return "smollm2-135m"
