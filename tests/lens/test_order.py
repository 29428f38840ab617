"""Layer curves against Hugging Face models whose layers were taken out, exchanged or repeated by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import digits
from workbench import lens
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find, inputs_for

TOKENS = torch.randint(0, 64, (3, 9), generator=torch.Generator().manual_seed(1))


def loss_of(hf: Any, tokens: Tensor = TOKENS) -> Tensor:
    """Cross-entropy of the next token of each text, by Hugging Face's own loss."""
    with torch.no_grad():
        return torch.stack([hf(row[None], labels=row[None], use_cache=False).loss for row in tokens])


def layers_of(hf: Any) -> nn.ModuleList:
    found: nn.ModuleList = hf.model.layers if hasattr(hf, "model") else hf.transformer.h
    return found


def with_layers(hf: Any, order: list[int]) -> Any:
    """A copy with these layers in this order."""
    made = copy.deepcopy(hf)
    layers = nn.ModuleList(layers_of(made)[i] for i in order)
    if hasattr(made, "model"):
        made.model.layers = layers
    else:
        made.transformer.h = layers
    for name in ("num_hidden_layers", "n_layer"):
        if hasattr(made.config, name):
            setattr(made.config, name, len(order))
    return made


def without(hf: Any, layer: int, part: str) -> Any:
    """A copy whose sublayer writes nothing."""
    made = copy.deepcopy(hf)
    block = layers_of(made)[layer]
    if hasattr(block, "self_attn"):
        module = block.self_attn.o_proj if part == "attention" else block.mlp.down_proj
    else:
        module = block.attn.c_proj if part == "attention" else block.mlp.c_proj
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return made


@pytest.mark.parametrize("key", ["llama-grouped", "gpt2", "llama-biased"])
def test_every_change_costs_what_it_costs_the_original(key: str) -> None:
    hf = find(key).model(layers=4)
    model = from_hf(hf)
    n = model.cfg.n_layers
    orders: dict[Any, list[list[int]]] = {
        "skip": [[j for j in range(n) if j != i] for i in range(n)],
        "swap": [[*range(i), i + 1, i, *range(i + 2, n)] for i in range(n - 1)],
        "repeat": [[*range(i + 1), i, *range(i + 1, n)] for i in range(n)],
    }
    for change, chosen in orders.items():
        found = lens.layer_curve(model, TOKENS, change, batch_size=2)
        torch.testing.assert_close(found.base, loss_of(hf), rtol=1e-3, atol=1e-4)
        for row, order in zip(found.loss, chosen, strict=True):
            torch.testing.assert_close(row, loss_of(with_layers(hf, order)), rtol=1e-3, atol=1e-3)
    for part in ("attention", "mlp"):
        found = lens.layer_curve(model, TOKENS, f"skip-{part}")  # type: ignore[arg-type]
        for layer, row in enumerate(found.loss):
            torch.testing.assert_close(row, loss_of(without(hf, layer, part)), rtol=1e-3, atol=1e-3)


def test_the_divergence_is_that_of_the_changed_original() -> None:
    hf = find("llama-grouped").model(layers=3)
    found = lens.layer_curve(from_hf(hf), TOKENS, "skip")
    with torch.no_grad():
        own = hf(TOKENS).logits.double().log_softmax(-1)
        other = with_layers(hf, [0, 2])(TOKENS, use_cache=False).logits.double().log_softmax(-1)
    wanted = (own.exp() * (own - other)).sum(-1).mean(1)
    torch.testing.assert_close(found.kl[1], wanted.float(), rtol=1e-3, atol=1e-4)


def test_padding_counts_nowhere(model: Transformer) -> None:
    texts = ["When Mary and John went to the store", "John gave"]
    both = lens.layer_curve(model, texts, "swap", batch_size=2)
    alone = torch.cat([lens.layer_curve(model, [text], "swap").loss for text in texts], 1)
    torch.testing.assert_close(both.loss, alone, rtol=1e-4, atol=1e-5)


def test_a_classifier_is_judged_by_its_labels_or_by_what_it_says_itself() -> None:
    hf = find("vit-classes").model(layers=3)
    model = from_hf(hf)
    pixels = inputs_for(hf)[0]["inputs"]
    labels = torch.tensor([1, 4, 0])
    found = lens.layer_curve(model, pixels, "skip", labels=labels)
    made = copy.deepcopy(hf)
    for holder in (made.vit.encoder if hasattr(made.vit, "encoder") else made.vit,):
        name = "layer" if hasattr(holder, "layer") else "layers"
        setattr(holder, name, nn.ModuleList(getattr(holder, name)[i] for i in (0, 2)))
    with torch.no_grad():
        wanted = nn.functional.cross_entropy(made(pixels).logits, labels, reduction="none")
    torch.testing.assert_close(found.loss[1], wanted, rtol=1e-3, atol=1e-4)
    own = lens.layer_curve(model, pixels, "skip")
    torch.testing.assert_close(own.loss, own.kl)
    assert float(own.base.abs().max()) < 1e-6


def test_intervals_are_paired_over_texts() -> None:
    """A text that is hard for every variant alike widens no interval."""
    base = torch.tensor([1.0, 5.0, 9.0])
    found = lens.LayerCurve(
        "m", "skip", "nats", (0, 1), base, torch.stack([base + 0.5, base + torch.tensor([0.0, 1.0, 2.0])]),
        torch.zeros(2, 3), 0.95, True,
    )  # fmt: skip
    assert found.increase.tolist() == [0.5, 1.0]
    low, high = found.interval[0].tolist()
    assert low == pytest.approx(0.5)
    assert high == pytest.approx(0.5)
    assert float(found.interval[1, 0]) < 1 < float(found.interval[1, 1])


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        (TOKENS, {"change": "drop"}, "There is no change 'drop'; choose one of skip"),
        (TOKENS, {"labels": [1, 2, 3]}, "is no classifier; leave labels out"),
        (TOKENS[:, :1], {}, "A text of one token has no next token"),
        (TOKENS[:0], {}, "There is no data"),
        (TOKENS, {"level": 2.0}, "level of an interval"),
        ("text", {}, "Give a list of texts"),
    ],
)
def test_bad_input_is_one_sentence(data: Any, options: dict[str, Any], sentence: str) -> None:
    model = from_hf(find("llama-grouped").model())
    with pytest.raises(ValueError, match=sentence):
        lens.layer_curve(model, data, **options)


def test_labels_must_be_classes_and_vectors_have_no_curve() -> None:
    images = torch.zeros(2, 1, 8, 8)
    model: Transformer = digits.vision()
    with pytest.raises(ValueError, match="one class from 0 to 9 for each of the 2 examples"):
        lens.layer_curve(model, images, labels=[3, 10])
    with pytest.raises(ValueError, match="gives vectors"):
        lens.layer_curve(digits.encoder(), torch.arange(6)[None])
