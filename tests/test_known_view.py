"""What is shown of a known model: pictures of an examination, the program in lines, what edges carry, trying it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from workbench import known_view
from workbench.circuits import Scores, ground_truth
from workbench.circuits.activations import graph_of
from workbench.circuits.known import known_models, rasp
from workbench.circuits.known.examine import Examination, examine_made, shown_edges
from workbench.circuits.known.library import PROGRAMS
from workbench.circuits.known.programs import TASKS, bundled
from workbench.export import FORMATS, export

BY_KEY = {record.key: record for record in known_models()}


def made(key: str) -> Any:
    return BY_KEY[key].load()


def scored(key: str, values: dict[str, float]) -> Examination:
    """An examination in which these edges have scores and all others 0."""
    model = made(key)
    graph = graph_of(model.model)
    matrix = torch.zeros(len(graph.writers), len(graph.readers))
    for name, value in values.items():
        matrix[graph.edge(name)] = value
    scores = Scores(graph, matrix, method="mine")
    truth = ground_truth(scores, shown_edges(model))
    return Examination("mine", scores, truth, truth, 0.5, 0.5, 0.5, 1.0)


# hist: a0.h0->m0, input->a0.h0<k>, input->a0.h0<q>, m0->logits


def test_every_edge_that_is_true_or_chosen_is_found_missed_or_false() -> None:
    found = scored("hist", {"m0->logits": 3.0, "input->logits": -2.0, "a0.h0->m0": 1.0, "input->m0": 0.5})
    assert known_view.verdicts(found, 3) == {
        "m0->logits": "found",
        "input->logits": "false",
        "a0.h0->m0": "found",
        "input->a0.h0<k>": "missed",
        "input->a0.h0<q>": "missed",
    }
    assert known_view.verdicts(found)["input->m0"] == "false"  # the fourth of four
    assert set(known_view.verdicts(found, 0).values()) == {"missed"}
    title = known_view.hits("hist", found, 3).figure
    assert title is not None
    assert title.title == "2 of 4 true edges found, 1 false"
    with pytest.raises(ValueError, match="the graph has 8"):
        known_view.chosen(found, 9)


def test_an_edge_with_a_score_of_zero_is_never_chosen_and_the_caption_says_so() -> None:
    found = scored("hist", {"m0->logits": 1.0})
    assert known_view.chosen(found, 4).edges == {"m0->logits"}
    figure = known_view.hits("hist", found).figure
    assert figure is not None
    assert figure.title == "1 of 4 true edges found, none false"
    assert "3 have a score of 0 and are not counted" in figure.caption


def test_chosen_edges_with_next_to_no_score_are_counted_and_told_of() -> None:
    small = {"a0.h0->m0": 2.1e-6, "input->a0.h0<k>": -1.9e-6, "input->a0.h0<q>": 1e-30}
    found = scored("hist", {"m0->logits": 2.0, **small})
    assert [known_view.faint(found, n) for n in range(5)] == [0, 0, 0, 1, 2]
    figure, clear = (known_view.hits("hist", one).figure for one in (found, scored("hist", {"m0->logits": 1.0})))
    assert figure is not None
    assert clear is not None
    assert "2 of the chosen have a score below a millionth" in figure.caption
    assert "millionth" not in clear.caption


@pytest.mark.parametrize("format", [record.key for record in FORMATS])
def test_every_picture_can_be_taken_away_in_every_format(format: str) -> None:
    found = scored("hist", {"m0->logits": 1.0, "input->logits": 0.5})
    assert len(export(known_view.hits("hist", found), format)) > 100
    if format not in ("graphml", "dot"):
        for curve in known_view.curves("hist", found).values():
            assert len(export(curve, format)) > 100
        assert len(export(known_view.program_picture(bundled(TASKS[1])), format)) > 100


def test_signed_scores_rank_what_works_against_the_answer_last() -> None:
    absolute = examine_made(made("frac-prevs"), n=8)
    signed = examine_made(made("frac-prevs"), n=8, ranking="signed")
    assert (absolute.ranking, signed.ranking) == ("absolute", "signed")
    best = known_view.chosen(signed, 1)
    assert best.scores is not None
    assert best.scores[best.mask].item() == best.scores[best.graph.mask].max().item()
    with pytest.raises(ValueError, match="Unknown ranking 'loud'"):
        examine_made(made("frac-prevs"), n=8, ranking="loud")  # type: ignore[arg-type]


# -- the program ---------------------------------------------------------------------------------------------


def test_a_program_is_written_line_by_line_in_the_order_of_computation() -> None:
    same = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ).named("same")
    hist = rasp.SelectorWidth(same).named("hist")
    half = rasp.numerical(rasp.Map(lambda x: x / 2, hist).named("half"))
    first = rasp.Aggregate(rasp.Select(rasp.indices, rasp.Full(0), rasp.Comparison.EQ), rasp.tokens).named("first")
    assert known_view.listing(hist).splitlines() == ["same = Select(tokens, tokens, EQ)", "hist = SelectorWidth(same)"]
    assert known_view.listing(half).splitlines()[-1] == "half = Map(f, hist)"
    assert known_view.listing(first).splitlines() == [
        "full = Full(0)",
        "select = Select(indices, full, EQ)",
        "first = Aggregate(select, tokens)",
    ]
    assert known_view.listing(rasp.tokens) == "tokens"
    two = rasp.SequenceMap(lambda x, y: x + y, hist, hist).named("two")
    assert known_view.listing(two).splitlines()[2:] == ["two = SequenceMap(f, hist, hist)"]


def test_unlike_functions_are_lines_of_their_own() -> None:
    one, other = rasp.Map(lambda x: x == "a", rasp.tokens), rasp.Map(lambda x: x == "b", rasp.tokens)
    both = rasp.SequenceMap(lambda x, y: x or y, one, other).named("both")
    assert known_view.listing(both).splitlines() == [
        "map = Map(f, tokens)",
        "map_2 = Map(f, tokens)",
        "both = SequenceMap(f, map, map_2)",
    ]


# -- what edges carry ----------------------------------------------------------------------------------------


def test_an_edge_carries_what_its_writer_writes_and_its_reader_reads() -> None:
    m = made("hist")
    assert known_view.carried(m, "input->a0.h0<q>") == {"tokens": ["a", "b", "c"]}
    assert known_view.carried(m, "a0.h0->m0") == {"hist_share": []}
    assert known_view.carried(m, "m0->logits") == {"hist": [str(i) for i in range(9)]}
    assert known_view.carried(m, "input->logits") == {}
    with pytest.raises(ValueError, match="cannot exist"):
        known_view.carried(m, "m0->a0.h0<q>")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.key)
def test_every_true_edge_carries_something(program: Any) -> None:
    m = made(program.key)
    for edge in m.true_edges:
        assert known_view.carried(m, edge), edge


# -- trying it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.key)
def test_a_compiled_model_answers_as_the_program_s_oracle(program: Any) -> None:
    m, source = made(program.key), random.Random(3)
    texts = [known_view.example(m), " ".join(map(str, program.draw(source)))]
    for text in texts:
        tried = known_view.try_words(program.key, m, text)
        assert tried.words == text.split()
        assert tried.right is not None
        assert tried.errors == 0


def test_an_error_is_counted_where_something_is_asked() -> None:
    assert known_view.Tried(["a", "b"], [1, 2], [1, 3]).errors == 1
    assert known_view.Tried(["a", "b"], [1, 2], [1, None]).errors == 0
    assert known_view.Tried(["a"], [1 / 3], [0.33333]).errors == 0
    assert known_view.Tried(["a"], [None], [0.5]).errors == 1
    assert known_view.Tried(["a"], [1], None).errors == 0


def test_a_learned_program_s_module_is_found_in_its_file() -> None:
    program = bundled(TASKS[1])
    assert (known_view.source_of(program, "num_attn_0_1") or "").startswith("def num_attn_0_1(tokens")
    assert known_view.source_of(program, "tokens") is None
    assert known_view.source_of(program, "num_attn_0_0") is None
