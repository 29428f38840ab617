"""Parts can be differentiated by what a source gives, as the search for edges does, by every rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.circuits.decomposition.cases import assert_close, inputs_for, model_of
from workbench.circuits.decomposition import RULES
from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.propagate import Prompts, Sweep
from workbench.circuits.decomposition.split import baseline_of, sources_of


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
@pytest.mark.parametrize("key", ["gpt2", "llama-grouped", "gemma2", "bert-masked"])
def test_slopes_of_parts_are_finite_differences(key: str, rule: object) -> None:
    model = model_of(key, double=True)
    inputs = inputs_for(model, padded=False)
    prompts = Prompts.run(model, inputs.tokens, None)
    sources = sources_of(["a0.h1", "m0@1"], model.cfg)
    start = baseline_of(prompts, "mean")
    directions = [torch.randn_like(x).expand(3, 6, *x.shape[2:]) for x in (start.z[0], start.mlp[0])]

    def value(eps: Tensor) -> Tensor:
        z, mlp = ([xs[0] + eps * d, *xs[1:]] for xs, d in zip((start.z, start.mlp), directions, strict=True))
        sweep = Sweep(rule, prompts, sources, Baseline(start.resid, z, mlp))  # type: ignore[arg-type]
        parts = sweep.logits(sweep.run()[0])
        return parts.relevant[..., ::7].square().sum((1, 2, 3))

    at = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    slopes = torch.stack([torch.autograd.grad(one, at, retain_graph=True)[0] for one in value(at)])
    step = 1e-6
    with torch.no_grad():
        expected = (value(torch.tensor(step)) - value(torch.tensor(-step))) / (2 * step)
    assert float(expected.abs().min()) > 0
    assert_close(slopes, expected, 1e-4)
