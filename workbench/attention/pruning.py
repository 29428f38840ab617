"""Runs with heads pruned, several heads in one stack, and what the output makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.asked import Asked
from workbench.circuits.progress import Reporter
from workbench.models import Transformer
from workbench.models.taps import Tap


def per_run(model: Transformer, n: int) -> int:
    """Numbers that one layer of one example of ``n`` positions holds while it runs, about."""
    cfg = model.cfg
    streams = 8 * cfg.d_model + 4 * cfg.d_mlp + 6 * cfg.n_heads * cfg.d_head
    plain = cfg.attn_softcap is None and all(block.attn.is_softmax for block in model.blocks)
    return n * streams + (0 if plain else 3 * cfg.n_heads * n * n)


def run_layers(model: Transformer, question: Asked, taps: dict[str, Tap]) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last layer."""
    given = question.given
    more = {} if given.token_types is None else {"token_types": given.token_types}
    out: Tensor = model(given.tokens, taps, attention_mask=question.mask, stop_at_layer=model.cfg.n_layers, **more)
    return out


def mean_outputs(
    model: Transformer, parts: Sequence[Asked], report: Reporter
) -> Float[Tensor, "layer head d_head"] | None:
    """Mean output of every head over all real positions of all examples; None where it was stopped."""
    cfg, count = model.cfg, 0
    sums = torch.zeros(cfg.n_layers, cfg.n_heads, cfg.d_head, dtype=torch.float64, device=model.device)
    for part in parts:
        real = part.given.real

        def add(layer: int, z: Tensor, real: Tensor | None = real) -> None:
            sums[layer] += (z.flatten(0, 1) if real is None else z[real]).double().sum(0)

        taps: dict[str, Tap] = {f"blocks.{layer}.attn.hook_z": partial(add, layer) for layer in range(cfg.n_layers)}
        run_layers(model, part, taps)
        count += part.rows.numel() if real is None else int(real.sum())
        report.step()
        if not report.going:
            return None
    return sums / count


def reads_first_values(model: Transformer) -> bool:
    """Whether layers mix their values with the first layer's, so that no run can start behind it."""
    return any(block.attn.mechanism.values is not None for block in model.blocks)


def without(
    model: Transformer, question: Asked, before: Sequence[Tensor], layer: int, taps: dict[str, Tap]
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last layer, with taps that change one layer.

    Args:
        before: the stream before every layer of the unchanged run.
    """
    start = 0 if reads_first_values(model) else layer
    end = model.cfg.n_layers
    out: Tensor = model(before[start], taps, attention_mask=question.mask, start_at_layer=start, stop_at_layer=end)
    return out


class Pruned:
    """A few examples, run once; heads pruned from their own layer on.

    Args:
        model: any model.
        question: the examples.
        fill: what a pruned head writes at every position.
        numbers: logits that are made at a time.
    """

    def __init__(
        self, model: Transformer, question: Asked, fill: Float[Tensor, "layer head d_head"], numbers: int
    ) -> None:
        self.model, self.question, self.fill, self.numbers = model, question, fill, numbers
        self.before: dict[int, Tensor] = {}
        self.from_first = reads_first_values(model)
        self.base: dict[str, Tensor] = {}

        def keep(layer: int, x: Tensor) -> None:
            self.before[layer] = x

        layers = range(1 if self.from_first else model.cfg.n_layers)
        self.final = run_layers(
            model,
            question,
            {f"blocks.{layer}.hook_resid_pre": partial(keep, layer) for layer in layers},
        )

    def pruned(self, layer: int, heads: Sequence[int]) -> Float[Tensor, "heads batch pos d_model"]:
        """The residual stream after the last layer, with each of some heads pruned alone."""
        start, n = 0 if self.from_first else layer, len(heads)
        x = self.before[start]

        def prune(z: Tensor) -> Tensor:
            stacked = z.clone().view(n, -1, *z.shape[1:])
            for at, head in enumerate(heads):
                stacked[at, :, :, head] = self.fill[layer, head]
            return stacked.flatten(0, 1)

        mask = None if self.question.mask is None else self.question.mask.repeat(n, 1)
        out: Tensor = self.model(
            x.expand(n, *x.shape).flatten(0, 1),
            {f"blocks.{layer}.attn.hook_z": prune},
            attention_mask=mask,
            start_at_layer=start,
            stop_at_layer=self.model.cfg.n_layers,
        )
        return out.view(n, *x.shape)

    def scores(self, layer: int, heads: Sequence[int], keys: Sequence[str]) -> dict[str, Float[Tensor, "heads batch"]]:
        """Metrics of some heads of a layer, means over the outputs of each example."""
        final = torch.cat([self.final[None], self.pruned(layer, heads)])
        batch = len(self.question.rows)
        sums = {key: torch.zeros(len(heads), batch, dtype=torch.float64, device=final.device) for key in keys}
        if "shift" in keys:
            sums["shift"] += self._shift(final)
        if set(keys) != {"shift"}:
            self._outputs(final, sums)
        return {key: total.cpu() for key, total in sums.items()}

    def _shift(self, final: Tensor) -> Float[Tensor, "heads batch"]:
        x = torch.nn.functional.normalize(final.double(), dim=-1)
        # Half the squared distance of unit vectors is 1 - cos, without its loss of digits near 0.
        apart = (x[1:] - x[0]).square().sum(-1) / 2
        rows = self.question.rows
        mean: Tensor = apart.masked_fill(~rows, 0).sum(-1) / rows.sum(-1)
        return mean

    def _outputs(self, final: Tensor, sums: dict[str, Tensor]) -> None:
        """Add what the logits say; the first run is the model as it is."""
        base: dict[str, Tensor] = {}
        for logits, example, right in self.question.outputs(self.model, final, self.numbers):
            logp = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            found: dict[str, Tensor] = {}
            if "js" in sums:
                found["js"] = js(logp[1:], logp[:1])
            if right is not None:
                own = logp.gather(-1, right.expand(len(logp), -1)[..., None])[..., 0].double()
                hit = (logp.argmax(-1) == right).double()
                found |= {"loss": own[0] - own[1:], "probability": own[0].exp() - own[1:].exp()}
                found["accuracy"] = hit[0] - hit[1:]
                for key, value in (("loss", -own[:1]), ("probability", own[:1].exp()), ("accuracy", hit[:1])):
                    base[key] = base.get(key, 0) + self.question.by_example(value, example)[0]
            for key in found.keys() & sums.keys():
                sums[key] += self.question.by_example(found[key], example)
        self.base = {key: value.cpu() for key, value in base.items()}


def js(logp: Float[Tensor, "... n"], logq: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """Jensen-Shannon divergence of distributions given by their logarithms, in nats: between 0 and log 2 (Lin 1991)."""
    middle = torch.logaddexp(logp, logq) - torch.log(torch.tensor(2.0, dtype=logp.dtype))
    of_p = (logp.exp() * (logp - middle)).sum(-1)
    of_q = (logq.exp() * (logq - middle)).sum(-1)
    return ((of_p + of_q) / 2).clamp(min=0)


def gradients(model: Transformer, question: Asked, numbers: int, size: int) -> Float[Tensor, "layer head batch"]:
    """``abs(sum z dL/dz)`` of every head in every example, L its mean loss (Michel et al. 2019).

    A graph holds every layer of ``size // layers`` examples, or of one: as much as ``size`` examples of one layer.
    """
    some = max(1, size // model.cfg.n_layers)
    parts = [question.part(at, at + some) for at in range(0, len(question.rows), some)]
    return torch.cat([_gradients(model, part, numbers) for part in parts], -1)


@torch.enable_grad()
def _gradients(model: Transformer, question: Asked, numbers: int) -> Float[Tensor, "layer head batch"]:
    outputs: list[Tensor] = []

    def begin(x: Tensor) -> Tensor:
        return x.detach().requires_grad_()

    def keep(z: Tensor) -> None:
        outputs.append(z)

    taps: dict[str, Tap] = {f"blocks.{layer}.attn.hook_z": keep for layer in range(model.cfg.n_layers)}
    final = run_layers(model, question, taps | {"blocks.0.hook_resid_pre": begin})
    # Logits are many: their part of the gradient is found some outputs at a time.
    leaf = final.detach().requires_grad_()
    for logits, example, right in question.outputs(model, leaf[None], numbers):
        assert right is not None
        logp = logits[0].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        own = logp.gather(-1, right[:, None])[:, 0]
        question.by_example(-own[None], example).sum().backward()  # type: ignore[no-untyped-call]
    slopes = torch.autograd.grad(final, outputs, leaf.grad)
    effects = [
        torch.einsum("bphe,bphe->hb", z.double(), slope.double()) for z, slope in zip(outputs, slopes, strict=True)
    ]
    return torch.stack(effects).abs().detach().cpu()
