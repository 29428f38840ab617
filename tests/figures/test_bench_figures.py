from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.figures.helpers import NASTY, having, parse, synthetic, texts, titles
from workbench.bench import RANDOM, BenchTable, Cell
from workbench.circuits import agreement
from workbench.export import to_pdf, to_png
from workbench.figures.agreement import CELL, agreement_map
from workbench.figures.bench import PANEL, bench_figure


def cell(method: str, cmd: float, cpr: float, seed: int = 0, **about: Any) -> Cell:
    return Cell("task", method, about.get("task", "ioi"), about.get("model", "m"), seed, {"cmd": cmd, "cpr": cpr})


def known(method: str, auroc: float, model: str) -> Cell:
    figures = {"auroc": auroc, "average_precision": auroc / 2, "chance_average_precision": 0.1}
    return Cell("known", method, model, model, 0, figures)


TABLE = BenchTable(
    {"n": 8, "seeds": [0, 1], "ablation": "resample"},
    [
        *(cell(RANDOM, 0.75, 0.25, seed) for seed in (0, 1)),
        *(cell("eap", 0.2, 1.5, seed) for seed in (0, 1)),
        cell("acdc", 0.05, 0.9, 0),
        cell("acdc", 0.15, 1.1, 1),
        *(known("eap", value, name) for value, name in ((0.5, "a"), (0.9, "b"), (1.0, "c"))),
        Cell("known", "acdc", "a", "a", 0, reason="refused"),
    ],
)


def test_every_value_has_a_dot_at_its_place_and_the_middle_a_bar() -> None:
    figure = bench_figure(TABLE)
    rows = {group.attrib["data-id"]: group for group in having(parse(figure), "wb-dots")}
    assert len(rows) == 6
    acdc = rows["acdc, ioi · m: CMD"]
    dots = [float(e.attrib["cx"]) for e in acdc.iter() if e.tag.endswith("circle")]
    eap = [float(e.attrib["cx"]) for e in rows["eap, ioi · m: CMD"].iter() if e.tag.endswith("circle")]
    axis_end = 0.8  # the highest tick over 0.75 in steps of 0.2
    assert dots[1] - dots[0] == pytest.approx(0.1 / axis_end * PANEL, abs=0.05)
    assert eap[0] == eap[1] == pytest.approx(dots[1] + 0.05 / axis_end * PANEL, abs=0.05)
    bar = [e for e in acdc.iter() if e.tag.endswith("line")][-1]
    assert float(bar.attrib["x1"]) == pytest.approx(sum(dots) / 2, abs=0.05)
    assert "eap, 3 known models: edge AUROC 0.9 (3 values)" in titles(parse(figure))  # the median


def test_the_random_order_is_a_dashed_line_and_no_row() -> None:
    root = parse(bench_figure(TABLE))
    lines = having(root, "wb-baseline")
    assert len(lines) == 4
    assert all(line.attrib["stroke-dasharray"] for line in lines)
    assert RANDOM not in texts(root)
    assert "random order, ioi · m: 0.75" in titles(root)


def test_the_title_is_the_finding_and_the_caption_says_what_was_asked() -> None:
    figure = bench_figure(TABLE)
    assert figure.title == "acdc has the lowest CMD; eap has the highest median AUROC (0.9)"
    assert "n 8, seeds 0/1, ablation resample." in figure.caption
    assert "Not complete" in bench_figure(replace(TABLE, complete=False)).caption
    tie = BenchTable({}, [known(name, 1.0, "a") for name in ("eap", "acdc")])
    assert bench_figure(tie).title == "2 methods share the highest AUROC (1)"


def test_names_are_text_and_files_can_be_made() -> None:
    cells = [cell(name, 0.1, 1.0, model=name, task=name) for name in NASTY]
    figure = bench_figure(BenchTable({}, cells))
    parse(figure)
    assert len(having(parse(figure), "wb-dots")) == 2 * len(NASTY)
    assert to_png(bench_figure(TABLE)).startswith(b"\x89PNG")
    assert to_pdf(bench_figure(TABLE)).startswith(b"%PDF")


def test_what_cannot_be_drawn_is_left_out_or_said() -> None:
    gap = BenchTable({}, [cell("eap", math.nan, 1.0), cell("acdc", 0.1, -2.0)])
    assert "nan" not in bench_figure(gap).svg
    with pytest.raises(ValueError, match="No cell"):
        bench_figure(BenchTable({}, [Cell("task", "eap", "ioi", "m", 0, reason="no")]))


def three() -> Any:
    one = synthetic()
    noise = torch.randn(one.values.shape, generator=torch.Generator().manual_seed(0))
    other = replace(one, values=(one.values + noise) * one.graph.mask)
    return agreement({"eap": one, "eap-ig": one, "<b>": other}, sizes=[10, 40])


def test_the_map_has_a_cell_for_each_pair_with_its_number() -> None:
    result = three()
    figure = agreement_map(result, "jaccard", size=40)
    root = parse(figure)
    assert len(having(root, "wb-pair")) == 9
    value = result.jaccard[1][0][2]
    assert f"eap and <b>: Jaccard overlap {value:.3g}" in titles(root)
    assert texts(root).count(f"{value:.2f}") == 4  # of two alike methods with the third, both ways
    assert figure.data["matrix"] == result.jaccard[1]
    assert figure.title.startswith("eap and eap-ig agree best (1)")
    rects = [e for g in having(root, "wb-pair") for e in g if e.tag.endswith("rect")]
    assert {float(e.attrib["width"]) for e in rects} == {CELL}


def test_correlations_are_signed_and_shares_are_not() -> None:
    result = three()
    assert "−1" in texts(parse(agreement_map(result, "spearman")))
    assert "−1" not in texts(parse(agreement_map(result, "share")))
    assert "Two random rankings share" in agreement_map(result, "share").caption
    with pytest.raises(ValueError, match="Unknown measure"):
        agreement_map(result, "rho")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose one of 10, 40"):
        agreement_map(result, size=11)


def test_a_pair_that_cannot_be_compared_is_a_dash() -> None:
    one = synthetic()
    flat = replace(one, values=torch.zeros_like(one.values))
    figure = agreement_map(agreement({"a": one, "b": flat}, sizes=[5]), "spearman")
    assert texts(parse(figure)).count("–") == 3
    assert figure.title == "No two rankings can be compared"
