"""Taps: functions that see, and may replace, a named activation while a model runs.

A tap belongs to one call, never to the model: ``model(tokens, taps={name: function})``. That is what lets many
threads share one model, and why an exception leaves nothing behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.lookup import meant

Tap = Callable[[Tensor], Tensor | None]


class Keep:
    """A tap that keeps an activation as it is, or as another tap leaves it.

    Args:
        kept: where it is kept.
        name: under which name.
        first: the tap to ask first.
    """

    def __init__(self, kept: dict[str, Tensor], name: str, first: Tap | None) -> None:
        self.kept, self.name = kept, name
        self.first = None if first is None else Taps({name: first})

    def look(self, value: Tensor) -> Tensor:
        """Keep the value, and hand it on."""
        self.kept[self.name] = value if self.first is None else self.first(self.name, value)
        return self.kept[self.name]

    __call__ = look


class Taps:
    """The taps of one call. ``tap(name, value)`` gives the value that the model goes on with."""

    __slots__ = ("functions",)

    def __init__(self, functions: Mapping[str, Tap] | None = None) -> None:
        self.functions: Mapping[str, Tap] = functions or {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Show ``value`` to the tap called ``name``, if there is one; what it returns replaces the value.

        A tap gets a copy and the model goes on with it, so that one that changes its tensor in place changes no other
        activation, no cache and nothing of the caller's.

        Raises:
            ValueError: what it returns is no tensor of that shape (the batch may differ).
        """
        function = self.functions.get(name)
        if function is None:
            return value
        if isinstance(function, Keep):
            return function.look(value)
        value = value.clone()
        try:
            replaced = function(value)
        except Exception as error:
            error.add_note(f"(in the tap on '{name}')")
            raise
        if replaced is None:
            return value
        if not isinstance(replaced, Tensor) or replaced.shape[1:] != value.shape[1:]:
            got = list(replaced.shape) if isinstance(replaced, Tensor) else type(replaced).__name__
            raise ValueError(
                f"The tap on '{name}' must return a tensor {list(value.shape)} or None; it returned {got}."
            )
        return replaced

    def wants(self, *names: str) -> bool:
        """True if any of these activations is tapped: then it must be made even where a fused path skips it."""
        return bool(self.functions) and any(name in self.functions for name in names)


NO_TAPS = Taps()


@dataclass(frozen=True)
class Hook:
    """What a TransformerLens-style hook function gets as its second argument."""

    name: str

    def layer(self) -> int:
        """The block that the activation belongs to.

        Raises:
            ValueError: the activation is outside the blocks.
        """
        match = re.match(r"blocks\.(\d+)\.", self.name)
        if match is None:
            raise ValueError(f"The activation '{self.name}' belongs to no layer.")
        return int(match.group(1))


HookFunction = Callable[[Tensor, Hook], Tensor | None]
NameFilter = str | Sequence[str] | Callable[[str], bool] | None


def model_hook_names(cfg: ModelConfig) -> list[str]:
    """Every activation that can be tapped, in the order of computation."""
    names = ["hook_embed"]
    names += ["hook_token_type_embed"] * bool(cfg.n_token_types)
    names += ["hook_pos_embed"] * (cfg.positions != "rotary")
    names += norm_hook_names("embed_norm", cfg) if cfg.embed_norm else []
    for layer in range(cfg.n_layers):
        names += block_hook_names(layer, cfg)
    names += norm_hook_names("ln_final", cfg, cfg.norm if cfg.norm_place == "pre" else "none")
    if cfg.head == "none":
        return names
    names += ["hook_pooled"] * (cfg.pooling != "none")
    if cfg.head_act is not None:
        names += ["head.hook_pre", "head.hook_post", *(norm_hook_names("head.ln", cfg) if cfg.head_norm else [])]
    return [*names, "hook_unembed"]


def block_hook_names(layer: int, cfg: ModelConfig) -> list[str]:
    """Names of the activations of one block, in the order of computation."""
    attention = ["q", "k", "k_heads", "v", "v_heads"] + ["rot_q", "rot_k"] * (cfg.positions == "rotary")
    attention += ["attn_scores", "pattern", "z", "result"]
    before = norm_hook_names("ln1", cfg) if cfg.norm_place == "pre" else []
    names = ["hook_resid_pre", *before, *(f"attn.hook_{name}" for name in attention)]
    names += (norm_hook_names("ln1_post", cfg) if cfg.post_norms else []) + ["hook_attn_out"]
    names += [] if before else norm_hook_names("ln1", cfg)
    if not cfg.attn_only:
        mlp = ["in", "pre", *["pre_linear"] * cfg.gated_mlp, *["mid"] * (cfg.act_fn == "solu_ln"), "post"]
        names += [] if cfg.parallel else ["hook_resid_mid"]
        names += norm_hook_names("ln2", cfg) if before and not cfg.shared_norm else []
        names += [f"mlp.hook_{name}" for name in mlp]
        names += (norm_hook_names("ln2_post", cfg) if cfg.post_norms else []) + ["hook_mlp_out"]
        names += [] if before else norm_hook_names("ln2", cfg)
    return [f"blocks.{layer}.{name}" for name in [*names, "hook_resid_post"]]


def norm_hook_names(norm: str, cfg: ModelConfig, kind: str | None = None) -> list[str]:
    """Names of the activations of one norm; a model without norms has its output alone."""
    parts = ["scale", "normalized"] if (kind or cfg.norm) != "none" else []
    return [f"{norm}.hook_{name}" for name in [*parts, "out"]]


# Made only where they are asked for by name: each is a copy, per query head, of something smaller.
ON_REQUEST = ("hook_result", "hook_k_heads", "hook_v_heads")


def check_names(names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse names that no activation has.

    Raises:
        ValueError: naming the first unknown one and the closest that exist.
    """
    exists = set(known)
    for name in names:
        if name not in exists:
            raise ValueError(f"This model has no activation called '{name}'; {meant(name, known, 3)}")


def select_names(names: NameFilter, known: Sequence[str]) -> list[str]:
    """The activations that a cache is to keep: None = all but those in :data:`ON_REQUEST`.

    Raises:
        ValueError: a name does not exist.
    """
    if names is None:
        return [name for name in known if not name.endswith(ON_REQUEST)]
    if callable(names):
        return [name for name in known if names(name)]
    if not isinstance(names, str | Iterable):
        raise ValueError(f"Names are a name, a list of names or a predicate, not {type(names).__name__}.")
    chosen = [names] if isinstance(names, str) else list(names)
    check_names(chosen, known)
    return chosen
