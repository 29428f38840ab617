from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from tests import digits
from tests.attention import brute
from workbench.attention import (
    activation_outliers,
    attention_outliers,
    kurtosis,
    removal,
    statistics,
    weight_outliers,
)
from workbench.circuits.progress import Stopped
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find


def test_kurtosis_is_scipys() -> None:
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    np.testing.assert_allclose(kurtosis(x), scipy_stats.kurtosis(x, axis=-1, fisher=False))
    x[1, 3] = torch.nan
    expected = scipy_stats.kurtosis(x, axis=-1, fisher=False, nan_policy="omit")
    np.testing.assert_allclose(kurtosis(x), expected)


def with_outliers() -> Transformer:
    """A GPT-2 whose dimensions 3 and 20 are huge at token 7, from the first layer on."""
    hf = find("gpt2").model(weights="usual", seed=1)
    with torch.no_grad():
        hf.transformer.wte.weight[7, [3, 20]] = torch.tensor([60.0, -90.0])
    return from_hf(hf)


def test_planted_dimensions_and_positions_are_found() -> None:
    model = with_outliers()
    tokens = torch.randint(8, 60, (2, 30), generator=torch.Generator().manual_seed(0))
    tokens[0, 4] = tokens[1, 11] = 7
    found = activation_outliers(model, tokens)
    assert set(found.dimensions) == {3, 20}
    assert set(found.positions) == {(0, 4), (1, 11)}
    assert {(example, position) for example, position, _ in found.where} <= {(0, 4), (1, 11)}
    assert {dimension for _, _, dimension in found.where} == {20}
    assert (found.kurtosis > 100).all()


@pytest.mark.parametrize("padded", [False, True])
def test_what_is_counted_is_the_residual_stream(padded: bool) -> None:
    model = from_hf(find("bert").model(dtype=torch.float64))
    tokens = brute.given(model, batch=2, n=12)
    real = torch.ones(2, 12, dtype=torch.bool)
    if padded:
        real[1, 8:] = False
    mask = real.long() if padded else None
    found = activation_outliers(model, tokens, attention_mask=mask, far=2.0, share=1.0)
    _, cache = model.run_with_cache(tokens, lambda name: name.endswith("resid_post"), attention_mask=mask)
    both = torch.ones(model.cfg.d_model, dtype=torch.bool)
    for layer in range(model.cfg.n_layers):
        x = cache["resid_post", layer].numpy()
        kept = x[real.numpy()]
        assert float(found.kurtosis[layer]) == pytest.approx(scipy_stats.kurtosis(kept.ravel(), fisher=False))
        assert float(found.infinity_norm[layer]) == pytest.approx(np.abs(kept).max())
        assert abs(x[found.where[layer]]) == pytest.approx(np.abs(kept).max())
        far = (np.abs(x - kept.mean()) > 2 * kept.std()) & real.numpy()[..., None]
        assert np.array_equal(found.by_dimension[layer], far.sum((0, 1)))
        assert np.array_equal(found.by_position[layer], far.sum(2))
        both &= torch.from_numpy(far.any((0, 1)))
    assert set(found.dimensions) == set(both.nonzero().flatten().tolist())


def test_weights_are_ranked_by_their_tails() -> None:
    hf = find("llama-grouped").model(weights="usual")
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight[2, 5] = 7.0
    first, *rest = weight_outliers(from_hf(hf))
    assert (first.layer, first.name, first.infinity_norm) == (1, "mlp.out", 7.0)
    numbers = hf.model.layers[1].mlp.down_proj.weight.detach().double().numpy().ravel()
    assert first.kurtosis == pytest.approx(scipy_stats.kurtosis(numbers, fisher=False))
    assert first.largest == pytest.approx(7 / numbers.std())
    assert len(rest) == 7 * hf.config.num_hidden_layers - 1


def test_attention_outliers_are_those_of_the_columns() -> None:
    hf, model = brute.pair("gpt2")
    tokens = brute.given(model)
    found = attention_outliers(statistics(model, tokens, columns=True), seen=4)
    p = brute.patterns(hf, tokens)
    n = p.shape[-1]
    counts = torch.arange(n, 0, -1).double()
    weight = (p.sum(-2) / counts)[..., : n - 3]  # the last keys are seen by fewer than 4
    torch.testing.assert_close(found.infinity_norm, weight.mean(2).amax(-1))
    assert torch.equal(found.position, weight.mean(2).argmax(-1))
    expected = scipy_stats.kurtosis(weight, axis=-1, fisher=False).mean(-1)
    np.testing.assert_allclose(found.kurtosis, expected)
    with pytest.raises(ValueError, match="seen by 99 queries"):
        attention_outliers(statistics(model, tokens, columns=True), seen=99)


def test_removal_sets_dimensions_to_zero_after_every_layer() -> None:
    model = with_outliers()
    tokens = torch.randint(7, 60, (2, 20), generator=torch.Generator().manual_seed(0))
    found = removal(model, tokens, [20, 3], draws=2)

    def loss(without: list[int]) -> float:
        def zero(x: torch.Tensor, hook: object) -> torch.Tensor:
            keep = torch.ones(x.shape[-1])
            keep[without] = 0
            return x * keep

        places = [(f"blocks.{layer}.hook_resid_post", zero) for layer in range(model.cfg.n_layers)]
        logits = model.run_with_hooks(tokens, places)
        chosen = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])
        return -float(chosen.mean())

    assert found.dimensions == (3, 20)
    assert found.loss == pytest.approx(loss([]), rel=1e-5)
    assert found.without == pytest.approx(loss([3, 20]), rel=1e-5)
    assert len(set(found.random)) == 2
    assert found.without not in found.random
    assert removal(model, tokens, [20, 3], draws=2) == found


def test_removal_counts_real_tokens_and_takes_any_loss(model: Transformer) -> None:
    texts = ["When Mary and John went to the store", "Then John"]
    whole = removal(model, texts, [1], draws=0).loss
    sums = counts = 0.0
    for text in texts:
        tokens = model.to_tokens(text)
        chosen = model(tokens)[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])
        sums, counts = sums - float(chosen.sum()), counts + chosen.numel()
    assert whole == pytest.approx(sums / counts, rel=1e-4)
    vision, images = digits.vision(), torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="say with loss= what its logits cost"):
        removal(vision, images, [1])
    found = removal(vision, images, [1], loss=lambda logits: logits.square().mean(), draws=1)
    assert found.loss == pytest.approx(float(vision(images).square().mean()))


def test_unusable_removals_are_refused(model: Transformer) -> None:
    for wrong in ([], [-1], [model.cfg.d_model]):
        with pytest.raises(ValueError, match="Give dimensions of the residual stream from 0"):
            removal(model, "When Mary", wrong)
    with pytest.raises(ValueError, match=r"not .* other dimensions"):
        removal(model, "When Mary", range(model.cfg.d_model))
    with pytest.raises(Stopped):
        removal(model, "When Mary", [1], progress=lambda at: at.done < 2)
