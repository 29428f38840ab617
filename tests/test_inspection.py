"""Inspection: what a model is, what it answers, and what a swap of the mechanism changes."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from tests import digits, micro
from workbench import inspection
from workbench.inspection import (
    compare,
    facts,
    is_native,
    kind_of,
    n_samples,
    picture,
    pixels_of,
    read,
    sample,
    see,
    shown,
    swapped,
)
from workbench.models import Transformer, fresh, from_hf, load, registry
from workbench.models.parity import Parity

TEXT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def encoder() -> Transformer:
    return digits.encoder()


@pytest.fixture(scope="module")
def vision() -> Transformer:
    return digits.vision()


def seen(model: Transformer, number: int = 3) -> inspection.Given:
    pixels, title = sample(model, number)
    return see(model, pixels, title)


# -- what a model is ------------------------------------------------------------------------------------------


def test_the_kind_follows_from_the_configuration(model, encoder, vision) -> None:
    assert [kind_of(m.cfg) for m in (model, encoder, vision)] == ["decoder", "encoder", "vision"]


def test_facts_say_sizes_in_words(model, encoder, vision) -> None:
    told = facts(model)
    assert told["Layers"] == "2"
    assert told["Heads"] == "4 a layer of width 8, sharing 2 of keys and values"
    assert told["Attention"] == "softmax; causal"
    assert f"{model.cfg.d_vocab:,} tokens, tied" in told["Gives"]
    assert facts(encoder)["Gives"] == "the residual stream (no logits)"
    assert facts(encoder)["Attention"].endswith("both ways")
    assert facts(vision)["Reads"] == "8x8 pixels, grey, as 16 patches of 2x2 after cls"
    assert facts(vision)["Gives"] == "logits of 10 classes"


@pytest.mark.parametrize("kind", [*micro.KINDS, *micro.OTHERS])
def test_facts_are_told_of_every_family(kind: str) -> None:
    assert all(facts(from_hf(micro.hugging_face(kind))).values())


def test_facts_count_parameters_once_where_embedding_and_unembedding_are_one(model) -> None:
    assert facts(model)["Parameters"].startswith(f"{sum(p.numel() for p in model.parameters()):,} in float32")


def test_facts_say_where_a_swapped_mechanism_is(model) -> None:
    told = facts(model.with_attention("temperature", heads=[(0, 1)], temperature=2))["Attention"]
    assert told.startswith("temperature, temperature 2 in 1 of 8 heads")


def test_only_models_made_here_have_no_counterpart(tmp_path, micro_folder, vision) -> None:
    assert not is_native("smollm2-135m")
    assert is_native("digits-vit")
    assert not is_native(str(micro_folder))
    folder = str(digits.saved(vision, tmp_path))
    assert is_native(folder)
    with pytest.raises(ValueError, match="nothing to compare it with"):
        inspection.parity(folder)


def test_parity_in_words(micro_folder) -> None:
    words = inspection.parity_words(inspection.parity(str(micro_folder)))
    assert words.startswith("Compared with Hugging Face over 2 layers and ")
    apart = Parity(1e-6, 2e-6, 3e-7, 4e-6, "float32", 9, 2)
    assert "differ by at most 4.0e-06 of their own spread, attention patterns by at most 3.0e-07" in (
        inspection.parity_words(apart)
    )
    assert "same to the last bit" in inspection.parity_words(Parity(0, 0, 0, None, "float32", 9, 2))
    assert "nan" in inspection.parity_words(replace(apart, logits=math.nan))


# -- what it is given -----------------------------------------------------------------------------------------


def test_a_text_has_a_name_for_each_token(model) -> None:
    given = read(model, TEXT)
    assert given.tensor.shape == (1, len(given.names))
    assert "".join(given.names) == TEXT


def test_a_model_without_tokenizer_reads_numbers(model) -> None:
    bare = fresh(model.cfg)
    assert read(bare, " 3, 14 15").tensor.tolist() == [[3, 14, 15]]
    for wrong in ("a b", "", "1.5", "-1"):
        with pytest.raises(ValueError, match="write token numbers from 0 to"):
            read(bare, wrong)


@pytest.mark.parametrize(("text", "words"), [("", "empty"), (" the" * 60, "reads at most 40")])
def test_a_text_that_cannot_be_read_is_one_sentence(model, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(model, text)


def test_an_input_whose_patterns_are_too_many_is_refused(model, monkeypatch) -> None:
    monkeypatch.setattr("workbench.inspection.inputs.MOST_WEIGHTS", 8 * 5 * 5)
    with pytest.raises(ValueError, match="at most 5 can be looked at together"):
        read(model, TEXT)


def test_the_wrong_kind_of_input_is_said(model, vision) -> None:
    with pytest.raises(ValueError, match="reads images"):
        read(vision, TEXT)
    with pytest.raises(ValueError, match="reads text"):
        pixels_of(model, Image.new("L", (8, 8)))
    assert n_samples(model) == 0


def test_samples_are_held_out_digits_with_their_names(vision) -> None:
    n = n_samples(vision)
    assert n > 300
    pixels, title = sample(vision, n - 1)
    assert pixels.shape == (1, 1, 8, 8)
    assert title in "0123456789"
    with pytest.raises(ValueError, match=f"samples 0 to {n - 1}, not {n}"):
        sample(vision, n)


def test_other_models_get_the_samples_in_their_own_size() -> None:
    large = digits.vision(height=12, width=12, patch_height=3, patch_width=3)
    assert sample(large, 0)[0].shape == (1, 1, 12, 12)
    colour = digits.vision(channels=3)
    pixels, title = sample(colour, 0)
    assert pixels.shape == (1, 3, 8, 8)
    assert title == "a flower"
    assert n_samples(colour) == 2


def test_a_picture_is_resized_and_scaled_and_can_be_inverted(vision) -> None:
    white = Image.new("RGB", (40, 30), "white")
    assert pixels_of(vision, white).unique().tolist() == [1.0]
    assert pixels_of(vision, white, invert=True).unique().tolist() == [0.0]
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert pixels_of(vision, clear).unique().tolist() == [1.0]


def test_a_file_is_read_or_refused_in_one_sentence(monkeypatch) -> None:
    buffer = io.BytesIO()
    Image.new("L", (9, 7)).save(buffer, "PNG")
    assert picture(buffer.getvalue()).size == (9, 7)
    for broken in (b"", b"hello", buffer.getvalue()[:40]):
        with pytest.raises(ValueError, match="image"):
            picture(broken)
    monkeypatch.setattr("workbench.inspection.inputs.MOST_PIXELS", 50)
    with pytest.raises(ValueError, match="9x7 pixels"):
        picture(buffer.getvalue())


def test_an_image_is_shown_as_a_person_sees_it(vision) -> None:
    pixels, _ = sample(vision, 0)
    assert torch.equal(shown(vision, pixels), pixels[0])
    spread = shown(vision, pixels * 4 - 2)
    assert (spread.min(), spread.max()) == (0, 1)


# -- a run ----------------------------------------------------------------------------------------------------


def test_patterns_and_output_are_the_model_s(model) -> None:
    given = read(model, TEXT)
    found = inspection.look(model, given)
    logits, cache = model.run_with_cache(given.tensor)
    torch.testing.assert_close(found.output, logits[0])
    for layer in range(2):
        torch.testing.assert_close(found.patterns[layer], cache["pattern", layer][0])


def test_entropy_sink_and_zeros_are_means_over_queries(model) -> None:
    found = inspection.look(model, read(model, TEXT))
    row = found.patterns[1, 2]
    expected = sum(-float((p[p > 0] * p[p > 0].log()).sum()) for p in row) / len(row)
    assert float(found.entropy[1, 2]) == pytest.approx(expected, abs=1e-5)
    assert float(found.first[1, 2]) == pytest.approx(float(row[1:, 0].mean()))
    assert float(found.zeros.max()) == 0


def test_what_a_window_hides_is_no_exact_zero() -> None:
    hf = micro.hugging_face("mistral")
    model = from_hf(hf)
    given = inspection.Given(torch.arange(12)[None], tuple(map(str, range(12))))
    assert float(inspection.look(model, given).zeros.max()) == 0
    changed = swapped(model, "sparsemax")
    assert changed is not None
    assert 0 < float(inspection.look(changed, given).zeros.mean()) < 1


def test_the_loss_is_that_of_the_next_token(model) -> None:
    given = read(model, TEXT)
    found = inspection.look(model, given)
    expected = torch.nn.functional.cross_entropy(model(given.tensor)[0, :-1], given.tensor[0, 1:])
    assert found.loss == pytest.approx(float(expected))


# -- a swap ---------------------------------------------------------------------------------------------------


def test_a_swap_for_what_the_model_has_is_none(model) -> None:
    assert swapped(model, "softmax") is None
    changed = swapped(model, "temperature", [(0, 0)], {"temperature": 2.0})
    assert changed is not None
    assert swapped(changed, "softmax") is not None


def test_only_the_chosen_head_and_what_comes_after_it_moves(model) -> None:
    given = read(model, TEXT)
    found = compare(model, given, swapped(model, "sparsemax", [(0, 2)]))
    moved = found.change
    assert moved is not None
    assert moved[0].nonzero().flatten().tolist() == [2]
    assert (moved[1] > 0).all()
    assert found.swap == "Sparsemax in head 0.2"
    assert found.head_numbers(0, 2)["zeros"][1] > 0


@pytest.mark.parametrize("kind", ["decoder", "encoder", "vision"])
def test_the_same_mechanism_under_another_name_changes_nothing(kind: str, model, encoder, vision) -> None:
    used = {"decoder": model, "encoder": encoder, "vision": vision}[kind]
    given = seen(used) if kind == "vision" else read(used, TEXT)
    found = compare(used, given, swapped(used, "temperature"))
    assert found.change is not None
    assert float(found.change.max()) < 1e-5
    for one in found.effects:
        expected = one.before if one.before is not None else (1.0 if one.unit == "cosine" else 0.0)
        assert one.after == pytest.approx(expected, abs=1e-4), one.name
    assert all(one.after == pytest.approx(one.before, abs=1e-5) for one in found.answers)


def test_answers_are_the_best_of_both_runs_the_most_probable_first(model) -> None:
    given = read(model, TEXT)
    found = compare(model, given, swapped(model, "relu"), k=3)
    before, after = (look.output[-1].softmax(-1) for look in (found.before, found.after))
    best = {*before.topk(3).indices.tolist(), *after.topk(3).indices.tolist()}
    assert {one.index for one in found.answers} == best
    largest = [max(one.before, one.after) for one in found.answers]
    assert largest == sorted(largest, reverse=True)
    for one in found.answers:
        assert one.before == pytest.approx(float(before[one.index]))
        assert one.text == model.to_str_tokens([one.index])[0]


def test_answers_are_read_where_asked(model) -> None:
    given = read(model, TEXT)
    found = compare(model, given, position=2)
    assert found.position == 2
    assert found.answers[0].index == int(model(given.tensor)[0, 2].argmax())
    with pytest.raises(ValueError, match="no position 99"):
        compare(model, given, position=99)


def test_classes_have_their_names(vision) -> None:
    given = seen(vision)
    found = compare(vision, given)
    assert found.answers[0].text == str(int(vision(given.tensor)[0].argmax()))
    assert sum(one.before for one in compare(vision, given, k=10).answers) == pytest.approx(1)
    assert found.prefix == ("cls",)
    assert found.grid == (4, 4)
    assert "Loss" not in {one.name for one in found.effects}


def test_an_encoder_without_logits_is_compared_by_its_embedding(encoder) -> None:
    found = compare(encoder, read(encoder, TEXT), swapped(encoder, "sparsemax"))
    assert found.answers == []
    (effect,) = found.effects
    means = [encoder(read(encoder, TEXT).tensor)[0].mean(0), found.after.output.mean(0)]
    assert effect.after == pytest.approx(float(torch.cosine_similarity(*means, dim=0)), abs=1e-5)
    assert effect.after < 0.9999


def test_a_masked_language_model_is_read_at_its_mask() -> None:
    text = micro.tokenizer()
    text.add_special_tokens({"mask_token": "[MASK]"})
    cfg = replace(digits.encoder().cfg, head="unembed", d_vocab=len(text))
    model = fresh(cfg, tokenizer=text)
    given = read(model, "Mary gave [MASK] a drink")
    assert given.names[compare(model, given).position] == "[MASK]"


@pytest.mark.parametrize("key", ["relu", "sigmoid", "clipped", "softpick", "differential", "sinkhorn", "gated"])
def test_mechanisms_whose_rows_need_not_sum_to_one_give_finite_numbers(key: str, model) -> None:
    found = compare(model, read(model, TEXT), swapped(model, key))
    assert found.after is not None
    assert torch.isfinite(found.after.entropy).all()
    assert ((found.after.zeros >= 0) & (found.after.zeros <= 1)).all()


def test_a_comparison_is_json_without_the_patterns(model) -> None:
    found = compare(model, read(model, TEXT), swapped(model, "sparsemax", [(1, 0), (1, 1)]))
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["swap"] == "Sparsemax in heads 1.0, 1.1"
    assert len(told["heads"]["change"]) == 2
    assert told["answers"][0].keys() == {"index", "text", "before", "after"}


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        (None, "all heads"),
        ([(1, h) for h in range(4)], "layer 1"),
        ([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)], "5 heads"),
        ([(a, b) for a in range(2) for b in range(4)], "all heads"),
    ],
)
def test_a_swap_is_described_by_where_it_is(model, heads, words: str) -> None:
    changed = swapped(model, "temperature", heads, {"temperature": 2.0})
    assert changed is not None
    assert inspection.describe(changed.cfg) == f"Temperature (temperature 2) in {words}"


# -- the models with a name -----------------------------------------------------------------------------------


@pytest.mark.parametrize("record", registry.MODELS, ids=lambda record: record.key)
def test_a_named_model_is_of_its_kind_and_reads_its_example(record: registry.NamedModel) -> None:
    if not registry.installed(record.key):
        pytest.skip("not on this machine")
    named = load(record.key)
    assert kind_of(named.cfg) == record.kind
    if record.example:
        assert "[UNK]" not in read(named, record.example).names


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("smollm2-135m", " Mary"),
        ("induction-2l", "music"),
        ("modular-addition", str((57 + 88) % 113)),
        ("five-digit-addition", str(61803 + 57721)[0]),
    ],
)
def test_the_first_look_at_a_named_model_gives_something_true(key: str, answer: str) -> None:
    if not registry.installed(key):
        pytest.skip("not on this machine")
    named = load(key)
    (first, *_) = compare(named, read(named, registry.find(key).example)).answers
    assert first.text == answer
    assert first.before > 0.5


def test_the_digits_model_reads_the_samples() -> None:
    if not registry.installed("digits-vit"):
        pytest.skip("not on this machine")
    named = load("digits-vit")
    right = [compare(named, seen(named, n)).answers[0].text == sample(named, n)[1] for n in range(40)]
    assert sum(right) >= 36
