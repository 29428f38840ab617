"""Make the pictures of ``docs/observatory.md``: SmolLM2 on 1,024 tokens of prose, and every head on one sentence.

Run it from the repository: ``.venv/bin/python docs/observatory.py``. It takes one to two minutes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn import datasets

import workbench as wb
from workbench.export import Exportable, export, write
from workbench.observing import measure_map, observe, pictures

IMAGES = Path(__file__).parent / "img"
SENTENCE = "When Mary and John went to the store, John gave a drink to Mary. When they were home, Mary and John slept."
LONG = ("sink_mass", "layers", "position", "context", "largest_context")


def main() -> None:
    """Observe, draw, write."""
    model = wb.load("smollm2-135m")
    found = pictures(observe(model, SENTENCE, weights=False))
    drawn = {"heads": found["heads"]}
    text = "\n\n".join(getattr(datasets, f"load_{name}")().DESCR for name in ("breast_cancer", "diabetes", "wine"))
    tokens = torch.tensor([model.tokenizer(text, verbose=False)["input_ids"][:1024]])
    observation = observe(model, tokens)
    found = pictures(observation)
    drawn |= {name: found[name] for name in LONG}
    best = [head.name for head in observation.census.top("induction")]
    drawn["induction"] = measure_map(observation, "induction", selected=best)
    for name, figure in drawn.items():
        write(IMAGES / f"observatory-{name.replace('_', '-')}.svg", export(Exportable(figure=figure), "svg"))


if __name__ == "__main__":
    main()
