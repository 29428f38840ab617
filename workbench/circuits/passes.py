"""How many forwards and backwards through a model the methods take for a batch of prompts, by model and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workbench.circuits.activations import graph_of
from workbench.circuits.graph import layer_of
from workbench.models import Transformer

Passes = tuple[float, float]
CostFn = Callable[[Transformer, Mapping[str, Any]], Passes]


def _ablated(options: Mapping[str, Any]) -> int:
    """Forwards that the ablation takes: the corrupted prompts', which also means are made of."""
    return int(options["ablation"] != "zero")


def sweeps(forwards: float, backwards: float) -> CostFn:
    """So many, and the ablation's."""
    return lambda _, options: (forwards + _ablated(options), backwards)


def eap_ig(_: Transformer, options: Mapping[str, Any]) -> Passes:
    """Of ``eap-ig``."""
    return options["steps"] + 1 + _ablated(options), options["steps"]


def eap_gp(_: Transformer, options: Mapping[str, Any]) -> Passes:
    """Of ``eap-gp``."""
    return 2 * options["steps"] + 2 + _ablated(options), 2 * options["steps"]


def eap_ig_activations(model: Transformer, options: Mapping[str, Any]) -> Passes:
    """Of ``eap-ig-activations``."""
    # A run from layer l on is (L - l) / L of one; the embedding's are whole, every layer has two groups.
    groups = 2 - model.cfg.attn_only
    runs = options["steps"] * (1 + groups * (model.cfg.n_layers + 1) / 2)
    return runs + 1 + _ablated(options), runs


def atp(model: Transformer, options: Mapping[str, Any]) -> Passes:
    """Of ``atp``."""
    return 2 + 2 * options["qk_fix"] + _ablated(options), model.cfg.n_layers if options["graddrop"] else 1


def each_edge(model: Transformer, _: Mapping[str, Any]) -> Passes:
    """One from its reader's layer on for each edge."""
    graph, n = graph_of(model), model.cfg.n_layers
    layers = [n if (layer := layer_of(reader)) is None else layer for reader in graph.readers]
    edges = graph.mask.sum(0).tolist()
    return sum(count * (n - layer) / n for count, layer in zip(edges, layers, strict=True)), 0


def decomposition(model: Transformer, options: Mapping[str, Any]) -> Passes:
    """Of ``cdt``: for each node a sweep from its layer on; for edges its slopes, and what goes straight to readers."""
    nodes = each_node(model, options)[0]
    if options["level"] == "nodes":
        return nodes + 1 + _ablated(options), 0
    return (2 + options["steps"]) * nodes + 2 + _ablated(options), options["steps"] * nodes


def acdc(model: Transformer, options: Mapping[str, Any]) -> Passes:
    """Of ``acdc``."""
    searches = options["steps"] if options["threshold"] is None else 1
    return each_edge(model, options)[0] * searches, 0


def each_node(model: Transformer, _: Mapping[str, Any]) -> Passes:
    """One from its layer on for each node."""
    graph, n = graph_of(model), model.cfg.n_layers
    return sum((n - (layer_of(writer) or 0)) / n for writer in graph.writers), 0
