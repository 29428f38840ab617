"""The memory that a source is expected to take is what it takes, and no more than a few forwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.circuits.decomposition.memory import peak_bytes
from workbench.circuits.decomposition import RULES, Logits, Rule, Similarity
from workbench.circuits.decomposition.contributions import bytes_of
from workbench.circuits.decomposition.propagate import Prompts, Sweep
from workbench.circuits.decomposition.split import baseline_of, sources_of
from workbench.models import Transformer, fresh
from workbench.models.config import ModelConfig

GPT = ModelConfig(
    family="gpt2", n_layers=2, n_heads=4, n_key_value_heads=4, d_model=64, d_head=16, d_mlp=256, d_vocab=100,
    n_ctx=200, norm="layer", norm_eps=1e-5, act_fn="gelu_new", gated_mlp=False, positions="learned", attn_scale=0.25,
    attn_bias=True, out_bias=True, mlp_bias=True,
)  # fmt: skip
LLAMA = replace(
    GPT, family="llama", norm="rms", act_fn="silu", gated_mlp=True, positions="rotary", attn_bias=False,
    out_bias=False, mlp_bias=False, n_key_value_heads=2, d_mlp=170,
)  # fmt: skip
CONFIGS = {
    "gpt2": GPT,
    "many words": replace(GPT, d_vocab=20_000),
    "llama": LLAMA,
    "gemma": replace(LLAMA, attn_softcap=5.0, post_norms=True),
    "encoder": replace(GPT, causal=False, head="none", norm_place="post", embed_norm=True, tied=False),
    "no MLPs": replace(GPT, attn_only=True),
}
BATCH = 2


def taken(model: Transformer, rule: Rule, width: int, n: int) -> int:
    """Peak bytes of one sweep of ``n`` sources that begin at the first head."""
    tokens = torch.randint(0, model.cfg.d_vocab, (BATCH, width), generator=torch.Generator().manual_seed(0))
    target: Logits | Similarity = Logits(torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([width - 1] * 2))
    if model.cfg.head == "none":
        target = Similarity(torch.ones(BATCH, model.cfg.d_model))
    prompts = Prompts.run(model, tokens, None)
    baseline = baseline_of(prompts, "zero")

    def run() -> None:
        with torch.no_grad():
            target.read(Sweep(rule, prompts, sources_of(["a0.h0"] * n, model.cfg), baseline))

    return peak_bytes(run)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("width", [14, 150])
def test_a_source_takes_what_it_is_expected_to_take(name: str, width: int) -> None:
    model = fresh(CONFIGS[name])
    for rule in RULES:
        one = (taken(model, rule, width, 6) - taken(model, rule, width, 2)) / 4
        assert 1 / 1.5 < bytes_of(model, width, rule) * BATCH / one < 1.5
        assert bytes_of(model, width) >= bytes_of(model, width, rule)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_a_source_of_a_short_prompt_takes_less_than_three_plain_forwards(rule: Rule) -> None:
    width = 14
    for name in ("gpt2", "llama", "no MLPs"):
        model = fresh(CONFIGS[name])

        def forward(n: int, model: Transformer = model) -> int:
            tokens = torch.zeros(n, width, dtype=torch.long)
            at = torch.full((n,), width - 1)

            def run() -> None:
                with torch.no_grad():
                    model(tokens, logits_at=at)

            return peak_bytes(run)

        one = (taken(model, rule, width, 6) - taken(model, rule, width, 2)) / 4 / BATCH
        assert one < 3 * (forward(12) - forward(4)) / 8
