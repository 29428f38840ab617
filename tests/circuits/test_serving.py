"""Which methods serve which models, what numbers their options take, and that both are said before any work."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import digits
from tests.circuits.test_families import pair, task_for
from workbench import jobs
from workbench.circuits import Method, discover, methods
from workbench.circuits.known import known_models
from workbench.circuits.methods import check_method, check_options, method
from workbench.circuits.option_values import RANGES, Range
from workbench.models import Transformer
from workbench.options import options_of
from workbench.request import check
from workbench.runs import RunStore

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"
FAMILIES = {
    "decoder": "gpt2",
    "parallel decoder": "phi",
    "grouped heads": "qwen2",
    "norms on what is added": "gemma2",
    "masked words": "bert-masked",
    "classes of text": "bert-classes",
    "sentence vectors": "bert",
    "images": "vit-classes",
    "images, pooled": "dinov2-registers-classes",
}
"""What the columns of the table in the documentation are called, and a model of each."""
QUICK: dict[str, dict[str, Any]] = {
    "acdc": {"steps": 2},
    "edge-pruning": {"steps": 3},
    "subnetwork-probing": {"steps": 3},
    "learned-ranking": {"steps": 3, "start": "eap"},
}
REGISTRY = sys.modules["workbench.circuits.methods"]  # by import it is the function of that name
METHODS = [record.key for record in methods()]


def table() -> dict[str, dict[str, str]]:
    """The table of methods and families in the documentation."""
    _, _, rest = DOCS.read_text().partition("## Which models")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rest.splitlines() if line.startswith("|")]
    head = rows[0][1:]
    body = rows[2 : 2 + len(METHODS)]
    return {row[0].strip("`"): dict(zip(head, row[1:], strict=True)) for row in body}


def test_the_documentation_lists_every_method_and_family() -> None:
    assert list(table()) == METHODS
    for row in table().values():
        assert list(row) == list(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("key", METHODS)
def test_every_method_runs_where_the_documentation_says(key: str, family: str) -> None:
    model, task = pair(FAMILIES[family])[1], task_for(FAMILIES[family], batch=2, unlike=False)
    record = method(key)
    said = table()[key][family]
    if said != "yes":
        assert record.serves(model) is not None
        return
    assert record.serves(model) is None
    scores = discover(model, task, key, **QUICK.get(key, {}))
    assert scores.complete
    assert torch.isfinite(scores.values).all()
    assert scores.values[scores.graph.mask].unique().numel() > 2
    assert not scores.values[~scores.graph.mask].any()


def test_methods_of_a_model_are_those_that_serve_it() -> None:
    assert [record.key for record in methods(pair("bert")[1])] == METHODS
    assert methods(digits.encoder().with_attention("gated")) == []


def only_decoders(model: Transformer | None, options: Mapping[str, Any]) -> None:
    if model is not None and not model.cfg.causal:
        raise ValueError(f"Picky reads from left to right; {model.name} does not.")


def test_a_method_that_cannot_serve_a_model_is_refused_with_those_that_can(
    monkeypatch: pytest.MonkeyPatch, model: Transformer, tmp_path: Path
) -> None:
    picky = Method("picky", "Picky", "none", "nobody", method("random").run, limit=only_decoders)
    monkeypatch.setattr(REGISTRY, "_METHODS", [picky, *methods()[:2]])
    encoder, decoder = pair("bert-masked")[1], pair("gpt2")[1]
    assert picky.serves(decoder) is None
    assert str(picky.serves(encoder)).startswith("Picky reads from left to right")
    check_method("picky", None, {})
    check_method("picky", decoder, {})
    said = r"Picky reads from left to right; bert.* does not\. Methods that serve bert.*: eap-ig, eap-ig-activations\."
    with pytest.raises(ValueError, match=said):
        check_method("picky", encoder, {})
    with pytest.raises(ValueError, match=said):
        discover(encoder, task_for("bert-masked"), "picky")
    with pytest.raises(ValueError, match=said):
        check(jobs.Request("bert", "mine", method="picky", edges=5), encoder, own=True)
    store = RunStore(tmp_path)
    with pytest.raises(ValueError, match=said):
        jobs.run_discovery(encoder, jobs.Request("bert", "mine", method="picky", edges=5), store, task=task_for("bert"))
    assert not store.list()


TOGETHER: list[tuple[str, dict[str, Any], str]] = [
    ("path-patching", {"direction": "denoising", "ablation": "mean"}, "choose ablation='resample'"),
    ("activation-patching", {"direction": "denoising", "ablation": "zero"}, "choose ablation='resample'"),
    ("learned-ranking", {"start": "eap_ig"}, "did you mean 'eap-ig'"),
]


@pytest.mark.parametrize(("key", "options", "said"), TOGETHER)
def test_options_that_do_not_go_together_are_refused_without_a_model(
    key: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check(jobs.Request("any", "ioi", method=key, options=options))


def test_options_that_a_model_cannot_be_served_with_are_refused_with_the_way_out() -> None:
    bert, vectors = pair("bert-masked")[1], pair("bert")[1]
    numerical = {record.key: record for record in known_models()}["frac-prevs"].load().model
    for model, key, options, said in (
        (bert, "path-patching", {"direct": True}, "serves it without 'direct' and 'mlps'"),
        (vectors, "edge-pruning", {"loss": "kl"}, "gives vectors; choose loss='metric'"),
        (vectors, "learned-ranking", {"loss": "kl"}, "gives vectors; choose loss='metric'"),
        (numerical, "subnetwork-probing", {"loss": "kl"}, "has one output; choose loss='metric'"),
        (numerical, "acdc", {"metric": "kl"}, "has one output; choose metric='task'"),
    ):
        with pytest.raises(ValueError, match=said):
            check(jobs.Request("any", "mine", method=key, options=options, edges=2), model, own=True)


NUMBERS = [
    (record.key, name)
    for record in methods()
    for name, default in record.options.items()
    if name == "threshold" or (isinstance(default, int | float) and not isinstance(default, bool))
]


@pytest.mark.parametrize(("key", "option"), NUMBERS)
def test_every_number_has_a_range_and_what_is_outside_is_refused_first(key: str, option: str) -> None:
    allowed = RANGES[option]
    default = method(key).options[option]
    assert default is None or allowed.holds(default)
    outside = [allowed.low] if allowed.open else [allowed.low - 1]
    outside += ([allowed.high] if allowed.open else [allowed.high + 1]) if math.isfinite(allowed.high) else []
    for value in outside:
        given = int(value) if isinstance(default, int) else float(value)
        said = f"The option '{option}' of the method '{key}' takes {re.escape(allowed.words)}, not {given}"
        with pytest.raises(ValueError, match=said):
            check(jobs.Request("any", "ioi", method=key, options={option: given}))
        with pytest.raises(ValueError, match=said):
            check_options(key, {option: given})


def test_a_number_out_of_range_leaves_no_run(model: Transformer, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    request = jobs.Request("micro", "ioi", n=2, method="eap-ig", options={"steps": -1}, edges=5)
    with pytest.raises(ValueError, match="takes 1 or more, not -1"):
        jobs.run_discovery(model, request, store)
    assert not store.list()


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(1), [1, 2, 10**9], [0, -1, math.nan, math.inf]),
        (Range(0, open=True), [1e-9, 5], [0, -1, math.nan]),
        (Range(0, 1, open=True), [0.5], [0, 1, 2]),
        (Range(0, 1), [0, 1], [-0.1, 1.1]),
    ],
)
def test_ranges_hold_their_numbers(allowed: Range, inside: list[float], outside: list[float]) -> None:
    assert all(allowed.holds(value) for value in inside)
    assert not any(allowed.holds(value) for value in outside)


def test_an_ablation_that_a_method_lacks_is_refused_with_the_methods_that_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = method("eap")
    only = Method("only", "Only", "some", "nobody", base.run, ablations=("resample",))
    monkeypatch.setattr(REGISTRY, "_METHODS", [only, base])
    check_options("only", {"ablation": "resample"})
    with pytest.raises(ValueError, match=r"'only' cannot ablate by 'mean'; it can by resample, .* by 'mean' are eap\."):
        check_options("only", {"ablation": "mean"})


def test_a_page_asks_for_a_number_with_its_range() -> None:
    found = {option.name: option.range for option in options_of(method("edge-pruning"))}
    assert found["target"] == Range(0, 1, open=True)
    assert found["steps"] == Range(1)
    assert found["loss"] is None
