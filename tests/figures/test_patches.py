from __future__ import annotations

import base64
import io
import re

import pytest
import torch
from PIL import Image

from tests.figures.helpers import SVG, having, parse, texts, titles
from workbench.export import Exportable, export
from workbench.figures import Picture, patch_attention, patch_grid, standalone
from workbench.figures.colours import SKY


def square(prefix: tuple[str, ...] = ("cls",), side: int = 8, channels: int = 1) -> Picture:
    image = torch.rand(channels, side, side, generator=torch.Generator().manual_seed(0))
    return Picture(image, (4, 4), prefix)


def pattern(picture: Picture, heads: int = 1, seed: int = 0) -> torch.Tensor:
    n = len(picture.names)
    return torch.randn(heads, n, n, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def opacity(mark: object) -> float:
    return float(mark.attrib["fill-opacity"])  # type: ignore[attr-defined]


def test_every_position_can_be_clicked_in_every_panel() -> None:
    picture = square(("cls", "reg0"))
    one, two = pattern(picture, 2)
    root = parse(patch_attention(picture, [("before", one), ("after", two)]))
    ids = [mark.attrib["data-id"] for mark in having(root, "wb-cell")]
    assert sorted(ids) == sorted(f"q{i}" for i in range(18) for _ in range(3))
    assert {mark.attrib["data-kind"] for mark in having(root, "wb-cell")} == {"patch"}
    assert {"image", "before", "after"} <= set(texts(root))


def test_patches_lie_row_by_row_over_the_image() -> None:
    root = parse(patch_attention(square(()), [("a", pattern(square(()))[0])]))
    place = {m.attrib["data-id"]: (float(m.attrib["x"]), float(m.attrib["y"])) for m in having(root, "wb-cell")}
    side = float(next(root.iter(f"{SVG}image")).attrib["width"])
    assert place["q0"] == (0, 0)
    assert place["q1"] == (side / 4, 0)
    assert place["q4"] == (0, side / 4)
    assert place["q15"] == (side * 3 / 4, side * 3 / 4)


def test_more_attention_is_stronger_and_both_panels_share_one_scale() -> None:
    picture = square()
    before, after = torch.zeros(17, 17), torch.zeros(17, 17)
    before[:, 3], before[:, 4], after[:, 3] = 0.2, 0.1, 0.8
    root = parse(patch_attention(picture, [("before", before), ("after", after)], query=6))
    strength = [opacity(m) for m in having(root, "wb-cell") if m.attrib["data-id"] == "q3"]
    weaker = [opacity(m) for m in having(root, "wb-cell") if m.attrib["data-id"] == "q4"]
    assert strength[0] == 0  # the image alone
    assert strength[1] == pytest.approx(strength[2] / 4, abs=0.01)
    assert weaker[1] == pytest.approx(strength[1] / 2, abs=0.01)
    assert "share of attention" in texts(root)
    assert {"0", "0.4", "0.8"} <= set(texts(root))


def test_only_the_query_s_row_is_shown_and_it_is_outlined() -> None:
    picture = square()
    one = pattern(picture)[0]
    figure = patch_attention(picture, [("a", one)], query=5)
    assert figure.data["attention"]["a"] == pytest.approx(one[5].tolist())
    outlines = [e for e in parse(figure).iter() if e.get("stroke") == SKY]
    assert len(outlines) == 2
    assert "Query: patch (1, 0) (outlined)." in figure.caption


def test_hover_names_the_patch_and_its_share() -> None:
    picture = square()
    one = torch.zeros(17, 17)
    one[0, 7] = 0.4321
    root = parse(patch_attention(picture, [("a", one)]))
    assert "patch (1, 2): 0.432" in titles(root)
    assert "cls: 0" in titles(root)


def test_tokens_before_the_patches_are_cells_with_their_share_and_can_be_muted() -> None:
    picture = square(("cls", "dist"))
    one = torch.zeros(18, 18)
    one[:, 0], one[:, 1], one[:, 5] = 0.6, 0.3, 0.1
    plain, muted = (patch_attention(picture, [("a", one)], mute_prefix=m) for m in (False, True))
    for figure in (plain, muted):
        assert {"cls", "dist", "0.60", "0.30"} <= set(texts(parse(figure)))
    assert "90 % on cls and dist" in plain.title
    shown = {m.attrib["data-id"]: opacity(m) for m in having(parse(muted), "wb-cell")}
    assert shown["q5"] == max(shown.values()) > 0.8
    assert "Left out of the scale: cls, dist." in muted.caption


def test_the_title_says_what_the_query_sees_before_and_after() -> None:
    picture = square()
    before, after = torch.zeros(17, 17), torch.zeros(17, 17)
    before[6, 3], after[6, 3] = 0.25, 0.75
    title = patch_attention(picture, [("before", before), ("after", after)], query=6, layer=2, head=1).title
    assert title == "Head 2.1 from patch (1, 1): most on patch (0, 2), 75 % (before 25 %)"
    after[6, 6] = 0.9
    assert "most on itself, 90 %" in patch_attention(picture, [("a", after)], query=6).title


def test_small_multiples_can_be_clicked_and_share_one_scale() -> None:
    picture = square()
    patterns = torch.zeros(3, 17, 17)
    patterns[0, :, 4], patterns[1, :, 4], patterns[2, :, 0] = 0.5, 0.25, 1.0
    root = parse(patch_grid(picture, patterns, layer=2, selected=1))
    heads = having(root, "wb-cell-head")
    assert [h.attrib["data-id"] for h in heads] == ["a2.h0", "a2.h1", "a2.h2"]
    strong = [max(float(e.get("fill-opacity", 0)) for e in head.iter()) for head in heads]
    assert strong[0] == pytest.approx(2 * strong[1], abs=0.02)
    assert "Head 2.2: 100 % on cls" in titles(root)
    assert [e.get("stroke") for e in having(root, "wb-shape")].count(SKY) == 1


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (224, 3), (900, 3)])
def test_the_image_is_inside_and_no_larger_than_needed(side: int, channels: int) -> None:
    picture = square(side=side, channels=channels)
    figure = patch_attention(picture, [("a", pattern(picture)[0])])
    uris = re.findall(r'href="([^"]*)"', figure.svg)
    assert len(uris) == 2
    for uri in uris:
        kind, _, data = uri.partition(",")
        assert kind == "data:image/png;base64"
        made = Image.open(io.BytesIO(base64.b64decode(data)))
        assert made.mode == ("L" if channels == 1 else "RGB")
        assert max(made.size) <= 450
    if side == 8:
        small = made.resize((8, 8), Image.Resampling.NEAREST)
        assert list(small.tobytes()) == (picture.image[0] * 255).round().int().flatten().tolist()


def test_other_sides_keep_their_proportion() -> None:
    picture = Picture(torch.zeros(1, 4, 12), (2, 6))
    root = parse(patch_attention(picture, [("a", torch.full((12, 12), 1 / 12))]))
    image = next(root.iter(f"{SVG}image"))
    assert float(image.attrib["width"]) == pytest.approx(3 * float(image.attrib["height"]), rel=1e-3)


def test_negative_weights_and_values_that_are_no_number_are_drawn() -> None:
    picture = square()
    one = torch.full((17, 17), -0.25)
    one[:, 2], one[:, 3] = 1.5, torch.nan
    figure = patch_attention(picture, [("a", one)])
    assert "Negative weights (down to −0.25) are left blank." in figure.caption
    assert "nan" not in figure.svg.lower().replace("data:", "").split("base64")[0]
    parse(figure)
    parse(patch_grid(picture, torch.zeros(2, 17, 17)))


@pytest.mark.parametrize(
    ("shape", "query", "words"),
    [((16, 16), 0, "needs 17 queries and keys"), ((17,), 0, "needs 17"), ((17, 17), 17, "positions 0 to 16")],
)
def test_what_does_not_fit_is_one_sentence(shape: tuple[int, ...], query: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        patch_attention(square(), [("a", torch.zeros(shape))], query=query)


@pytest.mark.parametrize("format", ["svg", "png", "pdf", "html"])
def test_it_goes_into_every_picture_format(format: str) -> None:
    picture = square()
    data = export(Exportable(None, patch_attention(picture, [("a", pattern(picture)[0])])), format)
    assert len(data) > 2000
    if format == "html":
        assert b"img-src data:" in data


def test_alone_it_has_no_variable_left() -> None:
    picture = square()
    assert "var(" not in standalone(patch_grid(picture, pattern(picture, 3)).svg)
