"""The methods that find circuits: one record each, one signature, one kind of result."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from workbench.circuits import passes, stream
from workbench.circuits.acdc import acdc
from workbench.circuits.activation_patching import activation_patching
from workbench.circuits.activations import check_ablation
from workbench.circuits.atp import atp
from workbench.circuits.cdt import cdt
from workbench.circuits.cdt import check as check_rule
from workbench.circuits.clean_corrupted import clean_corrupted
from workbench.circuits.eap import eap, eap_ig
from workbench.circuits.eap_gp import eap_gp
from workbench.circuits.eap_ig_activations import eap_ig_activations
from workbench.circuits.edge_pruning import edge_pruning
from workbench.circuits.exact import exact
from workbench.circuits.graph import Scores
from workbench.circuits.hisp import hisp
from workbench.circuits.information_flow import information_flow
from workbench.circuits.mask_training import check_loss
from workbench.circuits.method import ABLATIONS, Method
from workbench.circuits.optimal import with_constants
from workbench.circuits.option_values import check_value, hints_of
from workbench.circuits.path_patching import check_direction, check_paths, path_patching
from workbench.circuits.progress import ProgressFn
from workbench.circuits.random_scores import random_scores
from workbench.circuits.refine import refine
from workbench.circuits.relp import relp
from workbench.circuits.subnetwork_probing import subnetwork_probing
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.lookup import pick

_SUPPORT = ("resume", "keep")


def _of_loss(model: Transformer | None, options: Mapping[str, Any]) -> None:
    if model is not None:
        check_loss(model, options["loss"])


def _of_start(model: Transformer | None, options: Mapping[str, Any]) -> None:
    _of_loss(model, options)
    start = method(options["start"])
    check_method(start.key, model, {name: options[name] for name in ("ablation",) if name in start.options})


def _of_divergence(model: Transformer | None, options: Mapping[str, Any]) -> None:
    if model is not None and options["metric"] == "kl":
        stream.check_distribution(model, "metric='task'")


def _of_direction(_: Transformer | None, options: Mapping[str, Any]) -> None:
    check_direction(options["direction"], options["ablation"])


def _of_paths(model: Transformer | None, options: Mapping[str, Any]) -> None:
    _of_direction(model, options)
    if model is not None:
        check_paths(model, options["direct"], options["mlps"])


_METHODS = [
    Method(
        "eap-ig",
        "EAP with integrated gradients",
        "steps forwards and backwards, 2 forwards",
        "Hanna et al. 2024, arXiv 2403.17806",
        eap_ig,
        passes=passes.eap_ig,
    ),
    Method(
        "eap-ig-activations",
        "EAP with gradients integrated over activations",
        "about steps x (L + 2) forwards and backwards for L layers, 2 forwards",
        "Hanna et al. 2024, arXiv 2403.17806; Mueller et al. 2025, arXiv 2504.13151",
        eap_ig_activations,
        passes=passes.eap_ig_activations,
    ),
    Method(
        "relp",
        "Relevance patching",
        "2 forwards, 1 backward",
        "Rezaei Jafari et al. 2025, arXiv 2508.21258",
        relp,
        passes=passes.sweeps(1, 1),
    ),
    Method(
        "eap",
        "Edge attribution patching",
        "2 forwards, 1 backward",
        "Syed et al. 2023, arXiv 2310.10348",
        eap,
        passes=passes.sweeps(1, 1),
    ),
    Method(
        "clean-corrupted",
        "EAP with the gradients of both ends",
        "4 forwards, 2 backwards",
        "Hanna et al. 2024, arXiv 2403.17806",
        clean_corrupted,
        passes=passes.sweeps(3, 2),
    ),
    Method(
        "eap-gp",
        "EAP along a gradient path",
        "2 x steps forwards and backwards, 3 forwards",
        "Zhang et al. 2025, arXiv 2502.06852",
        eap_gp,
        passes=passes.eap_gp,
    ),
    Method(
        "exact",
        "Exact patching of every edge",
        "1 forward from its reader's layer on for each edge",
        "Conmy et al. 2023, arXiv 2304.14997; Mueller et al. 2025, arXiv 2504.13151",
        exact,
        kind="patching",
        passes=passes.each_edge,
    ),
    Method(
        "acdc",
        "Automatic circuit discovery (ACDC)",
        "steps x 1 forward from its reader's layer on for each edge (once with a threshold)",
        "Conmy et al. 2023, arXiv 2304.14997",
        acdc,
        kind="patching",
        passes=passes.acdc,
        limit=_of_divergence,
    ),
    Method(
        "path-patching",
        "Path patching",
        "1 forward from its reader's layer on for each edge",
        "Goldowsky-Dill et al. 2023, arXiv 2304.05969; Wang et al. 2022, arXiv 2211.00593",
        path_patching,
        kind="patching",
        passes=passes.each_edge,
        limit=_of_paths,
    ),
    Method(
        "activation-patching",
        "Activation patching of every node",
        "1 forward from its layer on for each node",
        "Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262",
        activation_patching,
        kind="patching",
        passes=passes.each_node,
        limit=_of_direction,
    ),
    Method(
        "cdt",
        "Contextual decomposition (CD-T)",
        "about 2 forwards and 1 backward from its layer on for each node",
        "Hsu et al. 2025, arXiv 2407.00886; edges and rules: this project",
        cdt,
        kind="patching",
        passes=passes.decomposition,
        limit=check_rule,
    ),
    Method(
        "edge-pruning",
        "Edge pruning: a learned mask on every edge",
        "steps x about 10 forwards, of a few prompts each",
        "Bhaskar et al. 2024, arXiv 2406.16778",
        edge_pruning,
        kind="learned",
        limit=_of_loss,
    ),
    Method(
        "subnetwork-probing",
        "Subnetwork probing: a learned mask on every node",
        "steps x about 10 forwards, of a few prompts each",
        "Cao et al. 2021, arXiv 2104.03514",
        subnetwork_probing,
        kind="learned",
        limit=_of_loss,
    ),
    Method(
        "learned-ranking",
        "Learned ranking, faithful at every size",
        "the starting method, then steps x about 10 forwards, of a few prompts each",
        "this project; straight-through gradients as in Bengio et al. 2013, arXiv 1308.3432",
        refine,
        kind="learned",
        limit=_of_start,
    ),
    Method(
        "atp",
        "Attribution patching of nodes (AtP*)",
        "5 forwards, L backwards for L layers (1 without GradDrop)",
        "Kramár et al. 2024, arXiv 2403.00745",
        atp,
        passes=passes.atp,
    ),
    Method(
        "hisp",
        "Head importance score for pruning",
        "1 forward, 1 backward",
        "Michel et al. 2019, arXiv 1905.10650",
        hisp,
        passes=passes.sweeps(1, 1),
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


def methods(model: Transformer | None = None) -> list[Method]:
    """All methods, or all that serve a model; the recommended one first."""
    return [record for record in _METHODS if model is None or record.serves(model) is None]


def method(key: str) -> Method:
    """The record of a method.

    Raises:
        ValueError: there is no such method; the message suggests the closest.
    """
    return pick(_METHODS, key, "method")


def check_options(key: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have, values that they do not take, and an ablation that it cannot serve.

    Raises:
        ValueError: naming the option, and those that exist or what it takes.
    """
    record = method(key)
    known, hints = record.options, hints_of(record.run)
    for option, value in options.items():
        if option == "budget":
            check_value(option, value, int, key)
        elif option not in known:
            if option == "ablation":
                raise ValueError(f"The method '{key}' replaces nothing, so it takes no ablation; leave it out.")
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"The method '{key}' has no option '{option}'; {has}.")
        elif option == "ablation":
            check_ablation(value)
        else:
            check_value(option, value, hints.get(option, Any if known[option] is None else type(known[option])), key)
    ablation = options.get("ablation")
    if ablation in ABLATIONS and ablation not in record.ablations:
        can = ", ".join(one.key for one in _METHODS if ablation in one.ablations)
        raise ValueError(
            f"The method '{key}' cannot ablate by '{ablation}'; it can by {', '.join(record.ablations)}, and methods "
            f"that can by '{ablation}' are {can}."
        )


def check_method(key: str, model: Transformer | None, options: Mapping[str, Any]) -> None:
    """Refuse a method that cannot serve a model, or that cannot do what its options say together.

    Args:
        key: of the method.
        model: the model; None while it is not known, so that only the options are looked at.
        options: those that differ from the defaults.

    Raises:
        ValueError: saying why, and which methods can serve the model.
    """
    record = method(key)
    try:
        record.check(model, {**record.options, **options})
    except ValueError as error:
        can = [one.key for one in methods(model)]
        if model is None or not can or key in can:  # then other options can be served, and the sentence says so
            raise
        raise ValueError(f"{error} Methods that serve {model.name}: {', '.join(can)}.") from None


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
    settings = {name: value for name, value in options.items() if name not in _SUPPORT or name not in takes}
    check_options(method, settings)
    check_method(method, model, settings)
    if "ablation" in options:  # learned once, also for a method that starts from another's scores
        options["ablation"] = with_constants(options["ablation"], model, task, progress)
    return record.run(model, task, progress=progress, **options)


__all__ = ["Method", "check_method", "check_options", "discover", "method", "methods"]
