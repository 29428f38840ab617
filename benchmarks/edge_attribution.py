"""EAP of every edge of SmolLM2-135M against plain Hugging Face passes over the same prompts.

The yardstick is one forward-and-backward plus one forward of Hugging Face's own model, fused attention on, as a user
would run it (gradients for weights too). The same with frozen weights stands beside it: the stricter comparison.
"""

from __future__ import annotations

from common import TEMPLATE, alternate, options, peak_growth, report, rows_of

import torch
from transformers import AutoModelForCausalLM

from workbench.circuits import discover, tasks
from workbench.models import load, registry

BASE, STRICT = "HF forward+backward + forward", "the same, weights frozen"
EAP, EAP_IG = "EAP, all 123,211 edges", "EAP-IG, 5 steps"


def main() -> None:
    """Weigh, then time, EAP and EAP-IG for 16 prompts of 14 tokens."""
    args = options(__doc__ or "", rounds=7)
    model = load("smollm2-135m")
    task = tasks.load("ioi", model, n=16, template=TEMPLATE)
    large = tasks.load("ioi", model, n=48, template=TEMPLATE)
    model(task.clean)  # the weights are mapped from the file: have them in memory before weighing what comes on top
    memory = {
        "EAP": round(peak_growth(lambda: discover(model, task, "eap"))),
        "EAP-IG, more": round(peak_growth(lambda: discover(model, task, "eap-ig"))),
        "EAP of 48 prompts, more": round(peak_growth(lambda: discover(model, large, "eap"))),
    }
    folder = registry.get("smollm2-135m")
    hf = AutoModelForCausalLM.from_pretrained(folder)
    frozen = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)

    def plain(net: torch.nn.Module) -> None:
        with torch.no_grad():
            net(task.corrupted, use_cache=False)
        embeds = net.get_input_embeddings()(task.clean).detach().requires_grad_(True)
        task.metric(net(inputs_embeds=embeds, use_cache=False).logits).mean().backward()
        net.zero_grad(set_to_none=True)

    contestants = {
        BASE: lambda: plain(hf),
        STRICT: lambda: plain(frozen),
        EAP: lambda: discover(model, task, "eap"),
        EAP_IG: lambda: discover(model, task, "eap-ig"),
    }
    seconds = alternate(contestants, args.rounds)
    strict = {row["what"]: round(row["ratio"], 2) for row in rows_of(seconds, STRICT)}
    report(
        "edge_attribution",
        f"Edge attribution, SmolLM2-135M, {len(task)} prompts of {task.clean.shape[1]} tokens",
        rows_of(seconds, BASE, {EAP: 1.5}),
        ratio_to_frozen_hugging_face=strict,
        peak_mib_beyond_the_model=memory,
    )


if __name__ == "__main__":
    main()
