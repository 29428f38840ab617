"""The methods that find circuits: one record each, one signature, one kind of result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from workbench.circuits.acdc import acdc
from workbench.circuits.activation_patching import activation_patching
from workbench.circuits.activations import Ablation, check_ablation, graph_of
from workbench.circuits.atp import atp
from workbench.circuits.clean_corrupted import clean_corrupted
from workbench.circuits.eap import eap, eap_ig
from workbench.circuits.eap_gp import eap_gp
from workbench.circuits.eap_ig_activations import eap_ig_activations
from workbench.circuits.edge_pruning import edge_pruning
from workbench.circuits.exact import exact
from workbench.circuits.graph import Scores, layer_of
from workbench.circuits.hisp import hisp
from workbench.circuits.information_flow import information_flow
from workbench.circuits.path_patching import path_patching
from workbench.circuits.progress import ProgressFn
from workbench.circuits.random_scores import random_scores
from workbench.circuits.refine import refine
from workbench.circuits.relp import relp
from workbench.circuits.subnetwork_probing import subnetwork_probing
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.lookup import pick

Kind = Literal["gradient", "patching", "learned", "baseline"]
Passes = tuple[float, float]
CostFn = Callable[[Transformer, Mapping[str, Any]], Passes]

# Not settings of a method: they change how long it works and where it says so, never what it finds.
_NOT_OPTIONS = ("budget", "progress", "resume", "keep")
_SUPPORT = ("resume", "keep")
_ABLATIONS: tuple[str, ...] = get_args(Ablation)


@dataclass(frozen=True)
class Method:
    """One way to score edges.

    Attributes:
        key: its name.
        title: its name for people.
        cost: forwards and backwards for a batch of prompts.
        reference: where it was published.
        run: ``(model, task, *, progress, budget, **options) -> Scores``.
        kind: ``gradient`` (attribution), ``patching`` (interventions), ``learned`` (masks found by descent) or
            ``baseline``.
        ablations: what edges can be replaced by; none where the method replaces nothing.
        passes: ``(model, options) -> (forwards, backwards)`` for a batch, with every option given; None where they
            are not known before.
    """

    key: str
    title: str
    cost: str
    reference: str
    run: Callable[..., Scores]
    kind: Kind = "gradient"
    ablations: tuple[str, ...] = _ABLATIONS
    passes: CostFn | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The settings that :func:`discover` passes on, with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _NOT_OPTIONS}

    def cost_of(self, model: Transformer, options: Mapping[str, Any] | None = None) -> Passes | None:
        """(forwards, backwards) through the model for a batch of prompts; None where they are not known before.

        Args:
            model: the model.
            options: those that differ from the defaults.
        """
        return None if self.passes is None else self.passes(model, {**self.options, **(options or {})})


def _ablated(options: Mapping[str, Any]) -> int:
    """Forwards that the ablation takes: the corrupted prompts', which also means are made of."""
    return int(options["ablation"] != "zero")


def _sweeps(forwards: float, backwards: float) -> CostFn:
    return lambda _, options: (forwards + _ablated(options), backwards)


def _eap_ig(_: Transformer, options: Mapping[str, Any]) -> Passes:
    return options["steps"] + 1 + _ablated(options), options["steps"]


def _eap_gp(_: Transformer, options: Mapping[str, Any]) -> Passes:
    return 2 * options["steps"] + 2 + _ablated(options), 2 * options["steps"]


def _eap_ig_activations(model: Transformer, options: Mapping[str, Any]) -> Passes:
    # A run from layer l on is (L - l) / L of one; the embedding's are whole, every layer has two groups.
    groups = 2 - model.cfg.attn_only
    runs = options["steps"] * (1 + groups * (model.cfg.n_layers + 1) / 2)
    return runs + 1 + _ablated(options), runs


def _atp(model: Transformer, options: Mapping[str, Any]) -> Passes:
    return 2 + 2 * options["qk_fix"] + _ablated(options), model.cfg.n_layers if options["graddrop"] else 1


def _each_edge(model: Transformer, _: Mapping[str, Any]) -> Passes:
    graph, n = graph_of(model), model.cfg.n_layers
    layers = [n if (layer := layer_of(reader)) is None else layer for reader in graph.readers]
    edges = graph.mask.sum(0).tolist()
    return sum(count * (n - layer) / n for count, layer in zip(edges, layers, strict=True)), 0


def _acdc(model: Transformer, options: Mapping[str, Any]) -> Passes:
    searches = options["steps"] if options["threshold"] is None else 1
    return _each_edge(model, options)[0] * searches, 0


def _each_node(model: Transformer, _: Mapping[str, Any]) -> Passes:
    graph, n = graph_of(model), model.cfg.n_layers
    return sum((n - (layer_of(writer) or 0)) / n for writer in graph.writers), 0


_METHODS = [
    Method(
        "eap-ig",
        "EAP with integrated gradients",
        "steps forwards and backwards, 2 forwards",
        "Hanna et al. 2024, arXiv 2403.17806",
        eap_ig,
        passes=_eap_ig,
    ),
    Method(
        "eap-ig-activations",
        "EAP with gradients integrated over activations",
        "about steps x (L + 2) forwards and backwards for L layers, 2 forwards",
        "Hanna et al. 2024, arXiv 2403.17806; Mueller et al. 2025, arXiv 2504.13151",
        eap_ig_activations,
        passes=_eap_ig_activations,
    ),
    Method(
        "relp",
        "Relevance patching",
        "2 forwards, 1 backward",
        "Rezaei Jafari et al. 2025, arXiv 2508.21258",
        relp,
        passes=_sweeps(1, 1),
    ),
    Method(
        "eap",
        "Edge attribution patching",
        "2 forwards, 1 backward",
        "Syed et al. 2023, arXiv 2310.10348",
        eap,
        passes=_sweeps(1, 1),
    ),
    Method(
        "clean-corrupted",
        "EAP with the gradients of both ends",
        "4 forwards, 2 backwards",
        "Hanna et al. 2024, arXiv 2403.17806",
        clean_corrupted,
        passes=_sweeps(3, 2),
    ),
    Method(
        "eap-gp",
        "EAP along a gradient path",
        "2 x steps forwards and backwards, 3 forwards",
        "Zhang et al. 2025, arXiv 2502.06852",
        eap_gp,
        passes=_eap_gp,
    ),
    Method(
        "exact",
        "Exact patching of every edge",
        "1 forward from its reader's layer on for each edge",
        "Conmy et al. 2023, arXiv 2304.14997; Mueller et al. 2025, arXiv 2504.13151",
        exact,
        kind="patching",
        passes=_each_edge,
    ),
    Method(
        "acdc",
        "Automatic circuit discovery (ACDC)",
        "steps x 1 forward from its reader's layer on for each edge (once with a threshold)",
        "Conmy et al. 2023, arXiv 2304.14997",
        acdc,
        kind="patching",
        passes=_acdc,
    ),
    Method(
        "path-patching",
        "Path patching",
        "1 forward from its reader's layer on for each edge",
        "Goldowsky-Dill et al. 2023, arXiv 2304.05969; Wang et al. 2022, arXiv 2211.00593",
        path_patching,
        kind="patching",
        passes=_each_edge,
    ),
    Method(
        "activation-patching",
        "Activation patching of every node",
        "1 forward from its layer on for each node",
        "Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262",
        activation_patching,
        kind="patching",
        passes=_each_node,
    ),
    Method(
        "edge-pruning",
        "Edge pruning: a learned mask on every edge",
        "steps x about 10 forwards, of a few prompts each",
        "Bhaskar et al. 2024, arXiv 2406.16778",
        edge_pruning,
        kind="learned",
    ),
    Method(
        "subnetwork-probing",
        "Subnetwork probing: a learned mask on every node",
        "steps x about 10 forwards, of a few prompts each",
        "Cao et al. 2021, arXiv 2104.03514",
        subnetwork_probing,
        kind="learned",
    ),
    Method(
        "learned-ranking",
        "Learned ranking, faithful at every size",
        "the starting method, then steps x about 10 forwards, of a few prompts each",
        "this project; straight-through gradients as in Bengio et al. 2013, arXiv 1308.3432",
        refine,
        kind="learned",
    ),
    Method(
        "atp",
        "Attribution patching of nodes (AtP*)",
        "5 forwards, L backwards for L layers (1 without GradDrop)",
        "Kramár et al. 2024, arXiv 2403.00745",
        atp,
        passes=_atp,
    ),
    Method(
        "hisp",
        "Head importance score for pruning",
        "1 forward, 1 backward",
        "Michel et al. 2019, arXiv 1905.10650",
        hisp,
        passes=_sweeps(1, 1),
    ),
    Method(
        "information-flow",
        "Information flow routes",
        "1 forward",
        "Ferrando and Voita 2024, arXiv 2403.00824",
        information_flow,
        kind="baseline",
        ablations=(),
        passes=lambda *_: (1, 0),
    ),
    Method(
        "random",
        "Random scores",
        "none",
        "Mueller et al. 2025, arXiv 2504.13151",
        random_scores,
        kind="baseline",
        ablations=(),
        passes=lambda *_: (0, 0),
    ),
]


def methods() -> list[Method]:
    """All methods, the recommended one first."""
    return list(_METHODS)


def method(key: str) -> Method:
    """The record of a method.

    Raises:
        ValueError: there is no such method; the message suggests the closest.
    """
    return pick(_METHODS, key, "method")


def check_options(key: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have, values of another type, and an ablation that it cannot serve.

    Raises:
        ValueError: naming the option, and those that exist or what it takes.
    """
    record = method(key)
    known, hints = record.options, _hints(record)
    for option, value in options.items():
        if option == "budget":
            if not _is_a(value, int) or value < 1:
                raise ValueError(f"The option 'budget' takes a positive whole number of bytes, not {_shown(value)}.")
        elif option not in known:
            if option == "ablation":
                raise ValueError(f"The method '{key}' replaces nothing, so it takes no ablation; leave it out.")
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"The method '{key}' has no option '{option}'; {has}.")
        elif option == "ablation":
            check_ablation(value)
        elif not _is_a(value, hint := hints.get(option, Any if known[option] is None else type(known[option]))):
            takes = _in_words(hint)
            raise ValueError(f"The option '{option}' of the method '{key}' takes {takes}, not {_shown(value)}.")
    ablation = options.get("ablation")
    if ablation in _ABLATIONS and ablation not in record.ablations:
        raise ValueError(f"The method '{key}' cannot ablate by '{ablation}'; it can by {', '.join(record.ablations)}.")


def _hints(record: Method) -> Mapping[str, Any]:
    """The types of a method's options; without one, the default's type counts."""
    try:
        return get_type_hints(record.run)
    except NameError:  # a name that only type checkers import
        return {}


def _parts(hint: Any) -> tuple[Any, ...]:
    """``T | None`` as its parts, and any other type alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; whole numbers are numbers too, and truth values are not."""
    for part in _parts(hint):
        if get_origin(part) is Literal:
            fits = isinstance(value, str) and value in get_args(part)
        elif part is float:
            fits = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        elif part is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = part not in (bool, str, NoneType) or isinstance(value, part)
        if fits:
            return True
    return False


def _in_words(hint: Any) -> str:
    """What a type admits, for people."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
    found = [", ".join(get_args(p)) if get_origin(p) is Literal else words.get(p, str(p)) for p in _parts(hint)]
    return " or ".join(found)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def discover(
    model: Transformer,
    task: Task,
    method: str = "eap-ig",
    *,
    progress: ProgressFn | None = None,
    **options: Any,
) -> Scores:
    """Score every edge of a model on a task.

    Args:
        model: the model.
        task: pairs of prompts and a metric.
        method: key of a method; :func:`methods` lists them.
        progress: called after every step; returning False stops and keeps what is finished.
        **options: settings of the method, such as ``steps=5`` or ``ablation="mean"``; ``budget`` (bytes);
            ``resume`` and ``keep`` of the methods that have them.

    Raises:
        ValueError: no such method or option, or a setting that the method refuses.
        Stopped: stopped before there was anything to keep.
    """
    record = pick(_METHODS, method, "method")
    takes = inspect.signature(record.run).parameters
    # A long method's support is passed on as it is: neither of the two changes what is found.
    check_options(method, {name: value for name, value in options.items() if name not in _SUPPORT or name not in takes})
    return record.run(model, task, progress=progress, **options)
