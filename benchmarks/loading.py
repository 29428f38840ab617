"""What loading costs: most memory beyond the start, in units of the model's size, and seconds; by type.

Each load runs in a process of its own. A model in the file's own number type is mapped and read where it is used, so
the figure with a forward pass behind it is given too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import options, peak_growth, report

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from workbench.models import registry

AT_MOST = 1.2
WIDE = {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 12}
TINY = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8}


def main() -> None:
    """SmolLM2 (0.5 GB in float32), and a random LLaMA of 1 GB in bfloat16, as most models on the hub are stored."""
    args = options(__doc__ or "", rounds=1)
    smol = registry.get("smollm2-135m")
    with tempfile.TemporaryDirectory() as folder:
        wide = LlamaForCausalLM(LlamaConfig(**WIDE, num_key_value_heads=4, vocab_size=49152, tie_word_embeddings=True))
        wide.to(torch.bfloat16).save_pretrained(folder, max_shard_size="300MB")
        del wide
        AutoTokenizer.from_pretrained(smol).save_pretrained(folder)
        rows = [
            {"what": f"{name}, as {dtype}", **measured(where, dtype), "at most": AT_MOST}
            for name, where in (("SmolLM2 (float32 file)", smol), ("1 GB LLaMA (bfloat16 shards)", Path(folder)))
            for dtype in ("float32", "bfloat16")
        ]
    report("loading", "Most memory while loading, in units of the model's size", rows, rounds=args.rounds)


def measured(folder: Path, dtype: str) -> dict[str, Any]:
    """Figures of one load in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", str(folder), dtype], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(folder: str, dtype: str) -> None:
    """Load once; print figures as JSON. What a tokenizer takes, 45 MiB of SmolLM2's, is no part of the model."""
    import time

    from workbench.models import load

    LlamaForCausalLM(LlamaConfig(**TINY))  # libraries are imported before
    kept: list[Any] = []
    tokenizer = peak_growth(lambda: kept.append(AutoTokenizer.from_pretrained(folder)))
    begin = time.perf_counter()
    peak = peak_growth(lambda: kept.append(load(folder, dtype=dtype))) - tokenizer
    seconds = time.perf_counter() - begin
    model = kept[-1]
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    with torch.no_grad():
        after = peak_growth(lambda: model(torch.zeros(1, 4, dtype=torch.long)))
    print(json.dumps({"MiB": size, "seconds": seconds, "peak": peak / size, "then a forward": after / size}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        main()
