"""The project around the code: floors, links, documentation, notebooks, versions."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from typer.main import get_command

import workbench
from workbench import cli
from workbench.models import from_hf
from workbench.models.families.samples import SAMPLES

ROOT = Path(__file__).resolve().parents[1]
DOCS = [*(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
DOCS += sorted((ROOT / "docs").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [body for language, body in FENCE.findall(path.read_text(encoding="utf-8")) if language in languages]


def prose(path: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


# -- the package ----------------------------------------------------------------------------------------------


def test_each_floor_imports_only_from_those_below_it() -> None:
    (layers,) = (c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    floors = [floor.removeprefix("workbench.") for floor in layers["layers"]]
    there = {path.stem for path in (ROOT / "workbench").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert there - {"__init__", "__main__", "__pycache__", "py"} == set(floors)
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["app", "circuits", "kernels", "models"])
def test_the_top_level_shows_a_floor_by_a_link_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("workbench", name)
    assert (link / "__init__.py").is_file()


def test_importing_the_package_loads_nothing_that_takes_long() -> None:
    heavy = ("torch", "transformers", "transformer_lens", "streamlit", "plotly", "networkx", "rich", "typer")
    script = f"""
import sys
before = set(sys.modules)
import workbench
added = set(sys.modules) - before
print(len(added), sorted(added & set({heavy})))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, _, loaded = done.stdout.strip().partition(" ")
    assert loaded == "[]"
    assert int(count) < 200  # 106 with Python 3.11: importlib.metadata and what it needs


def test_every_name_at_the_top_is_there() -> None:
    for name in workbench.__all__:
        assert getattr(workbench, name) is not None
    assert set(dir(workbench)) >= set(workbench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = workbench.lod


def test_the_version_is_said_in_one_place() -> None:
    assert workbench.__version__ == PROJECT["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog
    assert PROJECT["project"]["version"] in changelog


def test_no_file_of_the_package_is_over_400_lines() -> None:
    written = [f for f in (ROOT / "workbench").rglob("*.py") if f.parent.name != "learned"]  # those are results
    sizes = {name_of(f): len(f.read_text(encoding="utf-8").splitlines()) for f in written}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_every_direct_dependency_has_a_constraint_within_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    constraints = {canonicalize_name(line.name): line.specifier for line in lines}
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, wanted):
        pinned = constraints[canonicalize_name(requirement.name)]
        for one in pinned:
            assert one.version in requirement.specifier, f"{requirement.name} {pinned}"
    assert str(constraints["torch"]) == "==2.13.0"  # no local tag: pip chooses the build


# -- documentation --------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them from plain text."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name_of(page)} links to {target}"
        assert found.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(found), f"{name_of(page)} links to {target}"


def test_the_site_knows_every_page() -> None:
    import yaml

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert {file for entry in site["nav"] for file in entry.values()} == {
        page.name for page in DOCS if "docs" in page.parts
    }


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_python_in_the_documentation_compiles_and_its_names_exist(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and (dotted := _dotted(node)) and dotted[0] in ("wb", "workbench"):
                _resolve(dotted[1:])
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workbench"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)


def _dotted(node: ast.expr) -> list[str]:
    """``a.b.c`` as its parts; empty for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (start := _dotted(node.value)):
        return [*start, node.attr]
    return []


def _resolve(parts: list[str]) -> None:
    found: Any = workbench
    for part in parts:
        found = getattr(found, part)


def test_the_readme_s_python_is_short() -> None:
    code, *_ = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) == 6


def commands() -> dict[str, dict[str, set[str]]]:
    """Options of each command, by its name such as ``runs list``: every spelling of one option as a set."""
    found: dict[str, dict[str, set[str]]] = {}

    def walk(command: Any, name: str) -> None:
        options = [p for p in command.params if p.param_type_name == "option"]
        found[name] = {p.name: {*p.opts, *p.secondary_opts} for p in options}
        for key, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {key}".strip())

    walk(get_command(cli.app), "")
    return found


def command_lines() -> list[tuple[str, str]]:
    """Every ``workbench ...`` line of the documentation, with the page that it is on."""
    lines = []
    for page in DOCS:
        code = [line.removeprefix("$ ") for body in blocks(page, "sh", "console") for line in body.splitlines()]
        spans = re.findall(r"`((?:workbench|\.venv/bin/workbench) [^`]+)`", prose(page))
        for line in [*code, *spans]:
            words = line.strip().removeprefix(".venv/bin/")
            if words.startswith("workbench "):
                lines.append((name_of(page), words))
    return lines


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_every_command_line_in_the_documentation_parses(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if "COMMAND" in words:
        return
    command, context = get_command(cli.app), None
    while True:  # descend as typer would, but run nothing
        context = command.make_context("workbench", list(words), parent=context, resilient_parsing=True)
        rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
        if not (hasattr(command, "commands") and rest):
            break
        assert rest[0] in command.commands, f"{page}: {line}"
        command, words = command.commands[rest[0]], rest[1:]
    known = {spelling for option in command.params for spelling in (*option.opts, *option.secondary_opts)}
    for word in words:
        assert not word.startswith("--") or word in known | {"--help", "--version"}, f"{page}: {line} has {word}"
    assert not context.args, f"{page}: {line} leaves {context.args}"


def test_the_command_line_page_has_a_section_for_each_command_and_names_its_options() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    sections: dict[str, str] = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    found = commands()
    top = {name for name in found if name and " " not in name}
    assert set(sections) == top
    for name, options in found.items():
        if not name:
            continue
        section = sections[name.split()[0]]
        for spellings in options.values():
            assert any(f"`{spelling}`" in section for spelling in spellings), f"{name}: {spellings}"
    for title, section in sections.items():
        every = {
            s for name, options in found.items() if name.split()[:1] == [title] for o in options.values() for s in o
        }
        for option in re.findall(r"^\| (`--.*?) \|", section, re.MULTILINE):
            assert set(re.findall(r"`(--[\w-]+)`", option)) <= every, f"{title}: {option}"


def test_every_activation_that_the_models_page_names_exists() -> None:
    names = {name for sample in SAMPLES for name in from_hf(sample.model()).hook_names}
    names |= {"blocks.0.mlp.hook_mid"}  # only in models of TransformerLens's format, see test_transformer_lens.py
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    told = re.findall(r"`((?:(?:blocks|ln|head|embed)[\w.{}]*\.)?hook_\w+)`", page[page.index("## Names") :])
    assert len(told) > 25
    for name in told:
        assert any(real.endswith(name.replace("{l}", "0")) for real in names), name


@pytest.mark.parametrize("page", [*DOCS, *NOTEBOOKS], ids=name_of)
def test_the_documentation_names_only_environment_variables_that_are_read(page: Path) -> None:
    code = "\n".join(f.read_text(encoding="utf-8") for f in (ROOT / "workbench").rglob("*.py"))
    for name in set(re.findall(r"WORKBENCH_[A-Z]+", page.read_text(encoding="utf-8"))):
        assert f'"{name}"' in code, name


def test_where_to_add_names_files_that_are_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for path in set(re.findall(r"`((?:workbench|tests|docs|benchmarks|notebooks)/[\w./]*)`", text)):
        assert "NAME" in path or (ROOT / path).exists(), path
    for name in re.findall(r"in `(\w+)` of `(workbench/[\w/.]+)`", text):
        assert name[0] in (ROOT / name[1]).read_text(encoding="utf-8"), name


# -- what make and continuous integration run -----------------------------------------------------------------


def test_continuous_integration_calls_what_a_person_calls() -> None:
    import yaml

    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert re.findall(r"^make .*$", script.read_text(encoding="utf-8"), re.MULTILINE) == ["make lint test"]
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step["run"] for job in flow["jobs"].values() for step in job["steps"] if "run" in step]
    assert steps == [".ci/run"]


def test_every_target_of_make_is_in_its_help() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {"app", "test", "lint", "bench", "notebooks", "docs", "clean"}
    assert targets <= set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    assert targets <= set(re.findall(r'"make ([a-z]+)', text))


# -- notebooks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_is_sound_and_kept_without_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.real
@pytest.mark.usefixtures("smol")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # the kernel shares the cores with this process
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=550, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("<svg" in output.get("data", {}).get("text/html", "") for output in shown) >= 3
