"""How far a trained model has the circuit that it was trained to have."""

from __future__ import annotations

import random

import torch

from workbench.circuits.activations import graph_of
from workbench.circuits.known.siit.interchange import interchanged, outputs
from workbench.circuits.known.siit.pair import Kind, Pair
from workbench.models import Transformer

_SEED = 1_000_003  # of inputs that training did not draw


@torch.no_grad()
def figures(pair: Pair, model: Transformer, n: int = 2048) -> dict[str, float]:
    """Shares of answers, over random pairs of inputs.

    ``accuracy``: as the program. ``interchange``: as the program when one node of the circuit carries another input's
    activation in both; ``edge_interchange``: when some edges do. ``strict``: unchanged when one node outside the
    circuit carries another input's; ``strict_all``: when all of them do. ``circuit_alone``: as the program when every
    edge outside the circuit does.

    Args:
        pair: the two levels.
        model: the low level.
        n: pairs of inputs for each figure.
    """
    source, generator = random.Random(_SEED), torch.Generator().manual_seed(_SEED)
    high = pair.high.model
    base, other = pair.inputs(n, source), pair.inputs(n, source)
    program, _ = outputs(high, base)
    _, program_other = outputs(high, other)
    plain, _ = outputs(model, base)
    _, model_other = outputs(model, other)

    def share(kind: Kind, *, own: bool = False) -> float:
        above, below = pair.masks(kind, n, generator)
        said, _ = interchanged(model, base, model_other, below)
        wanted = plain if own else interchanged(high, base, program_other, above)[0]
        # What the model itself says is always clear.
        same = _unchanged(pair, said, wanted) if own else pair.same(said, wanted)
        return float(same.double().mean())

    return {
        "accuracy": float(pair.same(plain, program).double().mean()),
        "interchange": share("nodes"),
        "edge_interchange": share("edges"),
        "strict": share("other nodes", own=True),
        "strict_all": share("all other nodes", own=True),
        "circuit_alone": share("all other edges"),
    }


def _unchanged(pair: Pair, said: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    if pair.high.output.numerical:
        return pair.same(said, before)
    return (said[:, 1:].argmax(-1) == before[:, 1:].argmax(-1)).flatten()


@torch.no_grad()
def unseen(pair: Pair, n: int = 512) -> list[str]:
    """Edges of the circuit that no pair of inputs shows: the program answers the same when one carries another input's.

    In sentences of one form a name is there again always at the same place, for instance.
    """
    source, high = random.Random(_SEED + 1), pair.high.model
    base, other = pair.inputs(n, source), pair.inputs(n, source)
    plain, _ = outputs(high, base)
    _, written = outputs(high, other)
    found = []
    for edge in sorted(pair.true_edges):
        mask = torch.zeros(n, *graph_of(high).mask.shape, dtype=torch.bool)
        row, column = graph_of(high).edge(edge)
        mask[:, row, column] = True
        said, _ = interchanged(high, base, written, mask)
        if torch.allclose(said[:, 1:], plain[:, 1:], atol=1e-3):
            found.append(edge)
    return found
