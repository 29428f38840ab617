"""Transformer Programs: tasks, the discrete model, the files it comes down to, and their data flow."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench import cli
from workbench.circuits.known import programs
from workbench.circuits.known.programs import (
    LEARNED,
    TASKS,
    DiscreteTransformer,
    Head,
    Lookup,
    Program,
    ProgramTask,
    Sizes,
    emit,
    examples,
    find,
    flow,
    learn,
    names,
)
from workbench.circuits.known.programs.__main__ import main
from workbench.circuits.known.programs.finish import finish, groups, program
from workbench.circuits.known.programs.model import Choice, gumbel_softmax, nearness, tents
from workbench.circuits.known.programs.program import ONES, OUTPUT, POSITIONS, TOKENS
from workbench.circuits.known.programs.tasks import NOTHING, START
from workbench.circuits.known.programs.train import right

KEYS = names()
SMALL = Sizes(2, 2, 2, 1, 1)
Run = Callable[[list[str]], list[str]]


def small(key: str = "hist") -> ProgramTask:
    return dataclasses.replace(find(key), sizes=SMALL)


def untrained(task: ProgramTask, seed: int = 0) -> DiscreteTransformer:
    """First weights, with a readout of whole numbers as training leaves it."""
    torch.manual_seed(seed)
    model = DiscreteTransformer(task).requires_grad_(False)
    model.readout.copy_((model.readout * 10).round())
    return model


def drawn(task: ProgramTask, n: int, seed: int = 0) -> list[list[str]]:
    """Random inputs of all lengths, any word anywhere behind the first."""
    r = random.Random(seed)
    return [[START, *r.choices(task.words, k=r.randint(0, task.length - 1))] for _ in range(n)]


def answers(model: DiscreteTransformer, inputs: Sequence[Sequence[str]]) -> list[list[str]]:
    found = torch.cat([model(part).argmax(-1) for part in model.task.encode(inputs).split(500)])
    return [
        [model.task.classes[c] for c in row[: len(words)]] for row, words in zip(found.tolist(), inputs, strict=True)
    ]


def loaded(text: str) -> Run:
    module: dict[str, Any] = {"__name__": "emitted"}
    exec(compile(text, "emitted", "exec"), module)
    return module["run"]


@pytest.fixture
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of programs that may be bad: the last fit is most of a short training's time."""
    monkeypatch.setattr(programs.finish, "_FIT_STEPS", 10)


def committed(task: ProgramTask) -> Run:
    return importlib.import_module(f"workbench.circuits.known.programs.learned.{task.module}").run


def card(task: ProgramTask) -> dict[str, Any]:
    return json.loads((LEARNED / f"{task.module}.card.json").read_text(encoding="utf-8"))


# --- the tasks ---


@pytest.mark.parametrize(
    ("key", "words", "expected"),
    [
        ("reverse", "<s> 0 1 1 2 </s>", "- 2 1 1 0 -"),
        ("reverse", "<s> 3 </s>", "- 3 -"),
        ("hist", "<s> 0 1 1 2", "- 1 2 2 1"),
        ("hist", "<s> 4 4 4 4 4 4 4", "- 7 7 7 7 7 7 7"),
        ("double-hist", "<s> 0 1 1 2", "- 2 1 1 2"),
        ("double-hist", "<s> 5 0 1 2 3 4", "- 6 6 6 6 6 6"),
        ("sort", "<s> 2 1 0 1 </s>", "- 0 1 1 2 -"),
        ("most-freq", "<s> 0 1 1 2", "- 1 0 2 <s>"),
        ("most-freq", "<s> 3 2 2 3", "- 3 2 <s> <s>"),
        ("dyck-1", "<s> ( ) ( ) )", "- P T P T F"),
        ("dyck-1", "<s> ) ( ( )", "- F F F F"),
        ("dyck-2", "<s> ( { } ) ( }", "- P P P T P F"),
        ("dyck-2", "<s> ( } ) (", "- P F F F"),
        ("induction", "<s> a 1 b 2 b 2 a", "- <unk> - <unk> - 2 - 1"),
        ("induction", "<s> d 3", "- <unk> -"),
    ],
)
def test_oracles_on_cases_done_by_hand(key: str, words: str, expected: str) -> None:
    assert ["-" if answer is None else answer for answer in find(key).oracle(words.split())] == expected.split()


def reduced(text: str) -> str:
    """Brackets with every pair that closes taken out."""
    for pair in ("()", "{}"):
        if pair in text:
            return reduced(text.replace(pair, ""))
    return text


@pytest.mark.parametrize("key", ["dyck-1", "dyck-2"])
def test_dyck_answers_are_those_of_taking_out_pairs(key: str) -> None:
    task = find(key)
    for words in examples(key).test[:300]:
        for i, answer in enumerate(task.oracle(words)):
            if i:
                left = reduced("".join(words[1 : i + 1]))
                assert answer == ("T" if not left else "F" if set(left) & set(")}") else "P")


def test_answers_have_the_properties_of_their_tasks() -> None:
    for words in examples("reverse").test[:200]:
        there, back = find("reverse").oracle, [START, *reversed(words[1:-1]), words[-1]]
        assert there(back)[1:-1] == list(words[1:-1])
    for words in examples("sort").test[:200]:
        answer = find("sort").oracle(words)[1:-1]
        assert all(a <= b for a, b in itertools.pairwise(answer))
        assert Counter(answer) == Counter(words[1:-1])
    for words in examples("hist").test[:200]:
        assert sum(1 / int(n) for n in find("hist").oracle(words)[1:]) == pytest.approx(len(set(words[1:])))
        ranked = [word for word in find("most-freq").oracle(words)[1:] if word != START]
        counts = Counter(words[1:])
        assert sorted(ranked, key=lambda word: (-counts[word], words.index(word))) == ranked
        assert len(ranked) == len(counts)


@pytest.mark.parametrize("key", KEYS)
def test_examples_are_unlike_and_in_three_parts(key: str) -> None:
    task, parts = find(key), examples(key)
    every = [*parts.train, *parts.validation, *parts.test]
    assert len(set(every)) == len(every) > 17_000
    assert len(parts.validation) == len(parts.test) == len(every) // 10
    assert all(words[0] == START and len(words) <= task.length for words in every)
    targets = task.targets(parts.test[:500])
    assert set(targets.unique().tolist()) <= {NOTHING, *range(len(task.classes))}
    assert len(task.words) < task.cardinality  # one value is left for padding


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "1 to 8 words, not 0"), (["0"] * 9, "1 to 8 words, not 9"), (["<s>", "x"], "'x' is not a word of 'hist'")],
)
def test_inputs_that_are_none_are_refused_in_a_sentence(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find("hist").encode([words])
    with pytest.raises(ValueError, match="did you mean 'double-hist'"):
        find("double-hits")


# --- the discrete transformer ---


def decoded(model: DiscreteTransformer, words: Sequence[str]) -> dict[str, list[int]]:
    """The value of every variable at every position, read off the one-hot features."""
    features = model.features(model.task.encode([words]))[0, : len(words)]
    return {name: features[:, part].argmax(-1).tolist() for name, part in groups(model.task).items()}


def reference(head: Head, seen: dict[str, list[int]], causal: bool, most: int) -> list[int]:
    """One head, position by position and in the plainest words."""
    out = []
    for i in range(len(seen[TOKENS])):
        last = i if causal else len(seen[TOKENS]) - 1
        matching = [j for j in range(last + 1) if seen[head.key][j] == head.wanted[seen[head.query][i]]]
        if head.counts:
            out.append(min(sum(seen[head.value][j] for j in matching), most))
            continue
        chosen = 0
        for distance in range(1, len(seen[TOKENS])):
            if i - distance in matching:
                chosen = i - distance
                break
            if i + distance in matching:
                chosen = i + distance
                break
        else:
            chosen = i if i in matching else 0
        out.append(seen[head.value][chosen])
    return out


@pytest.mark.parametrize("key", ["most-freq", "dyck-2", "induction"])
def test_the_discrete_forward_is_a_slow_reference_of_each_head_and_lookup(key: str) -> None:
    task = find(key)
    model = untrained(task, seed=1)
    found = program(model)
    for words in drawn(task, 20):
        seen = decoded(model, words)
        assert seen[TOKENS] == [task.words.index(word) for word in words]
        assert seen[POSITIONS] == list(range(len(words)))
        assert seen[ONES] == [1] * len(words)
        for module in found.modules:
            if isinstance(module, Head):
                expected = reference(module, seen, task.causal, task.length)
            else:
                pairs = zip(seen[module.first], seen[module.second], strict=True)
                expected = [module.table[a][b] for a, b in pairs]
            assert seen[module.name] == expected, module.name


def test_reads_and_variables_are_one_hot_at_evaluation_and_nearly_so_when_cold() -> None:
    model = untrained(small("sort"))
    choices = [module for module in model.modules() if isinstance(module, Choice)]
    assert choices
    for choice in choices:
        hard = choice(None)
        assert set(hard.unique().tolist()) <= {0.0, 1.0}
        assert (hard.sum(-1) == 1).all()
        assert torch.equal(hard.argmax(-1), choice.scores.argmax(-1))
        assert torch.allclose(choice(3.0).sum(-1), torch.ones(hard.shape[:-1]))
        assert (choice(1e-3).amax(-1) > 0.99).float().mean() > 0.95
    features = model.features(model.task.encode(drawn(model.task, 50)))
    for part in groups(model.task).values():
        assert set(features[..., part].unique().tolist()) <= {0.0, 1.0}
        assert (features[..., part].sum(-1) == 1).all()


def test_gumbel_samples_have_the_probabilities_of_their_scores() -> None:
    torch.manual_seed(0)
    probability = torch.tensor([0.1, 0.2, 0.7])
    picked = gumbel_softmax(probability.log().expand(20_000, 3), 0.1).argmax(-1)
    assert picked.bincount(minlength=3) / 20_000 == pytest.approx(probability, abs=0.02)


def test_every_weight_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = DiscreteTransformer(small("sort"))
    data = examples("sort").train[:64]
    torch.nn.functional.cross_entropy(
        model(model.task.encode(data), 1.0).flatten(0, 1), model.task.targets(data).flatten(), ignore_index=NOTHING
    ).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0 or weight.shape[-1] == 1, name  # nothing to choose: only ones to add up


def test_padding_and_later_words_change_nothing_they_should_not() -> None:
    for key in ("dyck-1", "induction"):
        model = untrained(find(key))
        for words in drawn(model.task, 20):
            whole = answers(model, [words])[0]
            assert answers(model, [words[: len(words) // 2 + 1]])[0] == whole[: len(words) // 2 + 1]
    model = untrained(small("hist"))
    tokens = model.task.encode([[START, "1", "2"]])
    assert torch.equal(model(tokens)[:, :3], model(tokens[:, :3]))


def test_nearness_prefers_near_then_left_and_itself_last() -> None:
    order = nearness(5)[2].argsort(descending=True)
    assert order.tolist() == [1, 3, 0, 4, 2]
    assert nearness(8).min() >= -1
    assert tents(torch.tensor([0.0, 3.0, 1.25]), 3).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0.75, 0.25, 0]]


# --- files ---


def test_committed_programs_pass_ruff_at_any_line_length() -> None:
    files = [str(LEARNED / f"{task.module}.py") for task in TASKS]
    for arguments in (["check"], ["check", "--isolated"], ["format", "--check"], ["format", "--check", "--isolated"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments, *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("task", TASKS, ids=KEYS)
def test_a_committed_program_runs_on_its_own(task: ProgramTask) -> None:
    words = examples(task.key).test[0]
    file = LEARNED / f"{task.module}.py"
    done = subprocess.run([sys.executable, "-I", str(file), *words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == committed(task)(list(words))
    assert file.stat().st_size < 100_000


@pytest.mark.parametrize("task", TASKS, ids=KEYS)
def test_a_committed_program_is_as_accurate_as_its_card_says(task: ProgramTask) -> None:
    run, asked, correct, whole = committed(task), 0, 0, 0
    test = examples(task.key).test
    for words in test:
        pairs = [(a, b) for a, b in zip(task.oracle(words), run(list(words)), strict=True) if a is not None]
        good = sum(a == b for a, b in pairs)
        asked, correct, whole = asked + len(pairs), correct + good, whole + (good == len(pairs))
    figures = card(task)["figures"]
    assert correct / asked == pytest.approx(figures["accuracy"], abs=1e-5)
    assert whole / len(test) == pytest.approx(figures["whole"], abs=1e-5)
    assert card(task)["agreement"] == 1
    assert card(task)["task"] == task.key
    assert card(task)["seed"] == task.seed


@pytest.mark.parametrize("task", TASKS, ids=KEYS)
def test_a_committed_program_refuses_what_is_no_input(task: ProgramTask) -> None:
    for words in ([], ["?"], [START] * (task.length + 1)):
        with pytest.raises(ValueError, match=f"Give 1 to {task.length} words out of"):
            committed(task)(words)


@pytest.mark.parametrize("key", KEYS)
def test_a_written_program_says_what_its_model_says(key: str, tmp_path: Path) -> None:
    task = find(key)
    model = untrained(task, seed=2)
    text = emit(program(model))
    (tmp_path / "emitted.py").write_text(text, encoding="utf-8")
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "--isolated", str(tmp_path)], capture_output=True
        )
        assert done.returncode == 0, done.stdout
    inputs, run = drawn(task, 200), loaded(text)
    assert [run(words) for words in inputs] == answers(model, inputs)


@pytest.mark.usefixtures("quick_fit")
def test_a_learned_program_says_what_its_model_says_on_every_short_input() -> None:
    learned = learn(small("most-freq"), epochs=1, progress=lambda p: p.done < 60)
    task, run = learned.program.task, loaded(emit(learned.program, learned.figures["accuracy"]))
    inputs = [list(words) for n in range(1, 5) for words in itertools.product(task.words, repeat=n)]
    inputs += drawn(task, 1000)
    expected = answers(learned.model, inputs)
    assert [run(words) for words in inputs] == expected
    assert [learned.program.run(words) for words in inputs[::10]] == expected[::10]
    assert {learned.complete, learned.steps} == {False, 60}
    text = emit(learned.program)
    assert programs.agreement(learned, text) == 1
    assert programs.agreement(learned, text.replace("max(totals)", "min(totals)")) < 1


def constant(task: ProgramTask) -> Program:
    """A program whose parts are degenerate in every way there is."""
    nowhere = (task.cardinality - 1,) * task.cardinality  # the value of padding: no position has it
    fixed = tuple((3,) * (task.length + 1) for _ in range(task.length + 1))
    modules = (
        Lookup("mlp_0_0", TOKENS, POSITIONS, fixed),
        Head("attn_0_0", POSITIONS, TOKENS, TOKENS, nowhere, counts=False),
        Head("attn_0_1", POSITIONS, "mlp_0_0", POSITIONS, (3, 2) * 4, counts=False),
        Head("num_attn_0_0", TOKENS, TOKENS, ONES, nowhere, counts=True),
        Head("num_attn_0_1", TOKENS, "mlp_0_0", ONES, (3,) * 8, counts=True),
        Head("attn_1_0", "mlp_0_0", TOKENS, TOKENS, tuple(range(8)), counts=False),
        Lookup("num_mlp_1_0", "num_attn_0_0", "num_attn_0_1", tuple(tuple(range(9)) for _ in range(9))),
    )
    rows = tuple(tuple((a * b) % 5 for b in range(len(task.classes))) for a in range(9))
    return Program(task, modules, dict.fromkeys(("mlp_0_0", "attn_0_0", "attn_0_1", "attn_1_0", "num_mlp_1_0"), rows))


def test_degenerate_parts_are_written_and_traced_right() -> None:
    task = find("hist")
    made = constant(task)
    run = loaded(emit(made))
    for words in drawn(task, 100):
        assert run(words) == made.run(words)
    assert made.live == (TOKENS, POSITIONS, "attn_0_0", "attn_0_1", "num_attn_0_1", "attn_1_0", "num_mlp_1_0")
    assert made.reads["attn_0_0"] == (("value", TOKENS),)
    assert made.reads["attn_0_1"] == (("query", POSITIONS), ("value", POSITIONS))
    assert made.reads["attn_1_0"] == (("key", TOKENS), ("value", TOKENS))
    assert made.reads["num_mlp_1_0"] == (("second", "num_attn_0_1"),)
    assert "mlp_0_0" not in dict.fromkeys(name for _, name in made.reads[OUTPUT])


# --- training ---


def test_hist_is_learned_to_the_last_answer_in_an_epoch() -> None:
    told = []
    threads = torch.get_num_threads()
    learned = learn(find("hist"), epochs=1, progress=lambda p: told.append((p.done, p.total)))
    assert learned.figures == {"accuracy": 1.0, "whole": 1.0}
    assert learned.complete
    assert told[-1] == (learned.steps, 250)
    assert [done for done, _ in told] == list(range(1, learned.steps + 1))
    assert torch.get_num_threads() == threads
    assert len(flow(learned.program).live_edges) <= 6
    data = examples("hist").test
    assert right(learned.model, find("hist").encode(data), find("hist").targets(data)) == learned.figures


@pytest.mark.usefixtures("quick_fit")
def test_the_seed_alone_decides_the_program() -> None:
    task = dataclasses.replace(find("hist"), sizes=Sizes(1, 2, 1, 1, 1))

    def text(seed: int) -> str:
        return emit(learn(task, epochs=1, seed=seed, progress=lambda p: p.done < 12).program)

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = text(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert text(3) == first
    assert text(4) != first


def test_no_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="Cannot learn in 0 epochs"):
        learn(find("hist"), epochs=0)


def test_leaving_variables_out_costs_next_to_nothing() -> None:
    task = small("sort")
    model = untrained(task)
    data = examples("sort").train[:1000]
    tokens, targets = task.encode(data), task.targets(data)
    found = finish(model, tokens, targets)
    after = right(model, tokens, targets)["accuracy"]
    everything = untrained(task)
    assert after > right(everything, tokens, targets)["accuracy"]
    assert set(found.scores) <= set(groups(task))
    assert torch.equal(model.readout, model.readout.round())


# --- data flow ---


@pytest.mark.parametrize("key", ["sort", "dyck-2", "induction"])
def test_what_flows_outside_the_live_edges_changes_no_answer(key: str) -> None:
    model = untrained(find(key), seed=4)
    found = program(model)
    found = dataclasses.replace(found, scores=dict(list(found.scores.items())[::3]))
    graph, r = flow(found), random.Random(0)
    inputs = drawn(found.task, 15)
    expected = [found.run(words) for words in inputs]
    live = set(graph.live_edges)
    assert 0 < len(live) < len(graph.edges)

    def swapped(edges: set[str]) -> list[list[str]]:
        def swap(source: str, reader: str, column: list[int]) -> list[int]:
            if f"{source}->{reader}" not in edges:
                return column
            # A module that reads one variable twice sees the same both times.
            again = random.Random(f"{source} {reader} {turn}")
            return again.choices(found.possible[source], k=len(column))

        return [found.run(words, swap) for words in inputs]

    for turn in range(3):  # noqa: B007 - read by swap
        assert swapped(set(graph.edges) - live) == expected
    turn = r.randrange(100)
    moved = {edge for edge in graph.edges if swapped({edge}) != expected}
    assert moved <= live
    assert len(moved) > len(live) / 4


def test_a_flow_names_who_reads_what() -> None:
    made = constant(find("hist"))
    found = flow(made)
    assert "num_attn_0_1->num_mlp_1_0" in found.live_edges
    assert "num_attn_0_0->num_mlp_1_0" in set(found.edges) - set(found.live_edges)
    assert found.graph.edges[TOKENS, "attn_0_0"]["reads"] == ("key", "value")
    assert found.graph.nodes["num_mlp_1_0"] == {"kind": "lookup", "layer": 1, "live": True}
    assert found.live_nodes == [*made.live, OUTPUT]
    assert found.graph.has_edge("mlp_0_0", OUTPUT)


@pytest.mark.parametrize("task", TASKS, ids=KEYS)
def test_the_circuit_on_a_card_is_that_of_its_program(task: ProgramTask) -> None:
    text = (LEARNED / f"{task.module}.py").read_text(encoding="utf-8")
    said = card(task)
    for name in said["live"]:
        assert name in (TOKENS, POSITIONS) or f"def {name}(" in text
    assert text.count("\ndef ") - sum(name not in (TOKENS, POSITIONS) for name in said["live"]) <= 4
    ends = {end for edge in said["edges"] for end in edge.split("->")}
    assert ends == {*said["live"], OUTPUT}


def test_the_page_has_the_figures_of_the_cards() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "programs.md").read_text(encoding="utf-8")
    for task in TASKS:
        said = card(task)
        shares = (said["figures"]["accuracy"], said["figures"]["whole"], task.paper)
        cells = [f"{100 * share:.2f} %" for share in shares]
        cells += [f"{len(said['live'])}, {len(said['edges'])}", str(said["seconds"])]
        row = next(line for line in page.splitlines() if line.startswith(f"| `{task.key}` |"))
        assert [cell.strip() for cell in row.strip("|").split("|")][2:] == [str(task.length), *cells]


# --- commands ---


@pytest.fixture
def learn_program(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        status = cli.main(["learn-program", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.mark.usefixtures("quick_fit")
def test_the_command_writes_a_program_and_does_not_overwrite_one(learn_program, tmp_path) -> None:
    file = tmp_path / "hist.py"
    status, out, _ = learn_program("hist", "--out", file, "--epochs", 1, "--json")
    told = json.loads(out)
    assert (status, told["task"], told["file"]) == (0, "hist", str(file))
    assert told["figures"]["accuracy"] > 0.99
    assert told["agreement"] == 1
    before = file.read_text(encoding="utf-8")
    assert loaded(before)([START, "1", "1"])[1:] == ["2", "2"]
    status, out, err = learn_program("hist", "--out", file)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--force to replace it" in err
    status, out, _ = learn_program("hist", "--out", file, "--epochs", 1, "--seed", 1, "--force")
    assert status == 0
    assert "in the paper" in out
    assert file.read_text(encoding="utf-8") != before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dick-1", "--out", "x.py"), "did you mean 'dyck-1'"),
        (("sort", "--out", "nowhere/x.py"), "There is no folder 'nowhere'"),
        (("sort", "--out", "x.py", "--epochs", 0), "Cannot learn in 0 epochs"),
    ],
)
def test_the_command_refuses_in_one_line(learn_program, tmp_path, monkeypatch, arguments, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = learn_program(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick_fit")
def test_ctrl_c_keeps_the_best_program_so_far(learn_program, tmp_path, monkeypatch) -> None:
    real = programs.learn

    def interrupted(task: ProgramTask, *, progress, **options):
        def step(p):
            if p.done == 15:
                signal.raise_signal(signal.SIGINT)
            return progress(p)

        return real(task, progress=step, **options)

    monkeypatch.setattr(programs, "learn", interrupted)
    status, _, err = learn_program("hist", "--out", tmp_path / "hist.py")
    assert status == 130
    assert "Stopped after 15 steps; the best program so far is in" in err
    assert len(loaded((tmp_path / "hist.py").read_text(encoding="utf-8"))([START, "1", "2"])) == 3


def test_the_module_learns_into_a_folder(tmp_path, capsys) -> None:
    assert main(["hist", "--epochs", "1", "--out", str(tmp_path / "new")]) == 0
    assert "hist: accuracy 1.0000" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["hist.card.json", "hist.py"]
    assert main(["hits"]) == 1
    assert "did you mean 'hist'" in capsys.readouterr().err
