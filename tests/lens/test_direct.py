"""Direct attribution against Hugging Face: autograd with everything else held, and parts by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests import digits
from workbench import lens
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import SAMPLES, Sample, find, inputs_for

WITH_LOGITS = [sample for sample in SAMPLES if "For" in sample.made or "LMHead" in sample.made]


@pytest.mark.parametrize("sample", WITH_LOGITS, ids=lambda sample: sample.key)
def test_the_parts_sum_to_the_original_logit_in_every_family(sample: Sample) -> None:
    hf = sample.model(weights="usual")
    model = from_hf(hf)
    inputs = inputs_for(hf)
    for given_ in (inputs[0], inputs[-1]):  # texts of one length, and padded on the right
        extra = {k: given_[k] for k in ("attention_mask", "token_types") if k in given_}
        found = lens.direct_attribution(model, given_["inputs"], 3, against=1, sources=True, **extra)
        named = {"token_type_ids" if k == "token_types" else k: x for k, x in extra.items()}
        with torch.no_grad():
            out = hf(given_["inputs"], **named).logits
        if out.ndim == 3:
            lengths = extra["attention_mask"].sum(1) if "attention_mask" in extra else torch.full((3,), out.shape[1])
            out = out[torch.arange(3), lengths - 1]
        torch.testing.assert_close(found.values.sum(0), out[:, 3] - out[:, 1], rtol=1e-4, atol=2e-5)
        assert found.sources is not None
        heads = [v for c, v in zip(found.components, found.values, strict=True) if ".h" in c]
        torch.testing.assert_close(found.sources.sum(-1).flatten(0, 1), torch.stack(heads), rtol=1e-3, atol=1e-5)


def test_each_head_and_mlp_of_llama_is_what_its_own_output_gives_with_the_norm_held() -> None:
    hf = find("llama-grouped").model()
    tokens = inputs_for(hf)[0]["inputs"]
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, args, out=None: kept.__setitem__(name, args[0] if out is None else out)

    hf.model.norm.register_forward_pre_hook(keep("last"))
    hf.model.embed_tokens.register_forward_hook(keep("embed"))
    for i, layer in enumerate(hf.model.layers):
        layer.self_attn.o_proj.register_forward_pre_hook(keep(f"z{i}"))
        layer.mlp.register_forward_hook(keep(f"m{i}"))
    with torch.no_grad():
        hf(tokens)
    scale = (kept["last"][:, -1].square().mean(-1, keepdim=True) + hf.model.norm.variance_epsilon).sqrt()

    def direct(part: Tensor) -> Tensor:
        return (part[:, -1] / scale * hf.model.norm.weight) @ hf.lm_head.weight[9]

    found = lens.direct_attribution(from_hf(hf), tokens, 9)
    values = dict(zip(found.components, found.values, strict=True))
    torch.testing.assert_close(values["embed"], direct(kept["embed"]), rtol=1e-3, atol=1e-4)
    d = hf.config.head_dim
    for i, layer in enumerate(hf.model.layers):
        torch.testing.assert_close(values[f"m{i}"], direct(kept[f"m{i}"]), rtol=1e-3, atol=1e-4)
        for head in range(hf.config.num_attention_heads):
            own = torch.zeros_like(kept[f"z{i}"])
            own[..., head * d : (head + 1) * d] = kept[f"z{i}"][..., head * d : (head + 1) * d]
            wanted = direct(own @ layer.self_attn.o_proj.weight.T)
            torch.testing.assert_close(values[f"a{i}.h{head}"], wanted, rtol=1e-3, atol=1e-4)


class HeldNorm(nn.Module):
    """LayerNorm whose deviation takes no part in a backward pass."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + self.norm.eps).sqrt().detach()
        return centred / scale * self.norm.weight + self.norm.bias


class HeldAct(nn.Module):
    """An activation whose gate f(x) / x takes no part in a backward pass."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.act(x) / x).detach()


def test_parts_of_a_model_that_normalises_its_sums_are_gradients_with_everything_else_held() -> None:
    """BERT: each attention's and MLP's output a leaf, later ones constants, norms and the head's gate held."""
    hf = find("bert-masked").model(weights="usual")
    given_ = inputs_for(hf)[0]
    found = lens.direct_attribution(from_hf(hf), given_["inputs"], 5, at=4, token_types=given_["token_types"])
    leaves: dict[str, Tensor] = {}

    def leaf(name: str) -> Any:
        def hook(_: Any, __: Any, out: Any) -> Any:
            whole = out[0] if isinstance(out, tuple) else out
            leaves[name] = whole.detach().requires_grad_()
            return (leaves[name], *out[1:]) if isinstance(out, tuple) else leaves[name]

        return hook

    hf.bert.embeddings.register_forward_hook(leaf("embed"))
    for i, layer in enumerate(hf.bert.encoder.layer):
        layer.attention.output.LayerNorm = HeldNorm(layer.attention.output.LayerNorm)
        layer.output.LayerNorm = HeldNorm(layer.output.LayerNorm)
        layer.attention.self.register_forward_hook(leaf(f"a{i}"))
        layer.output.dense.register_forward_hook(leaf(f"m{i}"))
    transform = hf.cls.predictions.transform
    transform.LayerNorm = HeldNorm(transform.LayerNorm)
    transform.transform_act_fn = HeldAct(transform.transform_act_fn)
    logit = hf(given_["inputs"], token_type_ids=given_["token_types"]).logits[:, 4, 5]
    logit.sum().backward()
    values = dict(zip(found.components, found.values, strict=True))
    n = hf.config.num_attention_heads
    for name, x in leaves.items():
        assert x.grad is not None
        product = (x * x.grad).sum(1)
        if name[0] == "a":
            wanted = product.unflatten(-1, (n, -1)).sum(-1).T
            mine = torch.stack([values[f"{name}.h{head}"] for head in range(n)])
            torch.testing.assert_close(mine, wanted.detach(), rtol=1e-3, atol=1e-6)
        else:
            torch.testing.assert_close(values[name], product.sum(-1).detach(), rtol=1e-3, atol=1e-6)
    assert any(name.startswith("bias m") for name in values)


@pytest.fixture(scope="module")
def small() -> Transformer:
    return from_hf(find("gpt2").model())


@settings(max_examples=10)
@given(right=st.integers(0, 63), wrong=st.integers(0, 63), at=st.integers(-5, 4), seed=st.integers(0, 50))
def test_a_difference_of_logits_is_the_difference_of_their_parts(
    small: Transformer, right: int, wrong: int, at: int, seed: int
) -> None:
    tokens = torch.randint(0, 64, (2, 5), generator=torch.Generator().manual_seed(seed))
    both = lens.direct_attribution(small, tokens, right, against=wrong, at=at)
    alone = [lens.direct_attribution(small, tokens, one, at=at).values for one in (right, wrong)]
    torch.testing.assert_close(both.values, alone[0] - alone[1], rtol=1e-4, atol=1e-4)
    logits = small(tokens)[:, at]
    torch.testing.assert_close(both.values.sum(0), logits[:, right] - logits[:, wrong], rtol=1e-3, atol=1e-3)


def test_a_causal_head_brings_nothing_from_behind_the_position_that_is_asked(small: Transformer) -> None:
    found = lens.direct_attribution(small, torch.arange(8)[None], 3, at=4, sources=True)
    assert found.sources is not None
    assert float(found.sources[..., 5:].abs().max()) == 0
    assert float(found.sources[..., :5].abs().max()) > 0
    assert found.to_dict()["at"] == [4]
    assert len(found.top(3)) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": 64}, r"There is no answer 64: .* has 0 to 63."),
        ({"target": torch.zeros(3, dtype=torch.long)}, "one id for each of the 1 examples"),
        ({"at": 9}, "There is no position 9: the input has the positions 0 to 7."),
    ],
)
def test_bad_input_is_one_sentence(small: Transformer, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lens.direct_attribution(small, torch.arange(8)[None], **options)


def test_models_without_logits_and_heads_that_do_more_are_refused(small: Transformer) -> None:
    with pytest.raises(ValueError, match="gives vectors, no logits"):
        lens.direct_attribution(digits.encoder(), torch.arange(4)[None])
    with pytest.raises(ValueError, match="leave 'at' out"):
        lens.direct_attribution(digits.vision(), torch.zeros(1, 1, 8, 8), 1, at=0)
    gated = small.with_attention("gated")
    with pytest.raises(ValueError, match="'gated' attention, whose heads do more than weigh values"):
        lens.direct_attribution(gated, torch.arange(4)[None], sources=True)
    whole = lens.direct_attribution(gated, torch.arange(4)[None], 3)
    torch.testing.assert_close(whole.values.sum(0), gated(torch.arange(4)[None])[:, -1, 3], rtol=1e-3, atol=1e-3)
