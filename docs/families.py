"""Write ``docs/families.md``: every family, what it covers, and how closely it agrees with Hugging Face.

Run it from the repository: ``.venv/bin/python docs/families.py``. It measures every sample, which takes a minute.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from workbench.models import from_hf
from workbench.models.families import FAMILIES, Family
from workbench.models.families.samples import Sample, inputs_for, samples_of
from workbench.models.parity import Parity, compare

PAGE = Path(__file__).parent / "families.md"
SEEDS = range(3)
HEADER = "| family | Hugging Face `model_type` | classes | what it has | forward | gradients | bfloat16 |"
TOP = """# Families

A model of one of these families runs as Hugging Face's own does: the same weights, the same numbers. This page is
written by `docs/families.py` from the registry of families, and a test measures again.

"""
MEASURE = """
For each family small models with random weights of every class were compared with Hugging Face's: batches of texts of
17, 9 and 1 tokens without padding and with padding on either side, token types where there are any, images of the
model's size and, for DINOv2, of another. Compared were

- *forward*, in float32: logits, by the fused kernels and with attention step by step, the residual stream before,
  inside and after every block, and every attention pattern;
- *gradients*, in float32: of a logit difference with respect to every head's output;
- *bfloat16*: as forward, against Hugging Face in bfloat16.

Each figure is the largest difference anywhere, in standard deviations of what Hugging Face has there (of patterns,
which are shares, the difference itself), rounded up to one digit; 0 means the same bits. Only real tokens count, and
positions count real tokens only: Hugging Face was given `position_ids` for padding on the left, without which most of
its families count padding too, and its classifiers of text read the first position even where it is padding. It was
measured on a CPU. The tests hold 1e-5 forward, 1e-4 for gradients and, unless rounded elsewhere, 2e-2 in bfloat16, for
many more shapes.

DeiT with a teacher rounds elsewhere in half precision, because its two classifiers become one matrix. In bfloat16 one
rounding of a number four standard deviations out is 1.6e-2 of one already. There the difference is below 2e-2 in norm,
and both are equally far from the result in float32.

`workbench.models.parity.check("smollm2-135m")` measures a model that you have, by name or folder;
`parity.compare(hf_model, model, tokens)` measures models in memory.

## What is refused

A configuration that the block cannot follow is refused with a sentence that names the option: rotary scalings that
change with the prompt's length (`dynamic`, `longrope`), cross-attention, GPT-2's `scale_attn_by_inverse_layer_idx`,
Phi's `qk_layernorm`, OPT with norms after the sublayers or projected embeddings (350m).

## Adding a family

A family is an adapter, a record and a sample.

1. **The adapter**: `workbench/models/families/NAME.py` with `adapt(hf_model)`. It returns a `ModelConfig` and the
   weights by our names. `of_blocks` in `parts.py` takes over named parts layer by layer; a fused matrix is cut into
   views. What the one block cannot do, the adapter refuses with a `ValueError` of one sentence. `llama.py` is a good
   one to start from. What the family does differently is a field of `ModelConfig` and one branch on it in
   `attention.py` or `blocks.py`.
2. **The record**: a `Family` in `FAMILIES` of `workbench/models/families/__init__.py`: its `model_type`, its classes,
   and a few words for this page.
3. **The sample**: a `Sample` in `workbench/models/families/samples.py` for every class, with the options that set the
   family apart. If its configuration calls the sizes otherwise, `_NAMES` says how.
4. **The test**: there is none to write. `tests/models/test_parity.py` takes every sample through all comparisons. If
   Hugging Face's block has parts of a new name, the error says which line of `workbench/models/parity.py` to add to.
5. **This page**: run `docs/families.py`.
"""


def main() -> None:
    """Measure and write."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    rows = [row(family) for family in FAMILIES]
    return TOP + "\n".join([HEADER, "|---" * HEADER.count(" | ") + "|---|", *rows]) + "\n" + MEASURE


def row(family: Family) -> str:
    """One family's line of the table."""
    samples = samples_of(family)
    exact = [found for sample in samples for seed in SEEDS for found in measure(sample, seed)]
    half = [found for sample in samples for seed in SEEDS for found in measure(sample, seed, torch.bfloat16)]
    gradients = max(found.gradient or 0.0 for found in exact)
    figures = [rounded_up(x) for x in (max(map(forward, exact)), gradients, max(map(forward, half)))]
    return f"{told(family)} {' | '.join(figures)} |"


def told(family: Family) -> str:
    """What the registry says of a family, as the first cells of its line."""
    types, classes = (", ".join(f"`{name}`" for name in names) for names in (family.model_types, family.classes))
    return f"| {family.title} | {types} | {classes} | {family.has} |"


def measure(sample: Sample, seed: int, dtype: torch.dtype = torch.float32) -> list[Parity]:
    """One sample on all its inputs; in half precision without gradients."""
    exact = dtype == torch.float32
    hf = sample.model(seed=seed, dtype=dtype, weights="wild" if exact else "usual")
    ours = from_hf(hf)
    return [compare(hf, ours, **given, gradients=exact) for given in inputs_for(hf, seed=seed)]


def forward(found: Parity) -> float:
    """The worst difference on the way forward."""
    return max(found.logits, found.residual, found.pattern)


def rounded_up(x: float) -> str:
    """To one digit, never down."""
    if x == 0:
        return "0"
    power = math.floor(math.log10(x))
    digit = math.ceil(round(x / 10.0**power, 6))
    return f"{digit * 10.0**power:.0e}".replace("e-0", "e-")


if __name__ == "__main__":
    main()
