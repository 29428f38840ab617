"""Every program of the library: right on short and long inputs, as Tracr has it, and its edges are its circuit."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.circuits import tracr_reference
from tests.circuits.compiled import Plain, compiled, edges_that_matter, pairs
from workbench.circuits import Circuit
from workbench.circuits.activations import record
from workbench.circuits.known import compile_program, known_models
from workbench.circuits.known.interpret import evaluate
from workbench.circuits.known.library import PROGRAMS
from workbench.circuits.patching import PatchedRun
from workbench.circuits.task import Task

KEYS = [program.key for program in PROGRAMS]
TRACR = json.loads(tracr_reference.FILE.read_text(encoding="utf-8"))["programs"]
DOC = Path(__file__).resolve().parents[2] / "docs" / "known.md"
OF_TRACR = [
    *("length", "reverse", "hist", "sort", "sort-unique", "sort-freq", "frac-prevs", "shuffle-dyck", "pair-balance"),
    *("count-less-than", "count", "shift-by", "detect-pattern", "nary-map"),
]


def same(one: Any, other: Any) -> bool:
    """Equal; numbers up to a rounding error."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) < 1e-6
    return type(one) is type(other) and one == other


def short_inputs(program: Any) -> list[list[Any]]:
    """All inputs of up to 4 tokens that a program is meant for."""
    every = (xs for n in range(1, 5) for xs in itertools.product(program.vocab, repeat=n))
    return [list(xs) for xs in every if program.domain(xs)]


def longer_inputs(program: Any, n: int) -> list[list[Any]]:
    """Random inputs of more than 4 tokens, or of 4 where there are no longer ones."""
    source = random.Random(program.key)
    shortest = min(5, program.max_len)
    return [program.draw(source, source.randint(shortest, program.max_len)) for _ in range(n)]


def test_there_are_enough_programs_and_all_of_tracrs() -> None:
    assert len(KEYS) == len(set(KEYS)) >= 25
    assert set(OF_TRACR) <= {program.key for program in PROGRAMS if program.source == "Tracr"}
    records = known_models()
    compiled_ones = [record for record in records if record.kind == "compiled"]
    assert [record.key for record in compiled_ones] == KEYS
    assert all(record.title for record in records)
    assert compiled_ones[KEYS.index("hist")].load().run("aab") == [2, 2, 1]


@pytest.mark.parametrize("key", KEYS)
def test_the_model_is_the_oracle(key: str) -> None:
    program, m = compiled(key)
    inputs = [*short_inputs(program), *longer_inputs(program, 1000)]
    for xs, got in zip(inputs, m.run_many(inputs), strict=True):
        wanted = program.oracle(xs)
        assert len(got) == len(wanted) == len(xs)
        assert all(map(same, got, wanted)), (xs, got, wanted)


@pytest.mark.parametrize("key", KEYS)
def test_the_interpreter_is_the_oracle(key: str) -> None:
    program, _ = compiled(key)
    for xs in [*random.Random(0).sample(short_inputs(program), 20), *longer_inputs(program, 20)]:
        assert all(map(same, evaluate(program.make(), xs, program.causal), program.oracle(xs))), xs


@pytest.mark.parametrize("key", KEYS)
def test_the_model_is_tracrs(key: str) -> None:
    program, m = compiled(key)
    check_against_tracr(program, m, TRACR[key])


@pytest.mark.parametrize("key", ["reverse", "hist", "frac-prevs", "depth", "sort-unique"])
def test_the_model_is_tracrs_where_tracr_is_installed(key: str) -> None:
    pytest.importorskip(
        "tracr.compiler", reason="tracr-pypi is not installed; its recorded outputs were compared instead"
    )
    program, m = compiled(key)
    theirs = next(other for other in tracr_reference.library().PROGRAMS if other.key == key)
    check_against_tracr(program, m, tracr_reference.measure(theirs, tracr_reference.inputs(program, 6)))


def tracr_cases() -> Any:
    """Tracr's own test cases, by its own source with nothing but the import of the language changed."""
    spec = importlib.util.find_spec("tracr")
    if spec is None or spec.origin is None:
        pytest.skip("tracr-pypi is not installed; the library's programs stand in for its own")
    folder = Path(spec.origin).parent / "compiler"
    modules = []
    for name in ("lib", "test_cases"):
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        source = source.replace("from tracr.rasp import rasp", "from workbench.circuits.known import rasp")
        module = types.ModuleType(name)
        if modules:
            module.__dict__["lib"] = modules[0]
            source = source.replace("from tracr.compiler import lib", "")
        exec(compile(source, name, "exec"), module.__dict__)
        modules.append(module)
    return modules[1]


def test_tracrs_own_programs_run_with_another_import() -> None:
    cases = tracr_cases()
    for causal, rows in ((False, cases.TEST_CASES), (True, cases.CAUSAL_TEST_CASES)):
        for case in rows:
            xs, wanted = case["test_input"], case["expected_output"]
            got = compile_program(case["program"], case["vocab"], case["max_seq_len"], causal).run(xs)
            assert got == pytest.approx(wanted, abs=1e-6), case["testcase_name"]


def test_what_tracr_refuses_is_refused() -> None:
    for case in tracr_cases().UNSUPPORTED_TEST_CASES:
        with pytest.raises(ValueError, match=r"\.$"):
            compile_program(case["program"], case["vocab"], case["max_seq_len"])


def check_against_tracr(program: Any, m: Any, reference: dict[str, Any]) -> None:
    """As many layers and the same outputs; Tracr decodes None as any value."""
    assert m.model.cfg.n_layers == reference["layers"]
    for xs, theirs in reference["cases"]:
        for got, other, wanted in zip(m.run(xs), theirs, program.oracle(xs), strict=True):
            if wanted is None:
                assert got is None
            elif isinstance(got, float):
                assert got == pytest.approx(other, abs=1e-3)
            else:
                assert got == other


@pytest.mark.parametrize("key", KEYS)
def test_no_edge_outside_the_circuit_matters_and_every_edge_inside_does(key: str) -> None:
    program, m = compiled(key)
    outside = sorted(Circuit.full(m.circuit.graph).edges - m.true_edges)
    n = 12 if len(outside) < 500 else 8
    for seed, shorter in enumerate((0, 1, 2)):
        length = max(2, program.max_len - shorter)
        assert edges_that_matter(program, m, outside, n, length, seed) == set()
    left = m.true_edges
    for seed in range(24):
        if left:
            length = max(2, program.max_len - seed % 4)
            left -= edges_that_matter(program, m, sorted(left), 48, length, seed)
    assert left == set()


@pytest.mark.parametrize("key", KEYS)
def test_the_circuit_alone_gives_the_outputs(key: str) -> None:
    program, m = compiled(key)
    run, answers = patched_run(program, m, 40, program.max_len, 0)
    torch.testing.assert_close(run.logits(m.circuit.mask), answers, atol=1e-3, rtol=0)


@pytest.mark.parametrize("key", ["reverse", "frac-prevs", "sort", "local-maximum", "depth", "is-sorted"])
def test_patched_runs_are_those_of_the_plain_reference(key: str) -> None:
    program, m = compiled(key)
    n, length = 6, program.max_len - 1
    run, _ = patched_run(program, m, n, length, 5)
    clean, others, width = pairs(program, m, n, length, 5)
    plain, full = Plain(m), m.circuit.graph.mask
    outputs = {name: out[:, :width] for name, out in plain.run(others)[1].items()}
    for edge in sorted(Circuit.full(m.circuit.graph).edges):
        mask = full.clone()
        mask[m.circuit.graph.edge(edge)] = False
        wanted, _ = plain.run(clean, outputs, [edge] * n)
        torch.testing.assert_close(run.logits(mask), wanted[:, -1], atol=1e-3, rtol=0, msg=edge)


def patched_run(program: Any, m: Any, n: int, length: int, seed: int) -> tuple[PatchedRun, torch.Tensor]:
    """Our patched run of pairs of inputs, read at the last position, and what the model gives there by itself."""
    clean, others, width = pairs(program, m, n, length, seed)
    nothing = torch.zeros(n, 1, dtype=torch.long)
    lengths, texts = torch.full((n,), width), [""] * n
    batch = Task(program.key, program.key, clean, others[:, :width], lengths, nothing, nothing, texts, texts)
    ablated = record(m.model, others).map(lambda x: x[:, :width])
    return PatchedRun(m.model, batch, ablated), m.model(clean)[:, -1]


@pytest.mark.parametrize("key", KEYS)
def test_compiling_takes_less_than_five_seconds(key: str) -> None:
    program, _ = compiled(key)
    start = time.perf_counter()
    compile_program(program.make(), program.vocab, program.max_len, program.causal, draw=program.draw)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("length",)])
def test_every_program_has_a_task(key: str) -> None:
    _, m = compiled(key)
    task = m.task(n=16)
    check = task.check(m.model)
    assert check.accuracy == 1
    assert check.metric_clean > check.metric_corrupted


def test_the_documentation_lists_the_library() -> None:
    text = DOC.read_text(encoding="utf-8")
    for program in PROGRAMS:
        _, m = compiled(program.key)
        cfg = m.model.cfg
        numbers = f"{cfg.n_layers} | {cfg.n_heads} | {len(m.true_edges)} of {m.circuit.graph.n_edges:,}"
        assert f"| `{program.key}` | {program.title} | {numbers} |" in text
