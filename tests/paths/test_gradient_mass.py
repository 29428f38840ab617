"""The gradient by path length, against automatic differentiation of the model and of enumerated paths."""

from __future__ import annotations

import json

import pytest
import torch

from tests.circuits.decomposition.cases import pair
from tests.paths.cases import ENUMERATED, TOLERANCE, case, length
from workbench import paths
from workbench.paths.gradient_mass import gradients
from workbench.paths.prompts import ready
from workbench.paths.targets import resolve


@pytest.mark.parametrize("key", ENUMERATED)
def test_the_held_gradient_of_each_length_is_that_of_its_paths(key: str) -> None:
    c = case(key)
    start = c.run.start.clone().requires_grad_()
    found = paths.gradient_mass(c.model, c.inputs, 4, rule="frozen")
    for k in range(found.mass.shape[1]):
        said = sum(c.run.readout(x) for w, x in c.run.words(start).items() if w[0] == "embed" and length(w) == k)
        said = said[4] if c.once else said[-1, 4]
        (gradient,) = torch.autograd.grad(said, start)
        assert float(found.mass[0, k]) == pytest.approx(float(gradient.norm()), abs=TOLERANCE)
        torch.testing.assert_close(
            found.by_source[0, k], (gradient * c.run.start).sum(-1), rtol=0, atol=TOLERANCE, check_dtype=False
        )


@pytest.mark.parametrize("key", ["gpt2", "gemma2", "bert-masked", "gpt-neox", "vit-classes", "qwen3"])
def test_the_real_gradients_of_all_lengths_sum_to_the_gradient_of_the_model(key: str) -> None:
    model = pair(key, double=True)[1]
    tokens = torch.tensor([[5, 9, 3, 7]])
    if model.cfg.image is not None:
        tokens = torch.randn(1, 1, 12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prompts = ready(model, tokens)
    stream = prompts.resid[0][0].clone().requires_grad_()
    out = model(stream)
    (expected,) = torch.autograd.grad(out[0, 3] if model.cfg.pooling != "none" else out[0, -1, 3], stream)
    depth = model.cfg.n_layers * (1 if model.cfg.parallel else 2)
    by_length, whole = gradients(prompts, resolve(3, prompts), depth, "tangent")
    torch.testing.assert_close(by_length.sum(0), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(whole, expected, rtol=1e-6, atol=1e-9)
    few, _ = gradients(prompts, resolve(3, prompts), 2, "tangent")
    torch.testing.assert_close(few, by_length[:3])


def test_shares_sum_to_one_and_bad_words_are_refused() -> None:
    model, tokens = pair("gpt2")[1], torch.tensor([[5, 9, 3, 7]])
    found = paths.gradient_mass(model, tokens, 3)
    assert float(found.share.sum()) == pytest.approx(1)
    assert json.loads(json.dumps(found.to_dict()))["counts"] == ["1", "8", "22", "24", "9"]
    with pytest.raises(ValueError, match="'tangent' or 'frozen'"):
        paths.gradient_mass(model, tokens, 3, rule="exact")
    with pytest.raises(ValueError, match="keep 0 to 4"):
        paths.gradient_mass(model, tokens, 3, keep=9)
