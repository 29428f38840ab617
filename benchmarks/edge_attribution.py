"""EAP of every edge of SmolLM2-135M against plain Hugging Face passes over the same prompts.

The yardstick is one forward-and-backward plus one forward of Hugging Face's own model (fused attention on): once as a
training step would run it (gradients for the weights too), once with frozen weights, which is the stricter one.
"""

from __future__ import annotations

import torch
from common import alternate, medians, options, peak_growth, report
from transformers import AutoModelForCausalLM

from workbench.circuits import discover, tasks
from workbench.models import registry
from workbench.models.load import load

TEMPLATE = "When {} and {} went to the store, {} gave a drink to"


def main() -> None:
    """Time and weigh EAP and EAP-IG for 16 prompts of 14 tokens."""
    args = options(__doc__ or "", rounds=7)
    folder = registry.get("smollm2-135m")
    model = load("smollm2-135m")
    hf = AutoModelForCausalLM.from_pretrained(folder)
    frozen = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    task = tasks.load("ioi", model, n=16, template=TEMPLATE)

    def plain(net: torch.nn.Module) -> None:
        with torch.no_grad():
            net(task.corrupted, use_cache=False)
        embeds = net.get_input_embeddings()(task.clean).detach().requires_grad_(True)
        task.metric(net(inputs_embeds=embeds, use_cache=False).logits).mean().backward()
        net.zero_grad(set_to_none=True)

    contestants = {
        "HF forward+backward + forward": lambda: plain(hf),
        "the same, frozen weights": lambda: plain(frozen),
        "EAP, 123,211 edges": lambda: discover(model, task, "eap"),
        "EAP-IG, 5 steps": lambda: discover(model, task, "eap-ig"),
    }
    base = "HF forward+backward + forward"
    rows = medians(alternate(contestants, args.rounds), base, {"EAP, 123,211 edges": 1.5})
    strict = rows[2]["seconds"] / rows[1]["seconds"]
    del hf, frozen
    growth = {name: peak_growth(contestants[name]) / 2**20 for name in ("EAP, 123,211 edges", "EAP-IG, 5 steps")}
    for row in rows:
        row["peak MiB beyond the model"] = growth.get(row["what"], "")
    large = tasks.load("ioi", model, n=64, template=TEMPLATE)
    report(
        "edge_attribution",
        f"Edge attribution, SmolLM2-135M, {len(task)} prompts of {task.clean.shape[1]} tokens",
        rows,
        eap_over_frozen_hugging_face=round(strict, 3),
        eap_peak_mib_for_64_prompts=round(peak_growth(lambda: discover(model, large, "eap")) / 2**20, 1),
    )


if __name__ == "__main__":
    main()
