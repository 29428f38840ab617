"""What hooks cost: forward, residual-only cache and full cache against Hugging Face and TransformerLens's bridge."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import TEMPLATE, alternate, options, report, rows_of

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from workbench.circuits import tasks
from workbench.models import load, registry

BASE = "HF forward"


def main() -> None:
    """Time SmolLM2-135M and a random model of GPT-2 small's shape on 16 prompts of 14 tokens."""
    args = options(__doc__ or "", rounds=7)
    logging.disable(logging.WARNING)
    smol = registry.get("smollm2-135m")
    tokens = tasks.load("ioi", load("smollm2-135m"), n=16, template=TEMPLATE).clean
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
        AutoTokenizer.from_pretrained(smol).save_pretrained(folder)
        rows = [
            *compare(smol, "SmolLM2", tokens, args.rounds),
            *compare(Path(folder), "GPT-2 small", tokens, args.rounds),
        ]
    report("hook_overhead", "What hooks cost, 16 prompts of 14 tokens", rows)


def compare(folder: Path, name: str, tokens: torch.Tensor, rounds: int) -> list[dict[str, Any]]:
    """A row each for Hugging Face, our model and the bridge."""
    from transformer_lens.model_bridge import TransformerBridge

    hf = AutoModelForCausalLM.from_pretrained(folder)
    ours = load(folder)
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")

    def quiet(run: Callable[[], object]) -> Callable[[], object]:
        def without_gradients() -> object:
            with torch.no_grad():
                return run()

        return without_gradients

    def residual(hook: str) -> bool:
        return "hook_resid_" in hook

    contestants = {
        BASE: quiet(lambda: hf(tokens, use_cache=False)),
        "forward": quiet(lambda: ours(tokens)),
        "residual-only cache": quiet(lambda: ours.run_with_cache(tokens, residual)),
        "full cache": quiet(lambda: ours.run_with_cache(tokens)),
        "bridge, forward": quiet(lambda: bridge(tokens)),
        "bridge, residual-only cache": quiet(lambda: bridge.run_with_cache(tokens, names_filter=residual)),
        "bridge, full cache": quiet(lambda: bridge.run_with_cache(tokens)),
    }
    rows = rows_of(alternate(contestants, rounds), BASE, {"forward": 1.05, "residual-only cache": 1.05})
    theirs = next(row["ratio"] for row in rows if row["what"] == "bridge, full cache")
    for row in rows:
        if row["what"] == "full cache":
            row["at most"] = round(theirs, 3)
    return [row | {"what": f"{name}: {row['what']}"} for row in rows]


if __name__ == "__main__":
    main()
