"""What the compiler makes of small programs: labels, weights, layers, edges, tasks; and what it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.circuits.compiled import compiled
from workbench.circuits import Circuit, discover, evaluate
from workbench.circuits.known import Size, compile_program, rasp
from workbench.circuits.known import rasp_programs as p
from workbench.circuits.known.interpret import evaluate as interpret
from workbench.circuits.known.variables import averages, merged
from workbench.circuits.methods import methods

EQ, TRUE = rasp.Comparison.EQ, rasp.Comparison.TRUE
EVERYWHERE = rasp.Select(rasp.tokens, rasp.tokens, TRUE)
NUMBER = rasp.numerical(rasp.Map(lambda x: x, rasp.tokens)).named("number")


# --- what is made -----------------------------------------------------------------------------------------------------


def test_the_first_example() -> None:
    m = compile_program(p.hist(), vocab=["a", "b"], max_len=3)
    assert m.run(["a", "b", "a"]) == [2, 1, 2]
    assert m.labels == [
        *("one", "tokens:compiler_bos", "tokens:a", "tokens:b", "indices:0", "indices:1", "indices:2"),
        *("hist_share", "hist:0", "hist:1", "hist:2", "hist:3"),
    ]
    assert m.true_edges == {"input->a0.h0<q>", "input->a0.h0<k>", "a0.h0->m0", "m0->logits"}
    assert m.fixed_edges == {"input->a0.h0<v>", "input->m0"}
    assert m.length_edges == set()
    assert (m.model.cfg.n_layers, m.model.cfg.d_vocab, m.model.cfg.n_out, m.model.cfg.causal) == (1, 3, 4, False)


@pytest.mark.parametrize("key", ["reverse", "shuffle-dyck", "sort-freq", "detect-pattern", "induction", "nary-map"])
def test_every_dimension_holds_what_its_label_says(key: str) -> None:
    program, m = compiled(key)
    xs = ["(", ")", "{", "}"] if key == "shuffle-dyck" else [program.vocab[i % len(program.vocab)] for i in range(4)]
    _, cache = m.model.run_with_cache(m.encode([xs]), f"blocks.{m.model.cfg.n_layers - 1}.hook_resid_post")
    resid = next(iter(cache.values()))[0]
    assert len(m.labels) == len(set(m.labels)) == resid.shape[1]
    checked = 0
    for expr in _operators(m.program):
        values = interpret(expr, xs, program.causal)
        for i, label in enumerate(m.labels):
            if label == expr.name:
                torch.testing.assert_close(resid[1:, i], torch.tensor([float(x) for x in values]), atol=1e-4, rtol=0)
            elif label.startswith(f"{expr.name}:"):
                text = label.removeprefix(f"{expr.name}:")
                wanted = torch.tensor([float(text == str(x)) for x in values])
                torch.testing.assert_close(resid[1:, i], wanted, atol=1e-4, rtol=0)
                checked += 1
    assert checked


def _operators(expr: Any) -> list[rasp.SOp]:
    """Those with a name of their own, so that their labels are known."""
    found: dict[str, list[rasp.SOp]] = {}

    def visit(expr: Any) -> None:
        if isinstance(expr, rasp.SOp) and not any(expr is other for other in found.setdefault(expr.name, [])):
            found[expr.name].append(expr)
        for child in expr.children:
            visit(child)

    visit(expr)
    return [exprs[0] for exprs in found.values() if len(exprs) == 1]


def test_nothing_but_its_mark_is_written_at_the_first_token() -> None:
    _, m = compiled("shuffle-dyck")
    resid = m.model(m.encode([["(", "}"]]), stop_at_layer=m.model.cfg.n_layers)[0, 0]
    held = [m.labels[i] for i in range(len(m.labels)) if abs(resid[i]) > 1e-6]
    # The share of a width is read only by the units that turn it into the width, in its own layer.
    assert [label for label in held if not label.endswith("_share")] == ["one", "tokens:compiler_bos"]


def test_length_is_compiled_as_a_width() -> None:
    m = compile_program(rasp.length - rasp.indices, "ab", 4)
    assert m.run("abab") == [4, 3, 2, 1]
    assert m.run("a") == [1]
    assert m.true_edges == m.length_edges == {"a0.h0->m0", "m0->m1", "m1->logits"}


def test_one_selector_of_parts_with_the_same_keys_and_queries() -> None:
    same, later = rasp.Select(rasp.tokens, rasp.indices, lambda k, q: k == q % 2), EVERYWHERE
    both = rasp.SelectorAnd(same, rasp.SelectorNot(rasp.Select(rasp.tokens, rasp.indices, lambda k, q: q == 3)))
    m = compile_program(rasp.SelectorWidth(both), [0, 1], 4)
    for xs in ([0, 0, 1, 1], [1, 0, 0, 0]):
        assert m.run(xs) == rasp.SelectorWidth(both)(xs)
    either = rasp.SelectorWidth(rasp.SelectorOr(later, rasp.SelectorNot(later)))
    assert compile_program(either, [0, 1], 3).run([0, 1]) == [2, 2]


def test_a_full_is_written_by_the_embedding() -> None:
    is_a = rasp.Select(rasp.tokens, rasp.Full("a").named("wanted"), EQ)
    m = compile_program(rasp.SelectorWidth(is_a), ["a", "b"], 4)
    assert "wanted:a" in m.labels
    assert m.run("abaa") == [3] * 4
    assert "input->a0.h0<q>" not in m.true_edges


def test_negative_numbers_and_factors() -> None:
    signed, index = (rasp.numerical(rasp.Map(lambda x: x, source)) for source in (rasp.tokens, rasp.indices))
    m = compile_program(rasp.numerical(rasp.LinearSequenceMap(signed, index, -2, 1)), [-2, 0, 3], 4)
    assert m.run([-2, 0, 3, -2]) == [4, 1, -4, 7]
    assert m.output.numerical


def test_long_inputs_are_counted_exactly() -> None:
    m = compile_program(p.count("a"), ["a", "b"], 40)
    inputs = [["a"] * n + ["b"] * (40 - n) for n in range(41)]
    assert m.run_many(inputs) == [[n] * 40 for n in range(41)]


def test_values_that_read_alike_have_labels_of_their_own() -> None:
    m = compile_program(rasp.Map(str, rasp.tokens), [1, "1", "a"], 2)
    assert [label for label in m.labels if label.startswith("tokens")] == [
        *("tokens:compiler_bos", "tokens:1", "tokens:'1'", "tokens:'a'")
    ]
    assert m.run(
        [
            1,
            "1",
        ]
    ) == ["1", "1"]


def test_operators_of_one_name_are_numbered() -> None:
    m = compile_program(p.hist() + p.hist(), ["a"], 2)
    assert {"hist:1", "hist_2:1"} <= set(m.labels)


def test_a_function_may_fail_where_its_value_never_occurs() -> None:
    m = compile_program(1 / p.hist(), ["a", "b"], 4)
    assert m.run("aab") == [0.5, 0.5, 1]


def test_an_empty_input_and_a_set_as_vocabulary() -> None:
    m = compile_program(p.hist(), {"b", "a"}, 3)
    assert m.vocab == ["a", "b"]
    assert m.run([]) == []
    assert m.run_many(["ab", "", "a"]) == [[1, 1], [], [1]]


def test_means_that_a_number_can_have() -> None:
    assert averages([0, 1], 3) == pytest.approx([0, 1 / 3, 1 / 2, 2 / 3, 1])
    assert merged([0.3, 0.1 + 0.2, 1e-17, 0]) == [0, 0.3]


# --- its edges --------------------------------------------------------------------------------------------------------


def test_queries_that_are_treated_alike_are_not_read() -> None:
    m = compile_program(p.count("a"), ["a", "b"], 4)
    assert m.true_edges == {"input->a0.h0<k>", "a0.h0->m0", "m0->logits"}


def test_positions_are_no_edges_of_the_circuit() -> None:
    m = compile_program(p.shift_by(1), ["a", "b"], 4)
    assert m.true_edges == {"input->a0.h0<v>", "a0.h0->logits"}
    assert m.fixed_edges == {"input->a0.h0<q>", "input->a0.h0<k>"}


def test_what_depends_on_the_length_alone_is_told_apart() -> None:
    m = compile_program(p.reverse(), ["a", "b"], 4)
    assert m.length_edges == {"a0.h0->m0", "m0->m1", "m1->m2", "m2->a3.h0<q>"}
    assert m.true_edges - m.length_edges == {"input->a3.h0<v>", "a3.h0->logits"}
    before = compile_program(p.reverse(), ["a", "b"], 4, causal=True)
    assert before.length_edges == set()  # attention that does not look ahead does not see the length


# --- its task ---------------------------------------------------------------------------------------------------------


def test_a_categorical_task_compares_two_answers() -> None:
    _, m = compiled("maximum")
    task = m.task(n=20, seed=3)
    check = task.check(m.model)
    assert (len(task), check.accuracy, check.top1, check.warning) == (20, 1.0, 1.0, None)
    assert (check.metric_clean, check.metric_corrupted) == (pytest.approx(1, abs=1e-4), pytest.approx(-1, abs=1e-4))
    for text, right in zip(task.clean_text, task.right, strict=True):
        assert m.output.cases[int(right)] == max(map(int, text.split()))
    assert torch.equal(task.clean, m.task(n=20, seed=3).clean)
    assert not torch.equal(task.clean, m.task(n=20, seed=4).clean)


def test_a_numerical_task_measures_the_number() -> None:
    program, m = compiled("pair-balance")
    task = m.task(n=30)
    assert set(task.last.tolist()) == {8}
    for text, metric, other in zip(
        task.clean_text, task.score(task.answers(m.model)), task.score(task.answers(m.model, "corrupted")), strict=True
    ):
        assert metric > 0
        assert metric > other - 1e-6
        assert float(metric) == pytest.approx(abs(program.oracle(text.split())[-1]), abs=1e-4)


def test_answers_are_read_where_they_differ() -> None:
    program, m = compiled("local-maximum")
    task = m.task(n=20)
    assert set(task.last.tolist()) == {5}  # the last position has no neighbour, and so always None
    assert torch.equal(task.rows(3, 5).last, task.last[3:5])
    for text, right in zip(task.clean_text, task.right, strict=True):
        assert m.output.cases[int(right)] == program.oracle([*map(int, text.split())])[4]


# The others score nodes, or look at no answer.
OF_EDGES = [m.key for m in methods() if m.key not in ("activation-patching", "atp", "hisp", "subnetwork-probing")]
OF_EDGES = [key for key in OF_EDGES if key not in ("information-flow", "random")]


@pytest.mark.parametrize("key", OF_EDGES)
def test_methods_find_the_circuit_of_a_linear_program(key: str) -> None:
    _, m = compiled("frac-prevs")
    scores = discover(m.model, m.task(), key)
    assert scores.top(len(m.true_edges)).edges == m.true_edges


def test_the_circuit_is_faithful_and_the_rest_is_not() -> None:
    _, m = compiled("sort")
    task = m.task()
    assert evaluate(m.model, task, m.circuit).faithfulness == pytest.approx(1, abs=1e-4)
    rest = Circuit.full(m.circuit.graph).edges - m.true_edges
    assert evaluate(m.model, task, Circuit.from_edges(m.circuit.graph, rest)).faithfulness == pytest.approx(0, abs=1e-4)


def test_there_is_no_task_where_the_answer_never_differs() -> None:
    with pytest.raises(ValueError, match="length: its values are the same on nearly all"):
        compiled("length")[1].task()
    with pytest.raises(ValueError, match="at least one pair"):
        compiled("hist")[1].task(n=0)


# --- what is refused --------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[], rasp.SOp], str]] = {
    "numerical into categorical": (lambda: rasp.Aggregate(EVERYWHERE, NUMBER).named("mean"), "mean is categorical"),
    "categorical into numerical": (
        lambda: rasp.numerical(rasp.Aggregate(EVERYWHERE, rasp.tokens, default=0)).named("mean"),
        "mean is numerical",
    ),
    "numbers that cannot be averaged": (
        lambda: rasp.numerical(rasp.Aggregate(EVERYWHERE, NUMBER, default=0)).named("mean"),
        "mean averages number",
    ),
    "default of a categorical": (lambda: rasp.Aggregate(EVERYWHERE, rasp.tokens, default=1).named("moved"), "moved is"),
    "default of a numerical": (lambda: rasp.numerical(rasp.Aggregate(EVERYWHERE, NUMBER)).named("mean"), "mean is"),
    "numerical keys": (
        lambda: rasp.SelectorWidth(rasp.Select(NUMBER, rasp.tokens, EQ).named("chosen")),
        "chosen: its keys, number, are numerical",
    ),
    "numerical queries": (
        lambda: rasp.SelectorWidth(rasp.Select(rasp.tokens, NUMBER, EQ).named("chosen")),
        "chosen: its queries, number, are numerical",
    ),
    "numerical pairs": (lambda: (NUMBER + rasp.indices).named("sum"), "sum: .* and number is numerical"),
    "categorical sum": (
        lambda: rasp.numerical(rasp.LinearSequenceMap(rasp.tokens, NUMBER, 1, 1)).named("sum"),
        "sum: .* and tokens is categorical",
    ),
    "categorical linear": (lambda: rasp.LinearSequenceMap(NUMBER, NUMBER, 1, 1).named("sum"), "sum: .* and it is"),
    "numerical tokens": (lambda: rasp.numerical(rasp.tokens) + 1, "tokens is numerical"),
    "numerical indices": (lambda: rasp.numerical(rasp.indices) + 1, "indices is numerical"),
    "numerical full": (lambda: rasp.numerical(rasp.Full(1)).named("all") + 1, "all is numerical"),
    "selectors apart": (
        lambda: rasp.SelectorWidth((EVERYWHERE & rasp.Select(rasp.indices, rasp.tokens, EQ)).named("both")),
        "both combines selectors",
    ),
    "a constant": (lambda: rasp.ConstantSOp([1, 2]).named("given") + 1, "given: a ConstantSOp"),
    "a constant selector": (
        lambda: rasp.SelectorWidth(rasp.ConstantSelector([[True]]).named("given")),
        "given: a ConstantSelector",
    ),
    "a failing function": (lambda: (1 / (rasp.tokens - 1)).named("inverse"), "inverse: .* undefined on 1, which"),
    "a failing function of two": (
        lambda: (rasp.tokens / rasp.indices).named("ratio"),
        "ratio: .* undefined on [123] and 0, which",
    ),
    "a failing lookup": (
        lambda: rasp.Map({1: 2, 2: 3}.__getitem__, rasp.tokens).named("next"),
        "next: .* on 3.*KeyError",
    ),
    "a failing predicate": (
        lambda: rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.Full("x"), rasp.Comparison.LT).named("less")),
        "less: .* undefined on [123] and 'x'",
    ),
    "text as a number": (lambda: rasp.numerical(rasp.Map(str, rasp.tokens)).named("text"), "text is numerical, but"),
    "a list as a value": (lambda: rasp.Map(lambda x: [x], rasp.tokens).named("boxed"), "boxed: .* cannot be hashed"),
    "no number": (lambda: rasp.Map(lambda x: float("nan"), rasp.tokens).named("lost"), "lost: .* is no value"),
    "nothing at all": (lambda: rasp.Map(lambda x: None, rasp.tokens).named("none"), "none: .* on every value"),
    "no program": (lambda: rasp.tokens, "tokens is what the embedding writes"),
    "a selector": (lambda: EVERYWHERE, "'select' is no sequence operator"),  # type: ignore[dict-item]
    "too many values": (
        lambda: p.nary_sequencemap(lambda *xs: xs, *[rasp.tokens, rasp.indices] * 6),
        "combinations of values",
    ),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_bad_program_is_refused_by_the_name_of_its_node(make: Callable[[], rasp.SOp], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        compile_program(make(), [1, 2, 3], 4)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vocab", "words"),
    [
        ([], "tokens: the vocabulary is empty"),
        ("aba", "tokens: 'a' and 'a' in the vocabulary are one value"),
        ([1, 2, True], "tokens: 1 and True"),
        ([1, 1.0], r"tokens: 1 and 1\.0"),
        ([[1], [2]], r"tokens: \[1\] cannot be a token, for it cannot be hashed"),
        (["a", "compiler_bos"], "tokens: 'compiler_bos' cannot be a token"),
        ([None, "a"], "tokens: None cannot be a token"),
    ],
)
def test_a_bad_vocabulary_is_refused(vocab: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compile_program(p.hist(), vocab, 4)


def test_bad_lengths_and_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="hist: the longest input must have at least one token"):
        compile_program(p.hist(), "ab", 0)
    _, m = compiled("hist")
    with pytest.raises(ValueError, match="tokens: the input has 9 tokens; hist reads at most 8"):
        m.run("abcabcabc")
    with pytest.raises(ValueError, match="tokens: 'z' is not in the vocabulary of hist: 'a', 'b', 'c'"):
        m.run("abz")
    with pytest.raises(ValueError, match=r"tokens: \['a'\] is not in the vocabulary"):
        m.run([["a"]])
    with pytest.raises(ValueError, match="several lengths"):
        m.encode(["a", "ab"])


def test_a_model_of_a_chosen_size_computes_the_same_and_one_too_small_is_refused() -> None:
    program, small = compiled("sort")
    large = compile_program(program.make(), program.vocab, 8, size=Size(5, 3, 100))
    cfg = large.model.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.d_model, len(large.labels)) == (5, 3, 100, 100)
    assert large.true_edges == small.true_edges
    inputs = [program.draw(random.Random(seed)) for seed in range(50)]
    assert large.run_many(inputs) == [program.oracle(xs) for xs in inputs]
    for size, node in ((Size(2, 1, 70), "sorted"), (Size(3, 1, 40), "distinct")):
        with pytest.raises(ValueError, match=f"{node}.* has no place in {size}; sort.* needs 3 layers of 1 heads"):
            compile_program(program.make(), program.vocab, 8, size=size)
