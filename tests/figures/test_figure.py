from __future__ import annotations

import re

from tests.figures.helpers import NASTY, having, parse, synthetic, texts
from workbench.figures import circuit_graph, standalone
from workbench.figures.colours import DARK, LIGHT
from workbench.figures.figure import frame
from workbench.figures.svg import Markup, element


def test_title_and_caption_are_in_the_picture_and_untrusted() -> None:
    for text in NASTY:
        root = parse(frame(element("g"), 300, 50, title=f"T {text}", caption=f"C {text}"))
        assert not [e for e in root.iter() if e.tag.endswith("script")]
        assert having(root, "wb-title")
        shown = "".join(re.sub(r"\s", "", "".join(texts(root))))
        assert re.sub(r"[\x00-\x1f\ud800\s]", "", f"T {text}C {text}") == shown


def test_the_frame_holds_the_drawing_and_its_text() -> None:
    small = parse(frame(element("g"), 300, 50, title="A"))
    long = parse(frame(element("g"), 300, 50, title="A", caption="word " * 100))
    assert float(small.attrib["width"]) == float(long.attrib["width"]) >= 300
    assert float(long.attrib["height"]) > float(small.attrib["height"]) + 100
    assert long.attrib["viewBox"] == f"0 0 {long.attrib['width']} {long.attrib['height']}"


def test_a_picture_alone_has_no_variables_but_keeps_them_in_text() -> None:
    token = ' fill="var(--wb-text, #123456)"'
    figure = frame(element("text", token, fill="var(--wb-text, #1a1a1a)"), 300, 50, title=token)
    root = parse(standalone(figure.svg))
    assert not [v for e in root.iter() for k, v in e.attrib.items() if k in ("fill", "stroke") and "var(" in v]
    assert token in texts(root)
    assert 'fill="var(--wb-' not in standalone(circuit_graph(synthetic().top(20)).svg)


def test_no_ids_and_only_own_classes_so_that_figures_share_a_page() -> None:
    svg = circuit_graph(synthetic().top(20)).svg
    root = parse(svg)
    assert not [e for e in root.iter() if "id" in e.attrib]
    assert all(name.startswith("wb-") for e in root.iter() for name in e.get("class", "").split())
    style = next(e.text for e in root.iter() if e.tag.endswith("style"))
    selectors = [part.strip() for rule in re.findall(r"([^{}]+)\{", style or "") for part in rule.split(",")]
    assert all(selector.startswith(".wb-") for selector in selectors)


def test_a_notebook_shows_the_picture() -> None:
    figure = frame(Markup(""), 10, 10, title="A")
    assert figure._repr_html_() == figure.svg


def test_every_theme_colour_has_a_dark_twin() -> None:
    assert DARK.keys() == LIGHT.keys()
