from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.figures.helpers import NASTY, SVG, having, parse, texts, titles
from workbench.export import to_pdf, to_png
from workbench.figures import Line, curves
from workbench.figures.plane import apart, linear, logarithmic

WORDS = {"x_title": "step", "y_title": "loss (nats)", "title": "It falls"}


def points(group: object) -> list[list[tuple[float, float]]]:
    """The runs of a drawn line, in pixels."""
    (path,) = list(group.iter(f"{SVG}path"))  # type: ignore[attr-defined]
    runs = path.attrib["d"].split("M")[1:]
    return [[tuple(map(float, point.split())) for point in run.split("L")] for run in runs]  # type: ignore[misc]


def drawn(root: object, name: str) -> object:
    (found,) = [e for e in having(root, "wb-series") if e.get("data-id") == name]  # type: ignore[arg-type]
    return found


def test_points_stand_where_the_axes_say() -> None:
    root = parse(curves([Line("a", [0, 1, 2], [1.0, 3.0, 2.0]), Line("b", [0, 2], [0.0, 0.0])], **WORDS))
    ((first, second, third),) = points(drawn(root, "a"))
    (ends,) = points(drawn(root, "b"))
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.2)
    assert first[1] - second[1] == pytest.approx(2 * (third[1] - second[1]), abs=0.3)
    assert (ends[0][1] - first[1]) == pytest.approx(third[1] - second[1], abs=0.3)
    assert [ends[0][0], ends[1][0]] == [first[0], third[0]]


def test_logarithmic_axes_show_ratios_and_leave_out_what_has_none() -> None:
    line = Line("a", [1, 10, 100], [0.01, 1.0, 100.0])
    root = parse(curves([line, Line("b", [0, 10], [1.0, 0.0]), Line("c", [1], [1.0])], log_x=True, log_y=True, **WORDS))
    ((first, second, third),) = points(drawn(root, "a"))
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.2)
    assert second[1] - first[1] == pytest.approx(third[1] - second[1], abs=0.2)
    assert not [e for e in having(root, "wb-series") if e.get("data-id") == "b"]


def test_a_missing_value_is_a_gap_and_a_band_runs_from_low_to_high() -> None:
    line = Line("a", [0, 1, 2, 3], [1.0, math.nan, 2.0, 3.0], [0.5, math.nan, 1.5, 2.0], [1.5, math.nan, 2.5, 4.0])
    root = parse(curves([line], **WORDS))
    assert [len(run) for run in points(drawn(root, "a"))] == [1, 2]
    (band,) = having(root, "wb-band")
    assert len(re.findall(r"[ML]", band.attrib["d"])) == 6
    assert band.attrib["fill"] == next(e for e in drawn(root, "a").iter(f"{SVG}path")).attrib["stroke"]  # type: ignore[attr-defined]


def test_baselines_are_dashed_and_grey_and_others_are_told_apart() -> None:
    lines = [Line(str(i), [0, 1], [i, i + 1.0]) for i in range(8)]
    root = parse(curves([*lines, Line("chance", [0, 1], [0.0, 0.0], dashed=True)], **WORDS))
    looks = [
        (p.get("stroke"), p.get("stroke-dasharray")) for s in having(root, "wb-series") for p in s.iter(f"{SVG}path")
    ]
    assert len(set(looks)) == 9
    (chance,) = list(drawn(root, "chance").iter(f"{SVG}path"))  # type: ignore[attr-defined]
    assert chance.get("stroke-dasharray")
    assert "--wb-muted" in chance.attrib["stroke"]


def test_names_stand_at_the_ends_and_do_not_touch_and_one_line_needs_none() -> None:
    lines = [Line(f"line {i}", [0, 1], [0.0, 1 + i / 1000]) for i in range(6)]
    root = parse(curves(lines, **WORDS))
    heights = sorted(float(e.attrib["y"]) for e in root.iter(f"{SVG}text") if (e.text or "").startswith("line "))
    assert len(heights) == 6
    assert all(b - a >= 13 for a, b in pairwise(heights))
    assert "line 0" not in texts(parse(curves(lines[:1], **WORDS)))


def test_marks_have_their_words_apart_from_each_other() -> None:
    marks = [(0.5, "entropy collapses"), (0.52, "loss breaks"), (1.0, "the end")]
    root = parse(curves([Line("a", [0, 1], [0.0, 1.0])], marks=marks, **WORDS))
    assert {text for _, text in marks} <= set(texts(root))
    boxes = [
        (float(e.attrib["x"]), float(e.attrib["y"]))
        for e in root.iter(f"{SVG}text")
        if e.text in dict(marks).values() or e.text in {m[1] for m in marks}
    ]
    assert len(set(boxes)) == 3
    assert max(x for x, _ in boxes) < float(root.attrib["width"])


def test_names_are_text_whatever_they_hold() -> None:
    figure = curves([Line(name, [0, 1], [0.0, i]) for i, name in enumerate(NASTY)], **WORDS)
    root = parse(figure)
    assert not list(root.iter(f"{SVG}script"))
    assert len(having(root, "wb-series")) == len(NASTY)
    assert to_png(figure)
    assert to_pdf(figure)


def test_hover_has_the_numbers_and_data_has_all_of_them() -> None:
    figure = curves([Line("a", [8, 16], [0.5, math.nan])], **WORDS)
    assert "a: 0.5 at 8" in titles(parse(figure))
    assert figure.data["lines"][0]["y"] == [0.5, None]


def test_lengths_of_a_context_are_the_axis_s_own_numbers() -> None:
    root = parse(curves([Line("a", [512, 2048, 8192], [1.0, 2.0, 3.0])], log_x=True, **WORDS))
    assert {"512", "2,048", "8,192"} <= set(texts(root))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([Line("a", [0, 1], [0.0])], "differ in length"),
        ([Line("a", [0, 1], [0.0, 1.0], [0.0], [1.0])], "differ in length"),
        ([Line("a", [0], [math.nan])], "No line has a point"),
        ([], "No line has a point"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(lines: list[Line], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        curves(lines, **WORDS)


numbers = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(numbers, min_size=1, max_size=20))
def test_an_axis_holds_its_values_and_few_round_numbers(values: list[float]) -> None:
    axis = linear(values)
    assert axis.low <= min(values) + 1e-6 * abs(min(values))
    assert axis.high >= max(values) - 1e-6 * abs(max(values))
    assert 2 <= len(axis.ticks) <= 12
    assert all(0 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20))
def test_a_logarithmic_axis_holds_its_values(values: list[float]) -> None:
    axis = logarithmic(values)
    assert all(-1e-6 <= axis.place(value) <= 1 + 1e-6 for value in values)
    assert len(axis.ticks) >= 1
    assert all(a < b for a, b in pairwise(axis.ticks))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_labels_keep_apart_in_their_order_and_stay_where_there_is_room(wanted: list[float]) -> None:
    found = apart(wanted, 15, 0, 100)
    ordered = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert all(found[b] - found[a] >= 15 - 1e-6 for a, b in pairwise(ordered))
    assert min(found) >= -1e-6
    assert max(found) <= 100 + 1e-6
    if all(wanted[b] - wanted[a] >= 15 for a, b in pairwise(ordered)):
        assert found == pytest.approx(wanted)
