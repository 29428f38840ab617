from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from tests.figures.helpers import curve, having, parse, texts
from workbench.figures import faithfulness_curve, faithfulness_plot
from workbench.figures.faithfulness import series


def points(d: str) -> list[tuple[float, float]]:
    numbers = [float(n) for n in re.findall(r"[-\d.]+", d)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def drawn(figure: object) -> dict[str, list[tuple[float, float]]]:
    return {g.attrib["data-id"]: points(g[0].attrib["d"]) for g in having(parse(figure), "wb-series")}  # type: ignore[arg-type]


def test_all_rankings_and_the_random_baseline_are_drawn_and_labelled() -> None:
    figure = faithfulness_curve(curve())
    assert set(drawn(figure)) == {"absolute", "signed", "random"}
    assert {"by size of score", "by signed score", "random circuits"} <= set(texts(parse(figure)))
    assert set(drawn(faithfulness_curve(curve(random=None)))) == {"absolute", "signed"}


def test_the_axis_of_edges_is_logarithmic_and_the_other_linear() -> None:
    line = drawn(faithfulness_curve(curve()))["signed"]
    steps = [b[0] - a[0] for a, b in pairwise(line)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
    heights = [y for _, y in line]  # 0.3, 2.0, 3.5, 1.0
    assert (heights[0] - heights[1]) / (heights[1] - heights[2]) == pytest.approx(1.7 / 1.5, rel=0.02)


def test_zero_and_one_are_always_on_the_axis() -> None:
    flat = curve(faithfulness=[0.4] * 4, faithfulness_signed=[0.5] * 4, random=None)
    assert {"0", "1", "the whole model", "everything ablated"} <= set(texts(parse(faithfulness_curve(flat))))


def test_the_title_is_the_smallest_circuit_that_restores_most() -> None:
    assert faithfulness_curve(curve()).title == "97 of 1,000 edges (9.7 %) restore 95 % of the behaviour"
    weak = faithfulness_curve(curve(faithfulness=[0.1, 0.2, 0.3, 1.0]))
    assert weak.title == "No circuit smaller than the model restores 90 % of the behaviour"


def test_cmd_cpr_and_an_early_stop_are_in_the_caption() -> None:
    caption = faithfulness_curve(curve(), caption="SmolLM2.").caption
    assert caption.startswith("SmolLM2. CMD 0.0541")
    assert "CPR 3.24" in caption
    assert "Stopped" not in caption
    assert "Stopped before its end" in faithfulness_curve(curve(complete=False)).caption


def test_points_without_a_place_are_left_out() -> None:
    broken = curve(fractions=[0.0, 0.01, 0.1, 1.0], faithfulness=[0.0, float("nan"), 0.9, 1.0])
    by_key = {s.key: s for s in series(broken)}
    assert by_key["absolute"].x == [0.1, 1.0]
    assert by_key["signed"].x == [0.01, 0.1, 1.0]
    assert "nan" not in faithfulness_curve(broken).svg


def test_the_plot_has_the_lines_of_the_drawing_in_its_colours() -> None:
    plot = faithfulness_plot(curve())
    shown = {trace.name: (list(trace.x), list(trace.y), trace.line.color) for trace in plot.data}
    assert shown == {s.label: (s.x, s.y, s.colour) for s in series(curve())}
    layout = json.loads(plot.to_json())["layout"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert layout["xaxis"]["type"] == "log"
