from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.circuits.evaluate import Evaluation, FaithfulnessCurve
from workbench.circuits.graph import Graph, Scores
from workbench.runs import RunError, RunInfo, RunStore, RunWriter, run_id
from workbench.runs.files import canonical_json, read_json, write_json

GRAPH = Graph(2, 3)
REQUEST: dict[str, Any] = {
    "model": {"name": "micro", "fingerprint": "f00"},
    "task": {"name": "ioi", "n": 4, "seed": 3},
    "method": "eap-ig",
    "settings": {"options": {"steps": 5}, "edges": 9, "ranking": "signed"},
}
REPORT = Evaluation(0.5, 1.5, 2.0, 1.0, 0.75, 9, 5, GRAPH.n_edges, 4, "resample", True)
CURVE = FaithfulnessCurve(
    [0.1, 1.0], [3, 60], [0.2, 1.0], [0.3, 1.0], None, 0.7, 0.4, 2.0, 1.0, GRAPH.n_edges, 4, "resample", True
)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "store")


def scores() -> Scores:
    values = torch.randn(GRAPH.mask.shape, generator=torch.Generator().manual_seed(0)) * GRAPH.mask
    return Scores(GRAPH, values, "eap-ig", "ioi", {"steps": 5}, 4, True)


def finished(store: RunStore, **changes: Any) -> RunWriter:
    writer = store.begin(**(REQUEST | changes), n_edges=9)
    writer.save_scores(scores())
    writer.finish("done", report=REPORT.__dict__, curve=CURVE.__dict__)
    return writer


# -- keeping and finding --------------------------------------------------------------------------------------


def test_what_is_kept_comes_back_equal(store):
    run = store.open(finished(store).id)
    kept = scores()
    assert torch.equal(run.scores.values, kept.values)
    assert (run.scores.graph, run.scores.method, run.scores.settings) == (GRAPH, "eap-ig", {"steps": 5})
    assert (run.scores.n_examples, run.scores.complete) == (4, True)
    assert run.report == REPORT
    assert run.curve == CURVE
    assert run.info.seed == 3
    assert set(run.info.versions) == {"workbench", "torch", "transformers", "python"}
    assert run.circuit().edges == kept.top(9, ranking="signed").edges
    assert run.circuit(20).edges == kept.top(20, ranking="signed").edges


def test_a_run_takes_what_all_its_files_take_on_the_disk(store):
    run = finished(store)
    before = store.disk_use(run.id)
    assert before == sum(path.stat().st_size for path in run.folder.iterdir())
    deeper = run.folder / "examinations" / "0123"
    deeper.mkdir(parents=True)
    (deeper / "curve.json").write_bytes(b"x" * 1234)
    assert store.disk_use(run.id) == before + 1234


def test_a_run_is_looked_at_without_torch_until_its_tensors_are_asked_for(store):
    finished(store)
    script = (
        "import sys; from workbench.runs import RunStore; store = RunStore(sys.argv[1]); "
        "assert len(store.list()) == 1; store.open(store.list()[0].id); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(store.root)], check=True)


def test_numbers_that_are_not_finite_survive_as_nan_in_sound_json(store):
    writer = store.begin(**REQUEST)
    report = REPORT.__dict__ | {"faithfulness": math.nan}
    curve = CURVE.__dict__ | {"faithfulness": [math.nan, 1.0], "cpr": math.inf}
    writer.finish("done", report=report, curve=curve)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((writer.folder / "run.json").read_text(), parse_constant=refuse)
    run = store.open(writer.id)
    assert run.report is not None
    assert run.curve is not None
    assert math.isnan(run.report.faithfulness)
    assert math.isnan(run.curve.faithfulness[0])
    assert math.isnan(run.curve.cpr)
    assert run.curve.random is None


def test_the_same_request_has_the_same_id_and_any_other_request_another():
    plain = {key: REQUEST[key] for key in ("model", "task", "method", "settings")}
    first = run_id(**plain)
    reordered = dict(reversed(list(REQUEST["settings"].items())))
    assert run_id(**plain | {"settings": reordered}) == first
    assert run_id(**plain | {"model": {"name": "another name", "fingerprint": "f00"}}) == first
    others = [
        {"model": {"name": "micro", "fingerprint": "f01"}},
        {"task": REQUEST["task"] | {"seed": 4}},
        {"method": "eap"},
        {"settings": REQUEST["settings"] | {"edges": 10}},
    ]
    assert len({first, *(run_id(**plain | other) for other in others)}) == 5


def test_runs_are_listed_newest_first(store):
    ids = []
    for seed in range(3):
        writer = store.begin(**REQUEST | {"task": REQUEST["task"] | {"seed": seed}})
        writer.finish("done", created=f"2026-01-0{seed + 1}T00:00:00+00:00")
        ids.append(writer.id)
    assert [info.id for info in store.list()] == ids[::-1]


def test_a_run_is_opened_by_id_by_its_start_by_its_folder_and_by_the_store_that_holds_it(store, monkeypatch):
    writer = finished(store)
    for which in (writer.id, writer.id[:-2], writer.folder, str(writer.folder), store.root):
        assert store.open(which).id == writer.id
    elsewhere = RunStore(store.root.parent / "other")
    assert elsewhere.open(writer.folder).report == REPORT
    monkeypatch.chdir(store.root.parent)
    assert elsewhere.open("store").id == writer.id


def test_opening_a_store_opens_its_newest_run(store):
    finished(store, task=REQUEST["task"] | {"seed": 1})
    newest = finished(store, task=REQUEST["task"] | {"seed": 2})
    newest.update(created="2999-01-01T00:00:00+00:00")
    assert RunStore(store.root.parent).open(store.root).id == newest.id


def test_an_unknown_id_suggests_the_closest_and_an_ambiguous_one_lists_what_fits(store):
    ids = [finished(store, task=REQUEST["task"] | {"seed": seed}).id for seed in range(2)]
    with pytest.raises(RunError, match=f"did you mean '{ids[0]}'"):
        store.open(ids[0].replace("eap", "aep"))
    with pytest.raises(RunError, match="is the start of 2 runs"):
        store.open("ioi")
    with pytest.raises(RunError, match="holds 2 run"):
        store.open("zzzzzz")


# -- damage ---------------------------------------------------------------------------------------------------


def harm(folder: Path, how: str) -> None:
    file, tensors = folder / "run.json", folder / "scores.safetensors"
    data = json.loads(file.read_text())
    if how == "half a run.json":
        file.write_bytes(file.read_bytes()[:200])
    elif how == "no run.json":
        file.unlink()
    elif how == "a list":
        file.write_text("[]")
    elif how == "a field missing":
        del data["task"]
    elif how == "a field of the wrong kind":
        data["settings"] = "none"
    elif how == "graph of nonsense":
        data["graph"] = {"layers": 1}
    elif how == "another graph":
        data["graph"] = {"n_layers": 3, "n_heads": 3}
    elif how == "no tensors":
        tensors.unlink()
    elif how == "half the tensors":
        tensors.write_bytes(tensors.read_bytes()[:-10])
    elif how == "a pickle":
        tensors.write_bytes(b"\x80\x04K\x01.")
    if how.startswith(("a field", "graph", "another")):
        file.write_text(json.dumps(data))


IN_JSON = ["half a run.json", "no run.json", "a list", "a field missing", "a field of the wrong kind"]
IN_TENSORS = ["graph of nonsense", "another graph", "no tensors", "half the tensors", "a pickle"]


@pytest.mark.parametrize("how", IN_JSON + IN_TENSORS)
def test_a_damaged_run_is_one_sentence_with_folder_and_remedy_and_can_be_deleted(store, how):
    writer = finished(store)
    harm(writer.folder, how)
    with pytest.raises(RunError, match="is damaged") as caught:
        _ = store.open(writer.id).scores
    assert str(writer.folder) in str(caught.value)
    assert "delete the folder and run it again" in str(caught.value)
    assert "\n" not in str(caught.value)
    store.delete(writer.id)
    assert not writer.folder.exists()


@pytest.mark.parametrize("how", IN_JSON)
def test_a_damaged_run_does_not_hide_the_others_and_is_reported(store, how):
    harm(finished(store).folder, how)
    whole = finished(store, method="eap")
    assert [info.id for info in store.list()] == [whole.id]
    assert len(store.damaged()) == 1


def test_a_report_from_another_version_is_damage_where_fields_are_missing_and_passes_where_there_are_more(store):
    writer = store.begin(**REQUEST)
    writer.finish("done", report=REPORT.__dict__ | {"news": 1}, something_new=1)
    assert store.open(writer.id).report == REPORT
    writer.update(report={"faithfulness": 1.0})
    with pytest.raises(RunError, match="does not hold a whole Evaluation"):
        _ = store.open(writer.id).report


# -- safety ---------------------------------------------------------------------------------------------------

HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["..", "../..", "/etc/passwd", "a/../../b", "\\..\\x", ".", "", "~", "\0", "a" * 999, "CON"]),
)


@given(name=HOSTILE, method=HOSTILE)
def test_no_name_makes_an_id_that_leaves_the_store(name, method):
    made = run_id({"fingerprint": "f"}, {"name": name}, method, {})
    assert Path(made).name == made
    assert made.strip(".") == made
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(made) < 100


@settings(max_examples=60)
@given(which=HOSTILE)
def test_no_id_deletes_or_renames_anything_outside_the_store(tmp_path_factory, which):
    top = tmp_path_factory.mktemp("top")
    store = RunStore(top / "store")
    (top / "precious").mkdir()
    write_json(top / "precious" / "run.json", {"a": 1})
    writer = finished(store)
    for act in (store.delete, store.request_cancel, lambda w: store.rename(w, "x")):
        with pytest.raises(RunError):
            act(which)
    assert read_json(top / "precious") == {"a": 1}
    assert store.open(writer.id).info.title == writer.id


def test_links_in_the_store_are_not_followed(store):
    outside = store.root.parent / "outside"
    outside.mkdir()
    write_json(outside / "run.json", {})
    writer = finished(store)
    (store.root / "link").symlink_to(outside, target_is_directory=True)
    (writer.folder / "inner").symlink_to(outside, target_is_directory=True)
    assert [info.id for info in store.list()] == [writer.id]
    with pytest.raises(RunError):
        store.delete("link")
    store.delete(writer.id)
    assert (outside / "run.json").exists()
    writer.folder.symlink_to(outside, target_is_directory=True)
    with pytest.raises(RunError, match="is a link"):
        store.begin(**REQUEST)


def test_a_folder_that_is_no_run_is_not_deleted(store):
    (store.root / "thesis").mkdir(parents=True)
    (store.root / "thesis" / "chapter1.tex").write_text("...")
    with pytest.raises(RunError, match="does not look like a run"):
        store.delete("thesis")
    assert (store.root / "thesis" / "chapter1.tex").exists()


def test_a_start_of_an_id_does_not_delete(store):
    writer = finished(store)
    with pytest.raises(RunError, match="There is no run"):
        store.delete(writer.id[:-1])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_settings_make_sound_json_that_reads_back_the_same(value):
    text = canonical_json({"settings": value})
    again = json.loads(text)
    assert canonical_json(again) == text


def test_a_store_that_cannot_be_written_is_said_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match=r"Cannot write runs to .*WORKBENCH_RUNS"):
            RunStore(root).check_writable()
        with pytest.raises(RunError, match="Cannot write runs to"):
            RunStore(root).begin(**REQUEST)


def test_the_environment_names_the_store_unless_the_caller_does(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "a"))
    assert RunStore().root == tmp_path / "a"
    assert RunStore(tmp_path / "b").root == tmp_path / "b"
    assert RunStore().list() == []


# -- work in progress -----------------------------------------------------------------------------------------


def test_a_run_that_is_worked_on_cannot_be_begun_again_or_deleted_until_it_is_finished(store):
    writer = store.begin(**REQUEST)
    assert store.open(writer.id).info.status == "running"
    with pytest.raises(RunError, match="being worked on already"):
        store.begin(**REQUEST)
    with pytest.raises(RunError, match="stop it first"):
        store.delete(writer.id)
    writer.finish("stopped")
    assert store.begin(**REQUEST).id == writer.id


def test_of_many_who_begin_the_same_run_at_once_one_gets_it(store):
    won: list[RunWriter] = []
    lost: list[RunError] = []
    gate = threading.Barrier(8)

    def begin() -> None:
        gate.wait()
        try:
            won.append(store.begin(**REQUEST))
        except RunError as error:
            lost.append(error)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_a_run_whose_process_died_is_interrupted_and_can_be_begun_again(store):
    script = (
        "import sys, os, json; from workbench.runs import RunStore; "
        "print(RunStore(sys.argv[1]).begin(**json.loads(sys.argv[2])).id, flush=True); os._exit(9)"
    )
    command = [sys.executable, "-c", script, str(store.root), json.dumps(REQUEST)]
    name = subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    assert read_json(store.root / name)["status"] == "running"
    assert store.open(name).info.status == "interrupted"
    assert store.begin(**REQUEST).id == name


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells processes of one number apart")
def test_a_later_process_with_the_same_number_is_not_taken_for_the_run(store):
    writer = store.begin(**REQUEST)
    (writer.folder / "running").write_text(f"{os.getpid()} 12345")
    assert store.open(writer.id).info.status == "interrupted"


def test_cancel_reaches_the_worker_and_does_not_outlive_the_run(store):
    writer = store.begin(**REQUEST)
    assert not writer.cancelled()
    store.request_cancel(writer.id)
    assert writer.cancelled()
    writer.finish("stopped")
    store.request_cancel(writer.id)  # nobody is there to hear it
    again = store.begin(**REQUEST)
    assert not again.cancelled()


def test_a_new_title_survives_the_worker_and_a_new_run_of_the_same_request(store):
    writer = store.begin(**REQUEST)
    assert store.rename(writer.id, "  the \n name\tmovers ").title == "the name movers"
    writer.update(note="later")
    writer.finish("done")
    assert store.open(store.begin(**REQUEST).id).info.title == "the name movers"
    for bad in ("", "  ", "x" * 201):
        with pytest.raises(RunError, match="1 to 200 characters"):
            store.rename(writer.id, bad)


def test_progress_is_written_a_few_times_a_second_at_most(store, monkeypatch):
    writer = store.begin(**REQUEST)
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(writer, "update", lambda **changes: written.append(changes["progress"]))
    for done in range(1000):
        writer.progress(done, 1000, "working")
    assert 1 <= len(written) <= 10
    assert written[0] == {"done": 0, "total": 1000, "what": "working"}


def test_a_reader_never_sees_half_a_file(store):
    writer, stop = store.begin(**REQUEST), threading.Event()
    seen: list[RunInfo] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(store.open(writer.id).info)

    thread = threading.Thread(target=read)
    thread.start()
    for i in range(60):
        writer.update(note="long " * (i % 7) * 2000)
    stop.set()
    thread.join()
    assert len(seen) > 10
    assert all(info.status == "running" for info in seen)


def test_no_temporary_file_is_left_behind(store, monkeypatch):
    writer = finished(store)
    assert sorted(file.name for file in writer.folder.iterdir()) == ["run.json", "scores.safetensors"]

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    before = (writer.folder / "run.json").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writer.update(note="x")
    assert sorted(file.name for file in writer.folder.iterdir()) == ["run.json", "scores.safetensors"]
    assert (writer.folder / "run.json").read_bytes() == before


def test_the_caption_says_model_task_method_and_result(store):
    info = store.open(finished(store).id).info
    assert info.short_caption == "micro · ioi, 4 pairs, seed 3 · eap-ig (steps 5)"
    assert info.caption == f"{info.short_caption} · faithfulness 0.50 (resample)"
