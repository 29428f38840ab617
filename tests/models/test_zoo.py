"""The models that the repository trains itself: good enough, small, and trained alike from the same seed."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from workbench.models import Transformer, load
from workbench.models.registry import MODELS, ZOO
from workbench.models.zoo import RECORDS, BelowBarError, ZooModel, addition, digits, find, induction, modular, names
from workbench.models.zoo.__main__ import main
from workbench.models.zoo.publish import CARD, MOST_BYTES, make
from workbench.models.zoo.training import rate_at, train

ROOT = Path(__file__).resolve().parents[2]
KEYS = names()


@pytest.fixture(scope="module")
def zoo() -> dict[str, Transformer]:
    return {key: load(key, device="cpu") for key in KEYS}


def shortened(key: str, steps: int = 4, **changes: object) -> ZooModel:
    """A record whose training takes a moment, and whose bar any model reaches."""
    record = find(key)
    schedule = dataclasses.replace(record.schedule, steps=steps, batch=16, warmup=1)
    return dataclasses.replace(record, schedule=schedule, least={}, **changes)


def card(key: str) -> dict:
    return json.loads((ZOO / key / CARD).read_text(encoding="utf-8"))


# --- what lies in the repository ---


def test_the_registry_and_the_zoo_know_the_same_models() -> None:
    assert {model.key: model.title for model in MODELS if model.bundled} == {r.key: r.title for r in RECORDS}
    with pytest.raises(ValueError, match="did you mean 'digits-vit'"):
        find("digit-vit")


@pytest.mark.parametrize("key", KEYS)
def test_a_committed_model_is_small_and_what_its_record_says(key: str, zoo: dict[str, Transformer]) -> None:
    record, model = find(key), zoo[key]
    assert (ZOO / key / "model.safetensors").stat().st_size < MOST_BYTES
    assert model.cfg == record.config
    assert model.name == key
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("key", KEYS)
def test_a_committed_model_reaches_its_bar_on_what_training_never_saw(key: str, zoo: dict[str, Transformer]) -> None:
    record, figures = find(key), find(key).evaluate(zoo[key])
    assert record.missed(figures) == []
    assert set(record.least) == set(figures)
    assert figures == pytest.approx(card(key)["figures"], abs=2e-3)


@pytest.mark.parametrize("key", KEYS)
def test_a_card_says_how_its_model_was_trained(key: str, zoo: dict[str, Transformer]) -> None:
    record, said = find(key), card(key)
    assert said["seed"] == record.seed
    assert (said["steps"], said["batch"]) == (record.schedule.steps, record.schedule.batch)
    assert said["least"] == dict(record.least)
    assert said["parameters"] == sum(p.numel() for p in zoo[key].parameters())
    assert said["bytes"] == (ZOO / key / "model.safetensors").stat().st_size
    assert said["inside"].keys() == record.inside(zoo[key]).keys()


@pytest.mark.parametrize("key", KEYS)
def test_a_folder_holds_no_pickle_and_no_trace_of_the_machine(key: str) -> None:
    files = sorted(file for file in (ZOO / key).rglob("*") if file.is_file())
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    for file in files:
        head = file.read_bytes()
        assert not head.startswith((b"PK", b"\x80"))  # what torch.save and pickle begin with
        if file.suffix == ".json":
            json.loads(head)
            assert not re.search(rb"/(home|tmp|work|root|Users)\b", head)


@pytest.mark.usefixtures("zoo")  # what loading imports has been imported then; some of that unpickles
@pytest.mark.parametrize("key", KEYS)
def test_a_model_is_loaded_without_unpickling(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    assert load(key, device="cpu").cfg == find(key).config


def test_the_page_says_what_the_cards_say() -> None:
    page = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)\|$", page, re.MULTILINE))
    assert list(rows) == KEYS
    for key, row in rows.items():
        said = card(key)
        assert f"{said['parameters']:,}" in row
        assert f"{said['steps']:,} steps" in row
        told = dict(re.findall(r"`(\w+)` ([\d.]+) %", row))
        assert told == {name: f"{100 * figure:.2f}" for name, figure in said["figures"].items()}, key
    frequencies = ", ".join(map(str, sorted(card("modular-addition")["inside"]["key_frequencies"])))
    assert frequencies in page
    for kind in ("induction_heads", "previous_token_heads"):
        for layer, head in card("induction-2l")["inside"][kind]:
            assert f"{layer}.{head}" in page


# --- digits ---


def test_digits_are_held_out_by_class_and_never_trained_on() -> None:
    parts = digits.split()
    trained = {tuple(image.flatten().tolist()) for image in parts.train}
    assert not any(tuple(image.flatten().tolist()) in trained for image in parts.test)
    assert len(parts.train) + len(parts.test) == 1797
    each = parts.test_labels.bincount() / torch.cat((parts.train_labels, parts.test_labels)).bincount()
    assert each.tolist() == pytest.approx([0.2] * 10, abs=0.006)
    assert (float(parts.train.min()), float(parts.train.max())) == (0.0, 1.0)
    again = digits.split()
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_a_picture_of_a_digit_comes_to_the_scale_of_training(zoo: dict[str, Transformer], tmp_path: Path) -> None:
    model, parts = zoo["digits-vit"], digits.split()
    for image in parts.test[:20]:
        small = digits.picture(image)
        assert (small.mode, small.size) == ("L", (8, 8))
        torch.testing.assert_close(model.to_pixels(small)[0], image, atol=0.5 / 255 + 1e-6, rtol=0)
        large = small.resize((64, 64), Image.Resampling.NEAREST)
        torch.testing.assert_close(model.to_pixels(large), model.to_pixels(small))
    large.convert("RGB").save(tmp_path / "digit.png")
    torch.testing.assert_close(model.to_pixels(tmp_path / "digit.png"), model.to_pixels(small))
    assert model.cfg.labels is not None
    assert model.cfg.labels[int(model(model.to_pixels(small)).argmax())] == str(int(parts.test_labels[19]))


def test_moved_digits_keep_their_ink_and_every_fourth_is_as_it_was() -> None:
    images = digits.split().train[:64]
    made = digits.moved(images, torch.Generator().manual_seed(0))
    assert torch.equal(made[::4], images[::4])
    assert not torch.equal(made[1], images[1])
    assert float(made.sum() / images.sum()) == pytest.approx(1, abs=0.1)


# --- induction ---


def test_there_are_induction_heads_and_they_lean_on_previous_token_heads(zoo: dict[str, Transformer]) -> None:
    model = zoo["induction-2l"]
    found = induction.heads(model)
    matching, previous = found["induction_heads"], found["previous_token_heads"]
    assert {layer for layer, _ in matching} == {1}
    assert any(layer == 0 for layer, _ in previous)

    def accuracy(silent: list[list[int]]) -> float:
        tokens = induction.repeated(64, 20, torch.Generator().manual_seed(5))
        found = without(model, silent, tokens).argmax(-1)
        return float((found[:, 21:-1] == tokens[:, 22:]).double().mean())

    assert accuracy([]) > 0.95
    assert accuracy(matching) < 0.3
    assert accuracy([head for head in previous if head[0] == 0]) < 0.3
    for head in range(4):
        assert [0, head] in previous or accuracy([[0, head]]) > 0.6


def without(model: Transformer, silent: list[list[int]], tokens: torch.Tensor) -> torch.Tensor:
    """Logits with the outputs of some heads at zero."""

    def silence(layer: int):
        def tap(z: torch.Tensor) -> torch.Tensor:
            z = z.clone()
            z[:, :, [head for at, head in silent if at == layer]] = 0
            return z

        return tap

    return model(tokens, {f"blocks.{layer}.attn.hook_z": silence(layer) for layer in {at for at, _ in silent}})


def test_a_series_comes_round_and_has_no_word_twice() -> None:
    tokens = induction.repeated(50, 20, torch.Generator().manual_seed(1))
    assert tokens.shape == (50, 41)
    assert tokens[:, 0].tolist() == [0] * 50
    assert torch.equal(tokens[:, 1:21], tokens[:, 21:])
    assert all(len({0, *row}) == 21 for row in tokens[:, 1:21].tolist())


def test_a_text_for_training_is_a_series_and_pieces_of_it() -> None:
    tokens, known = induction.pieces(200, torch.Generator().manual_seed(1))
    assert tokens.shape == known.shape == (200, induction.CONTEXT)
    lengths = set()
    for row, marks in zip(tokens.tolist(), known.tolist(), strict=True):
        length = next(i for i in range(1, induction.CONTEXT) if row[i] in row[:i]) - 1
        lengths.add(length)
        assert row[0] == 0
        assert set(row[1 : 1 + length]) == set(row[1:])
        followed = set(pairwise(row[1 : 1 + length]))
        for i in range(2, induction.CONTEXT):
            # A jump may happen to lead to the next word: then it is right, and not marked.
            assert not marks[i] or (i > 1 + length and (row[i - 1], row[i]) in followed)
    assert lengths == set(range(8, 33))
    assert float(known.double().mean()) == pytest.approx(0.55, abs=0.05)


def test_induction_reads_typed_text(zoo: dict[str, Transformer]) -> None:
    model = zoo["induction-2l"]
    text = "a q c mirror b table"
    tokens = model.to_tokens(f"{text} a q c")
    assert tokens[0, 0] == 0
    assert model.tokenizer.decode(tokens[0], skip_special_tokens=True) == f"{text} a q c"
    assert model.to_str_tokens([int(model(tokens)[0, -1].argmax())]) == [text.split()[3]]
    with pytest.raises(ValueError, match="'Xylophone' is not in the vocabulary"):
        model(model.to_tokens("a b Xylophone"))


def test_the_induction_task_can_be_made_for_it(zoo: dict[str, Transformer]) -> None:
    from workbench.circuits import tasks

    task = tasks.load("induction", zoo["induction-2l"], n=8)
    assert len(task) == 8


# --- modular addition ---


def test_pairs_are_in_one_part_only() -> None:
    parts = modular.split()
    trained, tested = ({tuple(row) for row in tokens.tolist()} for tokens in (parts.train, parts.test))
    assert not trained & tested
    assert len(trained | tested) == len(parts.train) + len(parts.test) == 113**2
    assert all(
        (a + b) % 113 == c for (a, b, _), c in zip(parts.test.tolist(), parts.test_answers.tolist(), strict=True)
    )
    drawn = modular.batches(500, torch.Generator().manual_seed(0))
    assert {tuple(row) for _ in range(12) for row in next(drawn)[0].tolist()} <= trained


def test_modular_addition_works_with_a_few_frequencies(zoo: dict[str, Transformer]) -> None:
    model = zoo["modular-addition"]
    frequencies = modular.key_frequencies(model)
    assert 2 <= len(frequencies) <= 10
    power = modular.frequency_power(model)
    assert power.shape == (56,)
    assert float(power.sum()) == pytest.approx(1)
    # Without them nothing is left; without all others the answers stay right.
    wave, parts = torch.fft.rfft(model.W_E[:113].double(), dim=0), modular.split()
    for kept, low, high in ((False, 0.0, 0.1), (True, 0.9, 1.0)):
        chosen = torch.tensor([k == 0 or (k in frequencies) == kept for k in range(57)])
        changed = torch.fft.irfft(wave * chosen[:, None], n=113, dim=0).float()
        table = torch.cat((changed, model.W_E[113:]))
        found = model(parts.test, {"hook_embed": lambda _, table=table: table[parts.test]})[:, -1].argmax(-1)
        assert low <= float((found == parts.test_answers).double().mean()) <= high


def test_modular_addition_reads_typed_text(zoo: dict[str, Transformer]) -> None:
    model = zoo["modular-addition"]
    for text in ("100 + 50 =", "100 50 =", "100+50="):
        tokens = model.to_tokens(text)
        assert tokens.tolist() == [[100, 50, modular.EQUALS]]
        assert model.tokenizer.decode(tokens[0]) == "100 50 ="
        assert model.to_str_tokens([int(model(tokens)[0, -1].argmax())]) == ["37"]
    with pytest.raises(ValueError, match="'113' is not in the vocabulary"):
        model(model.to_tokens("113 + 1 ="))


# --- five-digit addition ---


def test_training_draws_no_problem_that_is_held_out() -> None:
    drawn, seen = addition.batches(256, torch.Generator().manual_seed(0)), 0
    for _ in range(20):
        tokens, answers = next(drawn)
        assert len(tokens) == 256
        assert not addition.held_out(tokens[:, :5], tokens[:, 6:11]).any()
        seen += int(((tokens[:, :5] + tokens[:, 6:11] == 9).sum(1) >= 3).sum())
        assert answers.shape == (256, 6)
    assert seen / (20 * 256) > 0.15  # 1 % of random problems have three columns of nine
    a, b = addition.drawn(20_000, torch.Generator().manual_seed(1))
    assert float(addition.held_out(a, b).double().mean()) == pytest.approx(1 / 17, abs=0.01)


@pytest.mark.parametrize("carry", [True, False])
def test_long_chains_are_what_they_are_called(carry: bool) -> None:
    a, b = addition.long_chains(500, torch.Generator().manual_seed(0), carry=carry)
    assert min(int(a.min()), int(b.min())) >= 0
    assert max(int(a.max()), int(b.max())) <= 9
    for first, second in zip(a.tolist(), b.tolist(), strict=True):
        carried, through = 0, 0
        for x, y in zip(reversed(first), reversed(second), strict=True):
            through += x + y == 9 and carried
            carried = int(x + y + carried > 9)
        assert (through >= 3) == carry
        assert sum(x + y == 9 for x, y in zip(first, second, strict=True)) >= 3


def test_addition_reads_typed_text_and_writes_the_sum(zoo: dict[str, Transformer]) -> None:
    model = zoo["five-digit-addition"]
    for a, b in ((12345, 67890), (99999, 1), (44444, 55555), (44444, 55556), (0, 0), (90210, 31415)):
        text = f"{a:05d}+{b:05d}="
        tokens = model.to_tokens(text)
        assert tokens.shape == (1, addition.PROMPT)
        assert model.tokenizer.decode(tokens[0]) == text
        for _ in range(6):
            tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
        assert model.tokenizer.decode(tokens[0]) == f"{text}{a + b:06d}"
    assert model.to_tokens("12345 + 67890 =").tolist() == model.to_tokens("12345+67890=").tolist()
    with pytest.raises(ValueError, match="'x' is not in the vocabulary"):
        model(model.to_tokens("1234x+"))


# --- training ---


@pytest.mark.parametrize(("key", "steps"), [("digits-vit", 25), ("induction-2l", 25), ("modular-addition", 25)])
def test_a_few_steps_reduce_the_loss(key: str, steps: int) -> None:
    losses: list[float] = []
    train(find(key), stop_after=steps, progress=lambda step, total, loss: losses.append(loss))
    assert len(losses) == steps
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("key", KEYS)
def test_the_seed_alone_decides_the_weights(key: str) -> None:
    record, threads = shortened(key), torch.get_num_threads()
    torch.manual_seed(1)
    first = train(record)
    torch.manual_seed(2)
    second = train(record)
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != train(dataclasses.replace(record, seed=1)).fingerprint
    assert torch.get_num_threads() == threads
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_the_learning_rate_rises_and_falls() -> None:
    schedule = find("digits-vit").schedule
    rates = [rate_at(step, schedule) for step in range(1, schedule.steps + 1)]
    top = rates.index(max(rates)) + 1
    assert top == schedule.warmup
    assert rates[0] < rates[50] < rates[schedule.warmup - 1]
    assert rates[-1] == pytest.approx(schedule.rate / 50)


def test_what_is_written_is_complete_and_replaces_what_was_there(tmp_path: Path) -> None:
    record = shortened("induction-2l")
    (tmp_path / record.key).mkdir()
    (tmp_path / record.key / "old.txt").write_text("old")
    said = make(record, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {record.key}
    written = {file.name for file in (tmp_path / record.key).iterdir()}
    assert written == {file.name for file in (ZOO / record.key).iterdir()}
    assert json.loads((tmp_path / record.key / CARD).read_text()) == json.loads(json.dumps(said))
    assert load(tmp_path / record.key, device="cpu").cfg == record.config


def test_the_command_writes_the_same_weights_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("workbench.models.zoo.__main__.find", shortened)
    for out in ("a", "b"):
        assert main(["digits-vit", "induction-2l", "--out", str(tmp_path / out)]) == 0
    said = capsys.readouterr().out
    assert (
        re.findall(r"^(\S+): accuracy 0\.\d{4}, .* bytes in", said, re.MULTILINE) == ["digits-vit", "induction-2l"] * 2
    )
    for key in ("digits-vit", "induction-2l"):
        first, second = (tmp_path / out / key / "model.safetensors" for out in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_a_model_below_the_bar_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    record = dataclasses.replace(shortened("induction-2l"), least={"accuracy": 0.95})
    with pytest.raises(BelowBarError, match=r"^induction-2l is not good enough .* must be 0\.95"):
        make(record, tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("workbench.models.zoo.__main__.find", lambda key: record)
    assert main(["induction-2l", "--out", str(tmp_path)]) == 1
    assert "not good enough" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_too_large_are_not_written(tmp_path: Path) -> None:
    wide = dataclasses.replace(find("induction-2l").config, d_model=256, d_head=64)
    with pytest.raises(BelowBarError, match=r"the weights take 2,\d\d\d,\d\d\d bytes"):
        make(shortened("induction-2l", 1, config=wide), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_move_that_fails_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = shortened("induction-2l", 1)
    make(record, tmp_path)
    before = (tmp_path / record.key / CARD).read_bytes()
    move = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        make(record, tmp_path)
    assert (tmp_path / record.key / CARD).read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {record.key}


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def press(*args: object) -> None:
        raise KeyboardInterrupt

    record = shortened("induction-2l")
    for at, broken in (
        ("training", dataclasses.replace(record, loss=press)),
        ("measuring", dataclasses.replace(record, evaluate=press)),
    ):
        monkeypatch.setattr("workbench.models.zoo.__main__.find", lambda key, broken=broken: broken)
        assert main(["induction-2l", "--out", str(tmp_path)]) == 130, at
        assert list(tmp_path.iterdir()) == []
    assert "the model that was in training is as it was before" in capsys.readouterr().err


def test_a_wrong_name_is_one_sentence(capsys) -> None:
    assert main(["modular-additoin"]) == 1
    assert capsys.readouterr().err == (
        "There is no model in the zoo 'modular-additoin'; did you mean 'modular-addition'?\n"
    )
