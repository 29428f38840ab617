"""What the attention observatory costs: statistics of every layer and head beside plain forwards, on SmolLM2."""

from __future__ import annotations

from common import alternate, options, peak_growth, report, rows_of

import torch
from sklearn import datasets

from workbench.attention import statistics
from workbench.models import Transformer, load

TOKENS = 2048
BASE = "plain forward"
BARS = {"statistics": 2.0}


def main() -> None:
    """Time 2,048 tokens: a forward, the statistics, those with columns, and what building patterns takes."""
    args = options(__doc__ or "", rounds=3)
    model = load("smollm2-135m")
    tokens = text_of(model)
    contestants = {
        BASE: lambda: forward(model, tokens),
        "statistics": lambda: statistics(model, tokens),
        "statistics with columns": lambda: statistics(model, tokens, columns=True),
        "entropy from patterns": lambda: materialised(model, tokens),
    }
    forward(model, tokens[:, :16])  # brings the weights into memory
    peaks = {name: peak_growth(contestants[name]) for name in (*list(contestants)[1:], BASE)}
    rows = rows_of(alternate(contestants, args.rounds), BASE, BARS)
    for row in rows:
        row["peak MiB"] = peaks[row["what"]]
    report("attention_observatory", f"Statistics of attention: SmolLM2-135M, {tokens.shape[1]} tokens", rows)


def text_of(model: Transformer, n: int = TOKENS) -> torch.Tensor:
    """English prose that lies on every machine with the workbench: the descriptions of scikit-learn's data sets."""
    text = "\n\n".join(getattr(datasets, f"load_{name}")().DESCR for name in ("breast_cancer", "diabetes", "wine"))
    return torch.tensor([model.tokenizer(text, verbose=False)["input_ids"][:n]])


@torch.no_grad()
def forward(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """Logits at every position."""
    return model(tokens)


@torch.no_grad()
def materialised(model: Transformer, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Entropy alone, from each layer's pattern, which is dropped before the next layer's is made."""
    found: list[torch.Tensor] = []

    def tap(pattern: torch.Tensor) -> None:
        found.append(torch.special.entr(pattern).sum(-1).mean((0, 2)))

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    model(tokens, dict.fromkeys(names, tap), stop_at_layer=model.cfg.n_layers)
    return found


if __name__ == "__main__":
    main()
