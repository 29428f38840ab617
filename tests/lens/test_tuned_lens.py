"""The tuned lens on a model whose one layer is a known rotation, and as a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import digits
from workbench import lens
from workbench.circuits.progress import Progress
from workbench.models import ModelConfig, Transformer, fresh, from_hf
from workbench.models.families.samples import find

D = 6
TOKENS = torch.randint(0, 40, (24, 10), generator=torch.Generator().manual_seed(0))


def rotation() -> Tensor:
    return torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(5)))[0]


def rotating() -> Transformer:
    """One layer that turns the stream: no attention, and an MLP of relu(x) - relu(-x) that adds ``(R - 1) x``."""
    cfg = ModelConfig(
        family="gpt2", n_layers=1, n_heads=1, n_key_value_heads=1, d_model=D, d_head=D, d_mlp=2 * D, d_vocab=40,
        n_ctx=16, norm="none", norm_eps=1e-5, act_fn="relu", gated_mlp=False, positions="learned", attn_scale=1.0,
        tied=False,
    )  # fmt: skip
    model = fresh(cfg, name="rotating")
    draw = torch.Generator().manual_seed(1)
    block = model.blocks[0]
    assert block.mlp is not None
    assert model.pos_embed is not None
    model.embed.weight.copy_(torch.randn(40, D, generator=draw))
    model.unembedding.weight.copy_(torch.randn(40, D, generator=draw))
    model.pos_embed.weight.zero_()
    block.attn.o.weight.zero_()
    block.mlp.up.weight.copy_(torch.cat([torch.eye(D), -torch.eye(D)]))
    change = rotation() - torch.eye(D)
    block.mlp.out.weight.copy_(torch.cat([change, -change], 1))
    return model


@pytest.fixture(scope="module")
def trained() -> tuple[Transformer, lens.TunedLens]:
    model = rotating()
    return model, lens.train_lens(model, TOKENS, steps=300, positions=80, texts=8, lr=0.05)


def test_a_layer_that_is_a_rotation_is_learned(trained: tuple[Transformer, lens.TunedLens]) -> None:
    model, found = trained
    learned = found.weights["matrix"][0] + torch.eye(D)
    assert float((learned - rotation()).norm() / rotation().norm()) < 0.02
    assert float(found.weights["bias"].norm()) < 0.1
    before, after = (lens.logit_lens(model, TOKENS[-4:], translator=through).kl[0].mean() for through in (None, found))
    assert float(before) > 1
    assert float(after) < 1e-3


def test_what_was_held_out_is_reported_before_and_after_with_intervals(
    trained: tuple[Transformer, lens.TunedLens],
) -> None:
    model, found = trained
    (held,) = found.held_out
    # The six last rows, 80 positions at most: all of them.
    wanted = lens.logit_lens(model, TOKENS[-6:]).kl[0].mean()
    assert held.place == "embed"
    assert held.before[0] == pytest.approx(float(wanted), rel=1e-4)
    assert held.before[1] < held.before[0] < held.before[2]
    assert held.gain[1] > 0
    assert found.complete
    assert not found.state
    assert json.loads(json.dumps(found.to_dict()))["held_out"][0]["place"] == "embed"


def test_a_low_rank_learns_too_but_not_all() -> None:
    """Of a rotation of six dimensions, two directions."""
    model = rotating()
    found = lens.train_lens(model, TOKENS, steps=150, positions=80, texts=8, lr=0.05, rank=2)
    (held,) = found.held_out
    assert 0.05 < held.after[0] < held.before[0]
    made = found.weights["up"][0] @ found.weights["down"][0]
    assert int(torch.linalg.matrix_rank(made, rtol=1e-4)) == 2


def test_untrained_it_is_the_logit_lens_and_the_last_layer_stays_the_model() -> None:
    model = from_hf(find("llama-grouped").model())
    found = lens.train_lens(model, TOKENS, steps=1, lr=1e-9, held_out=0.0)
    for sub in (found, replace(found, weights={k: x + 0.1 for k, x in found.weights.items()})):
        read = lens.logit_lens(model, TOKENS[:2], translator=sub)
        logits = model(TOKENS[:2]).log_softmax(-1)
        assert read.title == "tuned lens"
        torch.testing.assert_close(read.top_probs[-1, ..., 0], logits.exp().amax(-1), rtol=1e-4, atol=1e-6)
    plain = lens.logit_lens(model, TOKENS[:2])
    torch.testing.assert_close(lens.logit_lens(model, TOKENS[:2], translator=found).kl, plain.kl, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [None, 2])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(tmp_path: Path, rank: int | None) -> None:
    model = from_hf(find("llama-grouped").model(weights="usual"))
    options: dict[str, Any] = {"steps": 6, "positions": 12, "rank": rank, "held_out": 0.25}
    whole = lens.train_lens(model, TOKENS, **options)

    def stop(progress: Progress) -> bool:
        return progress.done < 3

    kept: list[lens.TunedLens] = []
    part = lens.train_lens(model, TOKENS, progress=stop, keep=kept.append, **options)
    assert (part.steps, part.complete, part.held_out) == (3, False, ())
    assert kept[-1].steps == 3
    read = lens.load_lens(part.save(tmp_path / "part.safetensors"), model)
    rest = lens.train_lens(model, TOKENS, resume=read, **options)
    for name, x in whole.weights.items():
        assert torch.equal(rest.weights[name], x)
    assert rest.history == whole.history
    assert rest.held_out == whole.held_out
    unjudged = lens.train_lens(model, TOKENS, progress=lambda progress: progress.done < 6, **options)
    assert (unjudged.complete, unjudged.held_out) == (True, ())
    assert lens.train_lens(model, TOKENS, resume=unjudged, **options).held_out == whole.held_out


def test_what_is_resumed_must_be_the_same_training_and_unfinished() -> None:
    model = rotating()
    part = lens.train_lens(model, TOKENS, steps=4, progress=lambda _: False)
    with pytest.raises(ValueError, match="other settings or texts"):
        lens.train_lens(model, TOKENS, steps=5, resume=part)
    with pytest.raises(ValueError, match="other settings or texts"):
        lens.train_lens(model, TOKENS[:20], steps=4, resume=part)
    done = lens.train_lens(model, TOKENS, steps=4, resume=part)
    with pytest.raises(ValueError, match="complete; there is nothing to resume"):
        lens.train_lens(model, TOKENS, steps=4, resume=done)


def test_a_file_comes_back_as_it_was_and_another_model_is_refused(
    trained: tuple[Transformer, lens.TunedLens], tmp_path: Path
) -> None:
    model, found = trained
    path = found.save(tmp_path / "deep" / "lens.safetensors")
    again = lens.load_lens(path, model)
    assert again.to_dict() == found.to_dict()
    assert torch.equal(again.weights["matrix"], found.weights["matrix"])
    other = rotating()
    other.embed.weight[0, 0] += 1
    with pytest.raises(ValueError, match=r"was trained on 'rotating' \(\w{16}\), not on 'rotating' \(\w{16}\)"):
        lens.load_lens(path, other)
    with pytest.raises(ValueError, match="was trained on"):
        lens.logit_lens(other, TOKENS[:1], translator=found)
    with pytest.raises(ValueError, match="was trained on"):
        lens.train_lens(other, TOKENS, resume=found)
    with pytest.raises(ValueError, match="reads behind whole layers"):
        lens.logit_lens(model, TOKENS[:1], translator=found, sublayers=True)


def test_files_that_hold_no_lens_are_refused_by_one_sentence(
    trained: tuple[Transformer, lens.TunedLens], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    model, found = trained
    with pytest.raises(ValueError, match="There is no file"):
        lens.load_lens(tmp_path / "none", model)
    damaged = found.save(tmp_path / "damaged")
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(ValueError, match="could not be read"):
        lens.load_lens(damaged, model)
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="holds no tuned lens"):
        lens.load_lens(tmp_path / "other", model)
    wrong = replace(found, weights={**found.weights, "bias": torch.full((1, D), torch.nan)})
    with pytest.raises(ValueError, match="do not fit rotating, or are not finite"):
        lens.load_lens(wrong.save(tmp_path / "wrong"), model)


def test_a_classifier_of_images_has_a_lens() -> None:
    model = digits.vision()
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = lens.train_lens(model, images, steps=30, texts=6, lr=1e-2, held_out=images)
    assert found.places == ("embed", "m0", "m1")
    assert sum(one.gain[0] for one in found.held_out) > 0
    assert found.history[-1] < found.history[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps is at least 1; got 0"),
        ({"rank": 7}, "The rank lies between 1 and 6"),
        ({"lr": 0}, "The rate lr lies between 0 and 1"),
        ({"held_out": 1.0}, "The held-out share lies from 0 to below 1"),
        ({"held_out": 0.99}, "none is left to train on"),
    ],
)
def test_bad_input_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lens.train_lens(rotating(), TOKENS, **options)


def test_texts_are_read_in_windows(model: Transformer) -> None:
    text = "When Mary and John went to the store, John gave a drink to Mary. " * 6
    found = lens.train_lens(model, [text], steps=2, width=16, positions=8)
    assert found.steps == 2
    assert len(found.held_out) == model.cfg.n_layers
    with pytest.raises(ValueError, match="reads at most 40 tokens; give a smaller width than 64"):
        lens.train_lens(model, [text])
    with pytest.raises(ValueError, match="No text has 39 tokens"):
        lens.train_lens(model, ["When Mary"], width=39)
    with pytest.raises(ValueError, match="gives vectors"):
        lens.train_lens(digits.encoder(), ["When Mary"])
