"""What reading by depth costs beside plain forwards, on SmolLM2; with ``--train`` also what a tuned lens is worth.

python benchmarks/lens.py
python benchmarks/lens.py --train 100
"""

from __future__ import annotations

import argparse
import time

from common import alternate, peak_growth, report, rows_of

import torch
from sklearn import datasets

from workbench import lens
from workbench.circuits.progress import Progress
from workbench.models import Transformer, load

BASE = "plain forward"
TEXTS = ("breast_cancer", "diabetes", "wine", "iris", "digits", "linnerud")


def main() -> None:
    """Time one text of 128 tokens; the tables go to ``results/lens.json`` and ``results/tuned_lens.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each contestant runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--train", type=int, default=0, metavar="STEPS", help="train a tuned lens instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load("smollm2-135m")
    if args.train:
        train(model, args.train)
    else:
        time_readings(model, args.rounds)


def prose() -> list[str]:
    """English prose that lies on every machine with the workbench: the descriptions of scikit-learn's data sets."""
    return [getattr(datasets, f"load_{name}")().DESCR for name in TEXTS]


def time_readings(model: Transformer, rounds: int) -> None:
    """Seconds, ratios to a forward with logits, and memory."""
    tokens = torch.tensor([model.tokenizer(prose()[0], verbose=False)["input_ids"][:128]])
    forward(model, tokens[:, :16])  # brings the weights into memory
    contestants = {
        BASE: lambda: forward(model, tokens),
        "logit lens, last position": lambda: lens.logit_lens(model, tokens, positions=[-1]),
        "logit lens, 31 places": lambda: lens.logit_lens(model, tokens),
        "direct attribution": lambda: lens.direct_attribution(model, tokens),
        "direct attribution by source": lambda: lens.direct_attribution(model, tokens, sources=True),
        "spectra": lambda: lens.spectra(model, tokens),
        "30 layers left out": lambda: lens.layer_curve(model, tokens),
    }
    peaks = {name: peak_growth(run) for name, run in reversed(contestants.items())}
    rows = rows_of(alternate(contestants, rounds), BASE)
    for row in rows:
        row["peak MiB"] = peaks[row["what"]]
    report("lens", f"Reading by depth: SmolLM2-135M, {tokens.shape[1]} tokens", rows)


def train(model: Transformer, steps: int) -> None:
    """A tuned lens on windows of prose, judged on the last quarter of them."""
    began = time.perf_counter()

    def told(progress: Progress) -> None:
        if progress.done % 10 == 0:
            print(f"{progress.done} of {progress.total} steps, {time.perf_counter() - began:.0f} s", flush=True)

    found = lens.train_lens(model, prose(), steps=steps, positions=32, texts=1, progress=told)
    rows = [
        {"what": one.place, "logit lens": one.before[0], "tuned lens": one.after[0], "gain": one.gain[0]}
        | {"gain from": one.gain[1], "gain to": one.gain[2]}
        for one in found.held_out
    ]
    seconds = time.perf_counter() - began
    title = "KL from the final answer on held-out windows, nats per position"
    report("tuned_lens", title, rows, steps=steps, seconds=seconds, texts=found.settings["data"])


@torch.no_grad()
def forward(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """Logits at every position."""
    return model(tokens)


if __name__ == "__main__":
    main()
