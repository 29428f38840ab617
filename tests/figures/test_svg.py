from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.figures.colours import CIVIDIS, SHARE, scale, signed
from workbench.figures.svg import (
    Markup,
    coordinate,
    element,
    number,
    readable,
    show_token,
    text_width,
    wrap,
)

allowed = st.characters(codec="utf-8", exclude_categories=["Cs"])
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@given(st.text())
def test_any_text_is_parseable_and_kept_between_tags_and_in_attributes(text: str) -> None:
    root = ElementTree.fromstring(element("text", text, aria_label=text).encode("utf-8"))
    expected = FORBIDDEN.sub("", text)
    assert (root.text or "") == expected
    assert root.attrib["aria-label"] == expected
    assert len(root) == 0


def test_only_finished_markup_is_not_escaped() -> None:
    root = ElementTree.fromstring(element("g", Markup("<a/>"), "<b/>"))
    assert [child.tag for child in root] == ["a"]
    assert root[0].tail == "<b/>"


@given(st.floats(-1e300, 1e300))
def test_numbers_have_at_most_three_significant_digits(value: float) -> None:
    digits = re.sub(r"[^0-9]", "", number(value).partition("e")[0]).strip("0")
    assert len(digits) <= 3
    assert float(number(value).replace("−", "-").replace(",", "")) == pytest.approx(value, rel=0.006, abs=1e-320)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-0.48412, "−0.484"),
        (123456, "123,000"),
        (99.96, "100"),
        (1e-7, "1e−7"),
        (float("nan"), "not known"),
    ],
)
def test_numbers_read_as_a_person_writes_them(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_coordinate_is_never_minus_zero() -> None:
    assert [coordinate(x) for x in (-0.001, 0.0, 2.0, -1.5, 100.0)] == ["0", "0", "2", "-1.5", "100"]


@given(st.text(alphabet=allowed))
def test_a_token_shows_no_invisible_and_no_direction_turning_character(token: str) -> None:
    shown = readable(token)
    assert shown
    assert not set(shown) & {" ", "\n", "\t", "\x00", "\u202e", "\u2066", "\u200b", "\ufeff"}


def test_a_long_token_is_cut_and_its_space_is_a_dot() -> None:
    assert show_token(" the") == "·the"
    assert show_token("a\nb") == "a↵b"
    assert show_token("x" * 40) == "x" * 11 + "…"
    assert show_token("x" * 12) == "x" * 12


@given(st.text(alphabet="ab WM,.", max_size=200), st.floats(30, 400))
def test_wrapping_keeps_all_words_within_the_width(text: str, width: float) -> None:
    lines = wrap(text, 10, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(text_width(line, 10) <= width for line in lines)


def test_scales_meet_their_ends_and_grow_darker_or_lighter_all_the_way() -> None:
    assert scale(SHARE, -1) == "#FFFFFF"
    assert scale(CIVIDIS, 2) == CIVIDIS[-1]

    def light(colour: str) -> float:
        return sum(w * int(colour[i : i + 2], 16) for i, w in ((1, 0.3), (3, 0.59), (5, 0.11)))

    steps = [light(scale(SHARE, i / 20)) for i in range(21)]
    assert steps == sorted(steps, reverse=True)
    assert signed(0, 2) == "#FFFFFF"
    assert (signed(-2, 2), signed(2, 2)) == ("#0072B2", "#D55E00")
