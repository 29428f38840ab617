from __future__ import annotations

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
import zlib
from html.parser import HTMLParser
from pathlib import Path

import networkx as nx
import pytest
import torch
from PIL import Image

from tests.figures.helpers import NASTY, SVG, having, parse, synthetic
from workbench.circuits.graph import Circuit, Graph, Scores
from workbench.export import FORMATS, Exportable, circuit_dot, circuit_graphml, circuit_json, export, to_png, write
from workbench.figures import attention_pattern, circuit_graph
from workbench.figures.fonts import _letters, _main_font, _register, vera_files

PICTURES = ("svg", "png", "pdf", "html")


@pytest.fixture(scope="module")
def bundle() -> Exportable:
    circuit = synthetic().top(40)
    return Exportable(circuit, circuit_graph(circuit, title="Found", caption="Caption words"), {"model": "tiny"})


@pytest.fixture(scope="module")
def nasty() -> Exportable:
    n = len(NASTY)
    figure = attention_pattern(torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None], NASTY, title=NASTY[0])
    return Exportable(None, figure, {"tokens": NASTY})


def test_an_svg_file_stands_alone(bundle: Exportable) -> None:
    data = export(bundle, "svg")
    root = ElementTree.fromstring(data)
    assert root.tag == f"{SVG}svg"
    assert {"width", "height", "viewBox"} <= root.attrib.keys()
    (ground,) = having(root, "wb-ground")
    assert (ground.attrib["fill"], ground.attrib["width"]) == ("#ffffff", root.attrib["width"])
    assert b"var(" not in data
    assert not re.findall(rb"(?:href|src|url\()", data)


def test_a_png_has_the_figures_size_times_the_scale_and_is_not_blank(bundle: Exportable) -> None:
    assert bundle.figure is not None
    root = parse(bundle.figure)
    picture = Image.open(io.BytesIO(to_png(bundle.figure, scale=1.5))).convert("RGB")
    assert picture.width == pytest.approx(1.5 * float(root.attrib["width"]), abs=2)
    assert picture.height == pytest.approx(1.5 * float(root.attrib["height"]), abs=2)
    assert picture.getpixel((1, 1)) == (255, 255, 255)
    colours = picture.getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 100


def ink(data: bytes, box: tuple[int, int, int, int]) -> int:
    """Dark pixels in a part of a picture."""
    grey = Image.open(io.BytesIO(data)).convert("L").crop(box)
    return sum(count for value, count in enumerate(grey.histogram()) if value < 128)


def test_text_in_a_png_is_drawn_without_any_system_font(bundle: Exportable, monkeypatch: pytest.MonkeyPatch) -> None:
    import resvg_py

    drawn = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **options: drawn(**options, skip_system_fonts=True))
    assert bundle.figure is not None
    assert ink(to_png(bundle.figure, scale=2), (30, 30, 200, 76)) > 200  # the title


def pdf_text(data: bytes) -> str:
    """The drawing commands of a PDF, unpacked."""
    streams = (stream.strip() for stream in re.findall(rb"stream\r?\n(.*?)endstream", data, re.S))
    packed = (stream for stream in streams if stream.endswith(b"~>"))
    return b"\n".join(zlib.decompress(base64.a85decode(b"<~" + s, adobe=True)) for s in packed).decode("latin-1")


def test_a_pdf_is_one_page_of_vectors_with_embedded_fonts(bundle: Exportable) -> None:
    data = export(bundle, "pdf")
    assert data.startswith(b"%PDF")
    assert data.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type /Page\b", data)) == 1
    assert b"/FontFile2" in data
    assert b"/Subtype /Image" not in data
    assert bundle.circuit is not None
    curves = re.findall(r" c\b", pdf_text(data))
    assert len(curves) >= bundle.circuit.n_edges


def test_a_pdf_without_any_system_font_falls_back(nasty: Exportable, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.figures import fonts

    caches = (fonts._font_files, fonts._main_font, fonts._font_of)
    monkeypatch.setattr(fonts, "_folders", list)
    for cached in caches:
        cached.cache_clear()
    try:
        assert fonts._main_font(False).endswith("Vera.ttf")
        assert export(nasty, "pdf").startswith(b"%PDF")
    finally:
        for cached in caches:
            cached.cache_clear()


def test_a_letter_of_another_script_gets_a_font_that_holds_it() -> None:
    from workbench.figures.fonts import _font_of

    assert ord("a") in _letters(_main_font(False))
    vera = _register(vera_files()[0])
    assert vera is not None
    if ord("к") not in _letters(_font_of("к", False)):
        pytest.skip("no font with Cyrillic letters on this machine")
    assert _font_of("к", False) != vera


def test_right_to_left_letters_are_put_in_the_order_in_which_they_are_seen() -> None:
    from workbench.figures.fonts import _seen_order

    assert _seen_order("a שלום b") == "a םולש b"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_an_html_page_is_one_file_that_may_load_nothing(bundle: Exportable) -> None:
    page = Tags()
    page.feed(export(bundle, "html").decode())
    (policy,) = (a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not [a for _, a in page.tags if {"src", "href", "xlink:href"} & a.keys()]
    assert [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "img")] == []
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "Caption words" in page.text
    (slider,) = (a for tag, a in page.tags if a.get("class") == "wb-slider")
    assert bundle.circuit is not None
    assert slider["max"] == slider["value"] == str(bundle.circuit.n_edges)


def test_only_circuits_get_a_slider(nasty: Exportable) -> None:
    page = Tags()
    page.feed(export(nasty, "html").decode())
    assert not [tag for tag, _ in page.tags if tag == "input"]


@pytest.mark.parametrize("format", PICTURES)
def test_untrusted_tokens_reach_no_picture_as_markup(nasty: Exportable, format: str) -> None:
    data = export(nasty, format)
    if format == "svg":
        assert not [e for e in ElementTree.fromstring(data).iter() if e.tag.endswith("script")]
    elif format == "html":
        page = Tags()
        page.feed(data.decode())
        assert sum(tag == "script" for tag, _ in page.tags) == 1
        assert data.count(b"</svg>") == 1
    else:
        assert len(data) > 5000


def test_json_holds_the_edges_in_order_and_no_value_that_json_does_not_know(bundle: Exportable) -> None:
    circuit = bundle.circuit
    assert circuit is not None
    meta = {"cmd": float("nan"), "path": Path("x"), "tokens": NASTY[:6], "nested": {1: (2, float("inf"))}}
    read = json.loads(circuit_json(circuit, meta), parse_constant=lambda text: pytest.fail(text))
    assert {edge["name"] for edge in read["edges"]} == circuit.edges
    sizes = [abs(edge["score"]) for edge in read["edges"]]
    assert sizes == sorted(sizes, reverse=True)
    assert Circuit.from_edges(Graph(**read["graph"]), [e["name"] for e in read["edges"]]).edges == circuit.edges
    assert read["meta"] == {"cmd": None, "path": "x", "tokens": NASTY[:6], "nested": {"1": [2, None]}}


@pytest.mark.parametrize("parts", ["q", "qkv"])
def test_graphml_reloads_with_every_edge_and_score(parts: str) -> None:
    graph = Graph(2, 2)
    names = [f"a0.h0->a1.h1<{part}>" for part in parts] + ["a1.h1->logits", "input->a0.h0<v>"]
    values = torch.zeros(len(graph.writers), len(graph.readers))
    for i, name in enumerate(names):
        values[graph.edge(name)] = i - 1.5
    circuit = Scores(graph, values).top(len(names))
    read = nx.read_graphml(io.BytesIO(circuit_graphml(circuit)), force_multigraph=True)
    edges = {data["name"]: data["score"] for _, _, data in read.edges(data=True)}
    assert edges == {name: pytest.approx(circuit.score(name)) for name in circuit.edges}
    assert read.nodes["a1.h1"] == {"kind": "head", "layer": 1, "head": 1}
    plain = nx.read_graphml(io.BytesIO(circuit_graphml(circuit)))
    assert plain.number_of_edges() == len(names)
    ids = [e.get("id") for e in ElementTree.fromstring(circuit_graphml(circuit)).iter() if e.tag.endswith("}edge")]
    assert len(set(ids)) == len(names)


def test_dot_names_every_edge_in_quotes(bundle: Exportable) -> None:
    circuit = bundle.circuit
    assert circuit is not None
    dot = circuit_dot(circuit)
    arrows = re.findall(r'^  "([^"]+)" -> "([^"]+)" \[(.*)\];$', dot, re.M)
    assert len(arrows) == circuit.n_edges
    assert {re.search(r'name="([^"]+)"', rest).group(1) for *_, rest in arrows} == circuit.edges  # type: ignore[union-attr]
    assert dot.count("{") == dot.count("}")
    if shutil.which("dot"):
        import subprocess

        subprocess.run(["dot", "-Tsvg"], input=dot.encode(), check=True, capture_output=True)


def test_an_empty_circuit_can_be_written_in_every_format() -> None:
    circuit = Circuit.empty(Graph(2, 2))
    bundle = Exportable(circuit, circuit_graph(circuit))
    for record in FORMATS:
        assert export(bundle, record.key), record.key


def test_formats_have_distinct_keys_and_extensions() -> None:
    assert [record.key for record in FORMATS] == ["svg", "png", "pdf", "html", "json", "graphml", "dot"]
    assert all(record.extension == f".{record.key}" and "/" in record.mime for record in FORMATS)


def test_an_unknown_format_names_the_closest() -> None:
    with pytest.raises(ValueError, match="There is no format 'grahml'; did you mean 'graphml'"):
        export(Exportable(), "grahml")
    with pytest.raises(ValueError, match="did you mean 'png'"):
        export(Exportable(), ".PNG")
    with pytest.raises(ValueError, match="known are svg, png"):
        export(Exportable(), "qqqq")


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="no figure to write as png"):
        export(Exportable(), "png")
    with pytest.raises(ValueError, match="no circuit to write as dot"):
        export(Exportable(), "dot")


@pytest.mark.parametrize(("scale", "words"), [(0, "positive"), (float("nan"), "positive"), (1e4, "choose at most")])
def test_an_impossible_scale_is_refused_before_drawing(bundle: Exportable, scale: float, words: str) -> None:
    assert bundle.figure is not None
    with pytest.raises(ValueError, match=words):
        to_png(bundle.figure, scale)


def test_a_file_is_written_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = write(tmp_path / "new" / "a.svg", "é")
    assert path.read_bytes() == "é".encode()
    write(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["a.svg"]


def test_an_unwritable_folder_is_one_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"Cannot write '.*file/a\.svg' \(.*\); choose a folder"):
        write(tmp_path / "file" / "a.svg", b"x")
    old = write(tmp_path / "b.svg", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match="no space left on device"):
        write(old, b"new")
    assert old.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.svg", "file"]
