"""Optimal ablation: the constants in place of which writers are missed least.

Li and Janson 2024 (arXiv 2409.09951), section 2: to ablate a part is to replace what it writes by one constant for all
inputs and positions. Zeros and means are such constants, but they can lead the model astray, which says nothing of
what the part told it. The optimal constant takes away what the part says of the input and does no other harm:

    a* = argmin over a of E[distance(model, model with the part replaced by a)].

All writers' constants are learned in one run by Adam, from their means over the tokens of the corrupted prompts. In
every step each example ablates writers of its own: ``one``, drawn at random (the definition above), ``some`` (each
with a chance of one half, as circuits do), or ``all``. Steps are in units of how much a writer's output varies.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import (
    Ablator,
    AnyAblation,
    OptimalConstants,
    WriterOutputs,
    batch_size_for,
    fingerprint_of,
    graph_of,
    record,
    writer_names,
)
from workbench.circuits.eap import BUDGET
from workbench.circuits.mask_training import Loss, check_training, distance
from workbench.circuits.partial import SECONDS
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.task import Task
from workbench.models import Transformer

Together = Literal["one", "some", "all"]
STEPS, PROMPTS = 200, 16
Keep = Callable[[OptimalConstants], None]
"""Takes the constants so far, with what the search needs to go on."""


def optimal_constants(
    model: Transformer,
    task: Task,
    *,
    together: Together = "one",
    steps: int = STEPS,
    learning_rate: float = 0.1,
    loss: Loss | None = None,
    prompts: int = PROMPTS,
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: OptimalConstants | None = None,
    keep: Keep | None = None,
) -> OptimalConstants:
    """Learn one constant for every writer that replaces what it writes at all positions of all prompts.

    What comes back can be given as ``ablation=`` to :func:`workbench.circuits.discover`,
    :func:`workbench.circuits.evaluate` and all else that ablates; the name alone learns them anew each time.

    Args:
        model: any hooked model.
        task: prompts; the constants fit the clean ones, and start from means over the corrupted ones.
        together: how many writers each example ablates.
        steps: each costs two plain forwards and one backward of ``prompts`` examples.
        learning_rate: of Adam, in standard deviations of a writer's output; it sinks to 0.
        loss: how far an ablated run is from the model, see :data:`workbench.circuits.mask_training.LOSSES`; None for
            ``kl``, or ``square`` where the model has one output.
        prompts: examples in a step.
        seed: of examples and writers.
        budget: bytes beside the model.
        progress: called after every step; returning False keeps the constants so far.
        resume: what an earlier search handed out; it goes on to the same constants as without the break.
        keep: takes the constants so far, every few seconds and at the end.

    Returns:
        Constants with axes of length 1 for batch and position: embed [1, 1, d_model], z a layer [1, 1, head, d_head],
        mlp a layer [1, 1, d_model]. In the very first step of the search they are the means.

    Raises:
        ValueError: an unknown choice or loss, a number that is not positive, or ``resume`` of another search.
    """
    if together not in get_args(Together):
        raise ValueError(f"Unknown choice '{together}'; together is one of {', '.join(get_args(Together))}.")
    loss = loss or ("kl" if stream.has_distribution(model) else "square")
    check_training(model, loss, steps, learning_rate, prompts)
    size = min(prompts, batch_size_for(model, task, budget))
    about = {**_asked(model, task), "together": together, "steps": steps, "learning_rate": learning_rate}
    about |= {"loss": loss, "in a step": size, "seed": seed}
    if resume is not None:
        _check_same(about, resume.about)
        if resume.complete:
            return resume
    search = _Search(model, task, size, seed, learning_rate)
    if resume is not None:
        search.restore(resume.state)
    report = Reporter(progress, steps, "learning constants", done=0 if resume is None else resume.done)
    handed = time.monotonic()
    while report.going and report.done < steps:
        batch, chosen = search.draw(together)
        off = ablated_distance(model, batch, search.constants, chosen, loss)
        search.step(off, learning_rate * (1 - report.done / steps))
        report.step()
        if keep is not None and report.done < steps and time.monotonic() - handed > SECONDS:
            keep(search.result(about, report.done))
            handed = time.monotonic()
    found = search.result(about, report.done)
    if keep is not None:
        keep(found)
    return found


def with_constants(
    kind: AnyAblation, model: Transformer, task: Task, progress: ProgressFn | None = None
) -> AnyAblation:
    """An ablation with all that it needs: ``optimal`` with its constants, learned now; every other as it is.

    Args:
        kind: the ablation.
        model, task: whose constants.
        progress: called after every step of learning.

    Raises:
        Stopped: stopped before they were learned.
    """
    if kind != "optimal" or isinstance(kind, OptimalConstants):
        return kind
    constants = optimal_constants(model, task, progress=progress)
    if not constants.complete:
        raise Stopped("Stopped before the constants of optimal ablation were learned; nothing was kept.")
    return constants


def learning_passes(n_examples: int, steps: int = STEPS, prompts: int = PROMPTS) -> tuple[float, float]:
    """What learning costs: (forwards, backwards) of all ``n_examples``, the means that it starts from among them."""
    share = min(prompts, n_examples) / n_examples
    return 1 + 2 * steps * share, steps * share


def are_for(constants: OptimalConstants, model: Transformer, task: Task) -> bool:
    """Whether constants were learned on this model and on these prompts."""
    return constants.about.items() >= _asked(model, task).items()


def pack(constants: OptimalConstants) -> bytes:
    """Constants as a safetensors file, with what an unfinished search needs to go on."""
    from safetensors.torch import save

    outputs = constants.outputs
    tensors = {"embed": outputs.embed, **{f"state.{name}": value for name, value in constants.state.items()}}
    tensors |= {f"z.{layer}": value for layer, value in enumerate(outputs.z)}
    tensors |= {f"mlp.{layer}": value for layer, value in enumerate(outputs.mlp)}
    said = {"about": json.dumps(constants.about), "done": str(constants.done)}
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, said)


def unpack(path: Path) -> OptimalConstants:
    """Constants out of a file that :func:`pack` made.

    Raises:
        ValueError: there is none, or it is cut short or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        layers = {kind: sum(name.startswith(f"{kind}.") for name in tensors) for kind in ("z", "mlp")}
        z, mlp = ([tensors[f"{kind}.{layer}"] for layer in range(n)] for kind, n in layers.items())
        state = {name.removeprefix("state."): x for name, x in tensors.items() if name.startswith("state.")}
        return OptimalConstants(
            WriterOutputs(tensors["embed"], z, mlp), dict(json.loads(said["about"])), int(said["done"]), state
        )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        raise ValueError(f"'{path}' holds no constants that can be read; delete it and learn them again.") from None


class _Search:
    """Constants under way: how many spreads each is away from its mean, Adam's memory, and what is drawn next."""

    def __init__(self, model: Transformer, task: Task, size: int, seed: int, learning_rate: float) -> None:
        self.task, self.size, self.writers = task, size, len(graph_of(model).writers)
        self.mean = Ablator(model, task, "mean", size)(task)
        first = task.rows(0, size)
        self.spread = _spread(record(model, first.clean, stream.attention_mask(model, first)), self.mean)
        self.moved = self.mean.map(lambda x: torch.zeros_like(x).requires_grad_())
        self.parameters = [self.moved.embed, *self.moved.z, *self.moved.mlp]
        self.adam = torch.optim.Adam(self.parameters, lr=learning_rate, betas=(0.9, 0.98))
        self.chance = torch.Generator().manual_seed(seed)

    @property
    def constants(self) -> WriterOutputs:
        """The constants as they are, differentiable."""
        return self.mean.combine(self.moved.combine(self.spread, torch.mul), torch.add)

    def draw(self, together: Together) -> tuple[Task, Bool[Tensor, "batch writers"]]:
        """The examples of the next step, and which writers each ablates."""
        start = int(torch.randint(0, max(1, len(self.task) - self.size + 1), (), generator=self.chance))
        batch = self.task.rows(start, start + self.size)
        return batch, _choose(together, len(batch), self.writers, self.chance)

    def step(self, off: Float[Tensor, ""], learning_rate: float) -> None:
        """One step of Adam down the distance."""
        self.adam.param_groups[0]["lr"] = learning_rate
        for parameter, gradient in zip(self.parameters, torch.autograd.grad(off, self.parameters), strict=True):
            parameter.grad = gradient
        self.adam.step()

    def result(self, about: dict[str, Any], done: int) -> OptimalConstants:
        """The constants, and what the search needs to go on where it is not at its end."""
        state: dict[str, Tensor] = {}
        if done < about["steps"]:
            state["chance"] = self.chance.get_state().clone()
            for i, parameter in enumerate(self.parameters):
                state[f"{i}.moved"] = parameter.detach().clone()
                state |= {f"{i}.{name}": value.clone() for name, value in self.adam.state[parameter].items()}
        return OptimalConstants(self.constants.map(lambda x: x.detach().clone()), about, done, state)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a search where it was left."""
        self.chance.set_state(state["chance"])
        for i, parameter in enumerate(self.parameters):
            with torch.no_grad():
                parameter.copy_(state[f"{i}.moved"])
            own = {name.removeprefix(f"{i}."): x for name, x in state.items() if name.startswith(f"{i}.")}
            self.adam.state[parameter] = {
                name: x.clone() if name == "step" else x.to(parameter, copy=True)
                for name, x in own.items()
                if name != "moved"
            }


def _asked(model: Transformer, task: Task) -> dict[str, Any]:
    """Whose constants, in words and digests."""
    digest = hashlib.sha256(repr([task.lengths.tolist(), task.right.tolist(), task.wrong.tolist()]).encode())
    for side in (task.clean, task.corrupted):
        digest.update(side.cpu().contiguous().numpy().tobytes())
    return {"model": fingerprint_of(model), "task": task.name, "prompts": f"{len(task)} ({digest.hexdigest()[:8]})"}


def _check_same(asked: dict[str, Any], began: dict[str, Any]) -> None:
    """Refuse to go on with another search, both said.

    Raises:
        ValueError: model, prompts or settings are others.
    """
    unlike = [key for key in {**asked, **began} if asked.get(key) != began.get(key)]
    if unlike:
        shown = "; ".join(f"{key}: {began.get(key)} then, {asked.get(key)} now" for key in unlike)
        raise ValueError(f"The search of constants began with other settings ({shown}); use those, or start anew.")


def ablated_distance(
    model: Transformer,
    batch: Task,
    constants: WriterOutputs,
    chosen: Bool[Tensor, "batch writers"],
    loss: Loss,
) -> Float[Tensor, ""]:
    """How far the model is from itself once each example's ``chosen`` writers write constants; differentiable."""
    plain = batch.answers(model)
    logits = ablated_logits(model, batch, constants, chosen)
    return distance(batch, logits, batch.score(plain), plain.log_softmax(-1), loss, 1.0)


def ablated_logits(
    model: Transformer, batch: Task, constants: WriterOutputs, chosen: Bool[Tensor, "batch writers"]
) -> Float[Tensor, "batch d_vocab"]:
    """Logits where the answer is read once each example's ``chosen`` writers write constants; differentiable."""
    graph, chosen = graph_of(model), chosen.to(model.device)
    columns = [slice(0, 1), *(graph.attention_writers(layer) for layer in range(graph.n_layers))]
    columns += [slice(graph.mlp_writer(layer), graph.mlp_writer(layer) + 1) for layer in range(len(constants.mlp))]
    values = [constants.embed, *constants.z, *constants.mlp]
    taps: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, which, value in zip(writer_names(model), columns, values, strict=True):
        ablate = chosen[:, None, which]  # batch 1 writers: broadcasts over positions, and over what they write
        taps[name] = partial(_replace, ablate=ablate[..., None] if value.ndim == 4 else ablate, value=value)
    at = None if stream.answers_once(model) else batch.last
    with torch.enable_grad():
        mask = stream.attention_mask(model, batch)
        found: Tensor = model(batch.clean.to(model.device), taps, attention_mask=mask, logits_at=at)
    return found if at is None else found[:, 0]


def _replace(x: Tensor, *, ablate: Tensor, value: Tensor) -> Tensor:
    return torch.where(ablate, value, x)


def _choose(together: Together, n: int, writers: int, draw: torch.Generator) -> Bool[Tensor, "batch writers"]:
    """Which writers each example ablates."""
    if together == "one":
        return torch.nn.functional.one_hot(torch.randint(0, writers, (n,), generator=draw), writers).bool()
    return torch.rand(n, writers, generator=draw) < (0.5 if together == "some" else 2)


def _spread(outputs: WriterOutputs, mean: WriterOutputs) -> WriterOutputs:
    """Root mean square of each writer's distance from its mean: [1, 1, 1] or [1, 1, head, 1]; 1 where it is 0."""

    def rms(x: Tensor, middle: Tensor) -> Tensor:
        size = (x - middle).square().mean((0, 1, -1), keepdim=True).sqrt()
        return torch.where(size > 0, size, 1.0)

    return outputs.combine(mean, rms)


__all__ = [
    "OptimalConstants",
    "Together",
    "ablated_distance",
    "ablated_logits",
    "are_for",
    "learning_passes",
    "optimal_constants",
    "pack",
    "unpack",
    "with_constants",
]
