"""docs/families.md says what the registry says, and what it says of parity holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.models.families import FAMILIES, Family
from workbench.models.families.samples import samples_of

DOCS = Path(__file__).parents[2] / "docs"
# Another processor may add in another order; what the parity suite promises is allowed in any case.
PROMISED = (1e-5, 1e-4, 2e-2)


@pytest.fixture(scope="module")
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("families_page", DOCS / "families.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows() -> list[str]:
    """The table's lines, without its head."""
    lines = (DOCS / "families.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ")][1:]


def test_the_page_is_the_registry(generator: Any, rows: list[str]) -> None:
    assert [line.rsplit("|", 4)[0] + "|" for line in rows] == [generator.told(family) for family in FAMILIES]
    text = (DOCS / "families.md").read_text(encoding="utf-8")
    assert text.startswith(generator.TOP + generator.HEADER)
    assert text.endswith(generator.MEASURE)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)
def test_the_figures_hold(generator: Any, rows: list[str], family: Family) -> None:
    line = rows[FAMILIES.index(family)]
    bounds = [float(cell) for cell in line.strip("| ").split("|")[-3:]]
    assert bounds[0] <= PROMISED[0] * 1.0001
    assert bounds[1] <= PROMISED[1] * 1.0001
    assert bounds[2] <= 3 * PROMISED[2] * 1.0001
    sample = samples_of(family)[0]
    exact, half = generator.measure(sample, 0), generator.measure(sample, 0, torch.bfloat16)
    found = (max(map(generator.forward, exact)), max(p.gradient for p in exact), max(map(generator.forward, half)))
    for measured, bound, promised in zip(found, bounds, PROMISED, strict=True):
        assert measured <= max(bound, promised), family.key


@pytest.mark.parametrize(
    ("x", "shown"), [(0.0, "0"), (1.1e-6, "2e-6"), (2e-6, "2e-6"), (9.4e-7, "1e-6"), (0.0312, "4e-2"), (0.96, "1e+00")]
)
def test_figures_are_rounded_up(generator: Any, x: float, shown: str) -> None:
    assert generator.rounded_up(x) == shown
    assert float(shown) >= x
