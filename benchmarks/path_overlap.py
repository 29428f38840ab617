"""Do the strongest single paths pass through the heads that circuit discovery finds? SmolLM2 on indirect objects.

Two readings of the same prompts that share no step: paths hold patterns, scales and gates and read one prompt at a
time; edge attribution compares with corrupted prompts and takes gradients. Beside the overlap stands what as many heads
drawn at random would give.
"""

from __future__ import annotations

from common import options, report

import torch

from workbench import paths
from workbench.circuits import discover, tasks
from workbench.models import load

EDGES = 500
PATHS = (20, 100)


def main() -> None:
    """Print the strongest paths, and how many of their heads the circuit holds."""
    args = options(__doc__ or "", rounds=400)  # rounds: suffixes that are taken up
    model = load("smollm2-135m")
    task = tasks.load("ioi", model, n=16, seed=0)
    circuit = discover(model, task, method="eap-ig").top(EDGES)
    members = {name for edge in circuit.edges for name in _ends(edge) if ".h" in name}
    real = torch.arange(task.clean.shape[1]) < task.lengths[:, None]
    target = (task.right[:, 0], task.wrong[:, 0])
    found = paths.top_paths(model, task.clean, target, k=max(PATHS), budget=args.rounds, attention_mask=real.long())
    for path in found.paths[:20]:
        print(f"{path.mean:+.3f}  {path.name}")
    rows = []
    heads_of_all = model.cfg.n_layers * model.cfg.n_heads
    for k in PATHS:
        heads = {name for path in found.paths[:k] for name in path.word if ".h" in name}
        both = len(heads & members)
        rows.append(
            {
                "what": f"heads on the first {k} paths",
                "heads": len(heads),
                "in the circuit": both,
                "share": both / len(heads),
                "by chance": len(members) / heads_of_all,
                "not in it": " ".join(sorted(heads - members)),
            }
        )
    report("path_overlap", f"Heads on the strongest paths and in a circuit of {EDGES} edges: SmolLM2, ioi", rows)


def _ends(edge: str) -> tuple[str, str]:
    """Writer and reader of an edge, the reader without its slot."""
    writer, reader = edge.split("->")
    return writer, reader.split("<")[0]


if __name__ == "__main__":
    main()
