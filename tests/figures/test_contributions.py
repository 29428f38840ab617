"""Words, phrases and patches on a signed ground."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
import torch

from tests.figures.helpers import NASTY, SVG, having, parse, texts, titles
from workbench.export import FORMATS, Exportable, export
from workbench.figures import (
    Picture,
    patch_contributions,
    patch_groups,
    phrase_tree,
    standalone,
    token_contributions,
)
from workbench.figures.colours import BLUE, VERMILION, signed
from workbench.figures.token_contributions import with_sign

NAMES, VALUES = ["The", "keys", "to", "the", "cabinet"], [0.25, 0.5, -0.001, 0.0, -0.3]


@dataclass(frozen=True)
class Join:
    left: int
    right: int
    members: tuple[int, ...]
    value: float
    interaction: float


MERGES = [Join(0, 1, (0, 1), 0.7, -0.05), Join(3, 4, (3, 4), -0.1, 0.2), Join(2, 6, (2, 3, 4), -0.2, -0.1)]


def square(prefix: tuple[str, ...] = ("cls",)) -> Picture:
    return Picture(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)), (4, 4), prefix)


def cells(figure: object) -> dict[str, object]:
    return {mark.attrib["data-id"]: mark for mark in having(parse(figure), "wb-cell") if "data-id" in mark.attrib}  # type: ignore[arg-type]


def ground(mark: object) -> str:
    return next(part.attrib["fill"] for part in mark.iter(f"{SVG}rect"))  # type: ignore[attr-defined]


# -- words ----------------------------------------------------------------------------------------------------


def test_each_word_stands_on_the_colour_of_its_value_with_its_number() -> None:
    figure = token_contributions(NAMES, VALUES)
    found = cells(figure)
    assert sorted(found) == [f"s{i}" for i in range(5)]
    for i, value in enumerate(VALUES):
        assert ground(found[f"s{i}"]) == signed(value, 0.5)
    assert {"+0.25", "+0.50", "−0.30", "0"} <= set(texts(parse(figure)))
    assert "keys: 0.5 logits" in titles(parse(figure))
    assert figure.title == "“keys” gives most, +0.50 logits, then “cabinet”, −0.30"


def test_bars_are_sorted_and_point_the_way_of_the_sign() -> None:
    root = parse(token_contributions(NAMES, VALUES))
    bars = [r for r in root.iter(f"{SVG}rect") if r.get("fill") in (BLUE, VERMILION) and r.get("fill-opacity")]
    assert [b.attrib["fill"] for b in bars] == [VERMILION] * 3 + [BLUE] * 2
    axis = float(bars[0].attrib["x"])
    for bar in bars[3:]:
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) == pytest.approx(axis, abs=0.02)
    assert float(bars[0].attrib["width"]) == pytest.approx(2 * float(bars[1].attrib["width"]), abs=0.1)
    assert float(bars[0].attrib["y"]) < float(bars[4].attrib["y"])


def test_the_scale_is_symmetric_and_says_its_unit() -> None:
    written = texts(parse(token_contributions(NAMES, VALUES, unit="cosine")))
    assert {"−0.5", "0", "0.5", "cosine"} <= set(written)


def test_a_long_text_is_wrapped_and_its_weak_words_are_counted() -> None:
    figure = token_contributions([f"word{i}" for i in range(60)], [float(i) for i in range(60)])
    places = {mark[1].attrib["y"] for mark in cells(figure).values()}  # type: ignore[index]
    assert len(places) > 3
    assert "and 45 weaker" in texts(parse(figure))


def test_what_is_not_known_is_said_and_special_words_are_framed() -> None:
    figure = token_contributions(["[CLS]", "a"], [math.nan, 1.0], special=[0])
    mark = cells(figure)["s0"]
    assert "not known" in mark[0].text  # type: ignore[index, operator]
    assert mark[1].attrib["stroke-dasharray"]  # type: ignore[index]
    assert json.loads(json.dumps(figure.data))["values"] == [None, 1.0]
    assert token_contributions(["a"], [math.nan]).title == "Nothing gives anything"


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [(0.0123, 5.0, "0"), (-0.26, 5.0, "−0.3"), (0.26, 0.5, "+0.26"), (-1.3e-5, 0.0856, "0"), (123.4, 150, "+123")],
)
def test_numbers_have_the_digits_of_the_largest(value: float, limit: float, text: str) -> None:
    assert with_sign(value, limit) == text


# -- phrases --------------------------------------------------------------------------------------------------


def test_the_tree_has_a_box_for_every_phrase_on_one_scale_with_the_words() -> None:
    figure = phrase_tree(NAMES, VALUES, MERGES)
    found = cells(figure)
    assert sorted(found) == ["g5", "g6", "g7", *(f"s{i}" for i in range(5))]
    assert ground(found["g5"]) == signed(0.7, 0.7)
    assert ground(found["s1"]) == signed(0.5, 0.7)
    said = titles(parse(figure))
    assert "“to the cabinet”: −0.20 logits, of which interaction −0.1; joined as number 3" in said
    assert figure.title == "“the” and “cabinet” together give 0.2 logits more than apart"


def test_a_phrase_stands_above_its_words_and_between_its_sides() -> None:
    found = cells(phrase_tree(NAMES, VALUES, MERGES))

    def middle(key: str) -> tuple[float, float]:
        box = found[key][1].attrib  # type: ignore[index]
        return float(box["x"]) + float(box["width"]) / 2, float(box["y"])

    assert middle("g5")[0] == pytest.approx((middle("s0")[0] + middle("s1")[0]) / 2, abs=0.02)
    assert middle("g7")[0] == pytest.approx((middle("s2")[0] + middle("g6")[0]) / 2, abs=0.02)
    assert middle("g7")[1] < middle("g6")[1] < middle("s3")[1]
    assert middle("g5")[1] == middle("g6")[1]


def test_words_that_are_special_are_left_out_of_the_tree() -> None:
    found = cells(phrase_tree(["[CLS]", "a", "b", "[SEP]"], [0.0, 1, 2, 0], [Join(1, 2, (1, 2), 3, 0)], special=[0, 3]))
    assert sorted(found) == ["g4", "s1", "s2"]


def test_a_merge_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="joins group 0 and 9, which are not both there"):
        phrase_tree(NAMES, VALUES, [Join(0, 9, (0,), 1, 1)])
    for draw in (token_contributions, lambda names, values: phrase_tree(names, values, [])):
        with pytest.raises(ValueError, match="There are 5 names and 1 values"):
            draw(NAMES, [1.0])


# -- patches --------------------------------------------------------------------------------------------------


def test_patches_lie_over_the_image_in_the_colour_of_their_sign() -> None:
    values = [0.1, *[0.0] * 14, -2.0, 1.0]
    found = cells(patch_contributions(square(), values))
    assert sorted(found, key=lambda key: int(key[1:])) == [f"s{i}" for i in range(1, 17)]
    negative, positive = (found[key][1].attrib for key in ("s15", "s16"))  # type: ignore[index]
    assert (negative["fill"], positive["fill"]) == (BLUE, VERMILION)
    assert float(positive["fill-opacity"]) == pytest.approx(float(negative["fill-opacity"]) / 2, abs=0.01)
    assert positive["d"].startswith("M150.00 150.00h50.00v50.00")
    assert found["s15"][0].text == "patch (3, 2): −2 logits"  # type: ignore[index]
    assert "cls: 0.1 logits" in patch_contributions(square(), values).caption


def test_groups_of_patches_have_one_outline_without_the_edges_between_them() -> None:
    merges = [Join(1, 2, (1, 2), 3.0, 1.0)]
    root = parse(patch_groups(square(), [0.0] * 17, merges))
    (group,) = having(root, "wb-cell")
    paths = list(group.iter(f"{SVG}path"))
    assert paths[1].attrib["d"].count("M") == 6  # two squares have eight sides, and share one
    assert "2 patches from patch (0, 0): 3 logits" in titles(root)
    assert "after 1 of 1 joins" in texts(root)


def test_values_that_do_not_fit_the_patches_are_refused() -> None:
    for draw in (patch_contributions, lambda picture, values: patch_groups(picture, values, [])):
        with pytest.raises(ValueError, match="There are 17 names and 3 values"):
            draw(square(), [1.0, 2, 3])


# -- all ------------------------------------------------------------------------------------------------------


def test_untrusted_text_stays_text() -> None:
    values = [float(i + 1) for i in range(len(NASTY))]
    merge = Join(0, 1, (0, 1), 3.0, 0.5)
    for figure in (token_contributions(NASTY, values), phrase_tree(NASTY, values, [merge])):
        root = parse(figure)
        assert not list(root.iter(f"{SVG}script"))
        assert any("<script>" in text for text in texts(root))
        assert len(cells(figure)) >= len(NASTY)
        alone = parse(standalone(figure.svg))
        painted = [value for mark in alone.iter() for key, value in mark.attrib.items() if key in ("fill", "stroke")]
        assert not any("var(" in value for value in painted)


@pytest.mark.parametrize("format", [one.key for one in FORMATS if one.needs == "figure"])
def test_every_figure_is_written_in_every_format(format: str) -> None:
    picture, values = square(), [0.5] * 17
    for figure in (
        token_contributions(NAMES, VALUES),
        phrase_tree(NAMES, VALUES, MERGES),
        patch_contributions(picture, values),
        patch_groups(picture, values, [Join(1, 2, (1, 2), 3.0, 1.0)]),
    ):
        assert len(export(Exportable(figure=figure), format)) > 500
