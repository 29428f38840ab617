"""Models in TransformerLens's format, against the obvious forward pass on the same weights."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests import micro
from tests.circuits.test_attribution import random_task
from workbench.circuits import discover
from workbench.circuits.activations import Ablator
from workbench.circuits.patching import PatchedRun
from workbench.models import from_hf, from_transformer_lens

BASE: dict[str, Any] = {
    "n_layers": 2,
    "n_heads": 3,
    "d_model": 18,
    "d_head": 5,
    "n_ctx": 16,
    "d_vocab": 30,
    "d_mlp": 40,
}
CASES: dict[str, dict[str, Any]] = {
    "layer norm": {"normalization_type": "LN", "act_fn": "gelu"},
    "folded layer norm": {"normalization_type": "LNPre", "act_fn": "gelu_new"},
    "rms": {"normalization_type": "RMS", "act_fn": "silu", "gated_mlp": True},
    "no norm": {"normalization_type": None, "act_fn": "relu"},
    "attention only": {"normalization_type": "LN", "attn_only": True},
    "attention only, no norm, shortformer": {
        "normalization_type": None,
        "attn_only": True,
        "positional_embedding_type": "shortformer",
    },
    "solu": {"normalization_type": "LN", "act_fn": "solu_ln"},
    "bidirectional, fewer outputs": {
        "normalization_type": "LN",
        "act_fn": "relu",
        "attention_dir": "bidirectional",
        "d_vocab_out": 4,
    },
    "parallel": {"normalization_type": "LN", "act_fn": "relu", "parallel_attn_mlp": True},
    "rotary, partly": {
        "normalization_type": "RMSPre",
        "act_fn": "silu",
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "rotary_base": 500,
    },
    "unscaled": {"normalization_type": None, "act_fn": "relu", "use_attn_scale": False},
}


def state_of(c: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights in TransformerLens's names and shapes, with the buffers that it saves beside them."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int, centre: float = 0.0) -> Tensor:
        return centre + 0.3 * torch.randn(*shape, generator=g)

    d, h, e, m, v = c["d_model"], c["n_heads"], c["d_head"], c["d_mlp"], c["d_vocab"]
    out = c.get("d_vocab_out", v)
    state = {
        "embed.W_E": draw(v, d),
        **({} if c.get("positional_embedding_type") == "rotary" else {"pos_embed.W_pos": draw(c["n_ctx"], d)}),
        "unembed.W_U": draw(d, out),
        "unembed.b_U": draw(out),
    }

    def norm(name: str, size: int, kind: str | None) -> None:
        if kind in ("LN", "RMS"):
            state[f"{name}.w"] = draw(size, centre=1.0)
        if kind == "LN":
            state[f"{name}.b"] = draw(size)

    kind = c.get("normalization_type", "LN")
    norm("ln_final", d, kind)
    for layer in range(c["n_layers"]):
        at = f"blocks.{layer}"
        norm(f"{at}.ln1", d, kind)
        for part in "QKV":
            state[f"{at}.attn.W_{part}"], state[f"{at}.attn.b_{part}"] = draw(h, d, e), draw(h, e)
        state[f"{at}.attn.W_O"], state[f"{at}.attn.b_O"] = draw(h, e, d), draw(d)
        state[f"{at}.attn.mask"] = torch.ones(c["n_ctx"], c["n_ctx"]).tril().bool()
        state[f"{at}.attn.IGNORE"] = torch.tensor(-1e5)
        if c.get("attn_only"):
            continue
        norm(f"{at}.ln2", d, kind)
        state[f"{at}.mlp.W_in"], state[f"{at}.mlp.b_in"] = draw(d, m), draw(m)
        state[f"{at}.mlp.W_out"], state[f"{at}.mlp.b_out"] = draw(m, d), draw(d)
        if c.get("gated_mlp"):
            state[f"{at}.mlp.W_gate"] = draw(d, m)
        if c.get("act_fn") == "solu_ln":
            norm(f"{at}.mlp.ln", m, "LN")
    return state


def obvious(state: dict[str, Tensor], c: dict[str, Any], tokens: Tensor) -> Tensor:
    """TransformerLens's forward as its papers and documentation define it, one einsum after another."""
    kind = c.get("normalization_type", "LN")
    acts = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "gelu_new": lambda x: F.gelu(x, approximate="tanh")}

    def norm(x: Tensor, name: str, kind: str | None = kind) -> Tensor:
        if kind is None:
            return x
        if kind.startswith("LN"):
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * state.get(f"{name}.w", torch.ones(())) + state.get(f"{name}.b", torch.zeros(()))

    n = tokens.shape[1]
    position = state.get("pos_embed.W_pos", torch.zeros(n, c["d_model"]))[:n]
    short = c.get("positional_embedding_type") == "shortformer"
    x = state["embed.W_E"][tokens] + (0 if short else position)

    def turn(x: Tensor) -> Tensor:
        """Rotary positions as multiplication by unit complex numbers: pairs (i, i + dim / 2) of the first dim."""
        if c.get("positional_embedding_type") != "rotary":
            return x
        half = c["rotary_dim"] // 2
        angles = torch.arange(n)[:, None] / c["rotary_base"] ** (torch.arange(half) / half)
        turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.polar(torch.ones(n, half), angles)
        return torch.cat((turned.real, turned.imag, x[..., 2 * half :]), -1)

    for layer in range(c["n_layers"]):
        w = {k.removeprefix(f"blocks.{layer}."): t for k, t in state.items() if k.startswith(f"blocks.{layer}.")}
        y = norm(x, f"blocks.{layer}.ln1")
        beside = y + position if short else y
        q, k, v = (
            torch.einsum("bpd,hde->bhpe", z, w[f"attn.W_{part}"]) + w[f"attn.b_{part}"][:, None]
            for z, part in ((beside, "Q"), (beside, "K"), (y, "V"))
        )
        scores = turn(q) @ turn(k).transpose(-1, -2) / (c["d_head"] ** 0.5 if c.get("use_attn_scale", True) else 1)
        if c.get("attention_dir", "causal") == "causal":
            scores = scores.masked_fill(~torch.ones(n, n).tril().bool(), -torch.inf)
        attended = torch.einsum("bhpe,hed->bpd", scores.softmax(-1) @ v, w["attn.W_O"]) + w["attn.b_O"]
        before, x = x, x + attended
        if c.get("attn_only"):
            continue
        y = norm(before if c.get("parallel_attn_mlp") else x, f"blocks.{layer}.ln2")
        pre = y @ w["mlp.W_in"] + w["mlp.b_in"]
        if c.get("gated_mlp"):
            post = acts[c["act_fn"]](y @ w["mlp.W_gate"]) * pre
        elif c["act_fn"] == "solu_ln":
            post = norm(pre * pre.softmax(-1), f"blocks.{layer}.mlp.ln", "LN")
        else:
            post = acts[c["act_fn"]](pre)
        x = x + post @ w["mlp.W_out"] + w["mlp.b_out"]
    return norm(x, "ln_final") @ state["unembed.W_U"] + state["unembed.b_U"]


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_obvious_forward(case: str) -> None:
    c = BASE | CASES[case]
    state = state_of(c)
    model = from_transformer_lens((state, c))
    tokens = torch.randint(0, 30, (3, 11), generator=torch.Generator().manual_seed(1))
    expected = obvious(state, c, tokens)
    assert model(tokens).shape == expected.shape
    torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=1e-4)
    logits, cache = model.run_with_cache(tokens, lambda name: True)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert set(cache) == set(model.hook_names)


@pytest.mark.parametrize("case", [name for name in CASES if "bidirectional" not in name])
def test_the_full_circuit_is_the_model_and_every_edge_has_a_score(case: str) -> None:
    c = BASE | CASES[case]
    model, task = from_transformer_lens((state_of(c), c)), random_task(vocab=30)
    scores = discover(model, task, "eap")
    assert scores.graph.has_mlp != bool(c.get("attn_only"))
    assert (scores.values[scores.graph.mask] != 0).float().mean() > 0.9
    run = PatchedRun(model, task, Ablator(model, task, "resample", 3)(task))
    torch.testing.assert_close(run.metric(scores.graph.mask), task.metric(model(task.clean)), atol=1e-4, rtol=1e-4)
    empty = run.metric(torch.zeros_like(scores.graph.mask))
    torch.testing.assert_close(empty, task.metric(model(task.corrupted)), atol=1e-4, rtol=1e-4)


def test_weight_views_have_transformer_lens_shapes_and_values() -> None:
    c = BASE | CASES["layer norm"]
    state = state_of(c)
    model = from_transformer_lens((state, c))
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        assert torch.equal(getattr(model, name), torch.stack([state[f"blocks.{i}.attn.{name}"] for i in range(2)]))
    assert torch.equal(model.W_E, state["embed.W_E"])
    assert torch.equal(model.W_U, state["unembed.W_U"])
    grouped = from_hf(micro.hugging_face("llama-grouped"))
    assert grouped.W_K.shape == grouped.W_Q.shape == (2, 4, 32, 8)
    assert torch.equal(grouped.W_K[:, 0], grouped.W_K[:, 1])


def test_circuits_of_bidirectional_models_do_not_see_padding() -> None:
    c = BASE | CASES["bidirectional, fewer outputs"]
    model = from_transformer_lens((state_of(c), c))
    task = random_task(vocab=4, unlike=True)
    alone = torch.stack([discover(model, task.rows(i, i + 1), "eap").values for i in range(len(task))])
    torch.testing.assert_close(discover(model, task, "eap").values, alone.mean(0), atol=1e-6, rtol=1e-4)


def test_biases_that_are_missing_are_zero() -> None:
    c = BASE | CASES["layer norm"]
    state = state_of(c)
    zeroed = {k: torch.zeros_like(t) if ".b_" in k else t for k, t in state.items()}
    without = {k: t for k, t in state.items() if ".b_" not in k}
    tokens = torch.randint(0, 30, (2, 7))
    torch.testing.assert_close(
        from_transformer_lens((without, c))(tokens), obvious(zeroed, c, tokens), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["llama-grouped", "llama-biased", "gpt2", "gpt-neox", "qwen3"])
def test_a_bridge_is_taken_with_its_tokenizer(tmp_path: Path, kind: str) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(micro.save(tmp_path, kind)), device="cpu")
    model = from_transformer_lens(bridge)
    tokens = model.to_tokens("When Mary and John")
    torch.testing.assert_close(model(tokens), bridge(tokens).detach(), atol=1e-5, rtol=1e-5)


def test_files_are_read_and_pickles_of_other_things_are_not_run(tmp_path: Path) -> None:
    c = BASE | CASES["layer norm"]
    state = state_of(c)
    torch.save(state, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(json.dumps(c))
    tokens = torch.randint(0, 30, (2, 7))
    model = from_transformer_lens((tmp_path / "model.pt", tmp_path / "config.json"))
    torch.testing.assert_close(model(tokens), obvious(state, c, tokens), atol=1e-4, rtol=1e-4)

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "was-run"),))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="is not a file of plain tensors"):
        from_transformer_lens((tmp_path / "evil.pt", c))
    assert not (tmp_path / "was-run").exists()
    with pytest.raises(ValueError, match="There is no file"):
        from_transformer_lens((tmp_path / "none.pt", c))


def test_what_does_not_fit_is_named() -> None:
    c = BASE | CASES["layer norm"]
    state = state_of(c)
    lacking = {k: t for k, t in state.items() if k != "blocks.0.attn.W_Q"}
    with pytest.raises(ValueError, match=r"missing: blocks\.0\.attn\.W_Q; surplus: extra\.weight"):
        from_transformer_lens((lacking | {"extra.weight": torch.zeros(1)}, c))
    with pytest.raises(ValueError, match=r"'embed\.W_E' has the shape \[30, 18\]; the configuration says \[31, 18\]"):
        from_transformer_lens((state, c | {"d_vocab": 31}))
    with pytest.raises(ValueError, match="no whole number 'd_head'"):
        from_transformer_lens((state, {k: v for k, v in c.items() if k != "d_head"}))
    with pytest.raises(ValueError, match="act_fn='rellu' is not supported; did you mean 'relu'"):
        from_transformer_lens((state, c | {"act_fn": "rellu"}))
    with pytest.raises(ValueError, match="not dict"):
        from_transformer_lens({})
