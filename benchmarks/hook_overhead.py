"""What hooks cost: forward and caches against Hugging Face and TransformerLens's bridge, on text and on images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import TEMPLATE, alternate, options, report, rows_of

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers import ViTConfig, ViTForImageClassification

from workbench.circuits import tasks
from workbench.models import Transformer, from_hf, load, registry

BASE = "HF forward"
BARS = {
    "forward": 1.05,
    "residual-only cache": 1.05,
    "every head's pattern and output": 1.3,
    "every head's result": 1.3,
}


def main() -> None:
    """Time SmolLM2-135M and GPT-2 small's shape on 16 prompts of 14 tokens, and ViT-Base's shape on 2 images."""
    args = options(__doc__ or "", rounds=7)
    logging.disable(logging.WARNING)
    smol = registry.get("smollm2-135m")
    tokens = tasks.load("ioi", load("smollm2-135m"), n=16, template=TEMPLATE).clean
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
        AutoTokenizer.from_pretrained(smol).save_pretrained(folder)
        rows = [
            *compare_text(smol, "SmolLM2", tokens, args.rounds),
            *compare_text(Path(folder), "GPT-2 small", tokens, args.rounds),
            *compare_images(args.rounds),
        ]
    report("hook_overhead", "What hooks cost: 16 prompts of 14 tokens, 2 images of 197 positions", rows)


def compare_text(folder: Path, name: str, tokens: torch.Tensor, rounds: int) -> list[dict[str, Any]]:
    """A row each for Hugging Face, our model and the bridge."""
    from transformer_lens.model_bridge import TransformerBridge

    hf = AutoModelForCausalLM.from_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    contestants = {
        BASE: quiet(lambda: hf(tokens, use_cache=False)),
        **ours(load(folder), tokens),
        "bridge, forward": quiet(lambda: bridge(tokens)),
        "bridge, residual-only cache": quiet(lambda: bridge.run_with_cache(tokens, names_filter=residual)),
        "bridge, full cache": quiet(lambda: bridge.run_with_cache(tokens)),
    }
    return timed(name, contestants, rounds)


def compare_images(rounds: int) -> list[dict[str, Any]]:
    """A row each for Hugging Face and our model; the bridge has no vision transformers."""
    hf = ViTForImageClassification(ViTConfig()).eval()
    images = torch.randn(2, 3, 224, 224)
    return timed("ViT-Base", {BASE: quiet(lambda: hf(images)), **ours(from_hf(hf), images)}, rounds)


def ours(model: Transformer, given: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Our runs, from nothing kept to everything kept."""
    return {
        "forward": quiet(lambda: model(given)),
        "residual-only cache": quiet(lambda: model.run_with_cache(given, residual)),
        "every head's pattern and output": quiet(lambda: model.run_with_cache(given, heads)),
        "every head's result": quiet(lambda: model.run_with_cache(given, results)),
        "full cache": quiet(lambda: model.run_with_cache(given)),
    }


def quiet(run: Callable[[], object]) -> Callable[[], object]:
    """The same run without gradients."""

    def without_gradients() -> object:
        with torch.no_grad():
            return run()

    return without_gradients


def residual(hook: str) -> bool:
    """The residual stream before, within and after each block."""
    return "hook_resid_" in hook


def heads(hook: str) -> bool:
    """What each head attends to, and what it writes before the output matrix."""
    return hook.endswith(("hook_pattern", "hook_z"))


def results(hook: str) -> bool:
    """What each head adds to the residual stream."""
    return hook.endswith("hook_result")


def timed(name: str, contestants: dict[str, Callable[[], object]], rounds: int) -> list[dict[str, Any]]:
    """Ratios to Hugging Face's forward; the full cache is to stay below the bridge's."""
    rows = rows_of(alternate(contestants, rounds), BASE, BARS)
    theirs = next((row["ratio"] for row in rows if row["what"] == "bridge, full cache"), None)
    for row in rows:
        if row["what"] == "full cache" and theirs is not None:
            row["at most"] = round(theirs, 3)
    return [row | {"what": f"{name}: {row['what']}"} for row in rows]


if __name__ == "__main__":
    main()
