"""Figures and circuits as files: SVG, PNG, PDF, HTML, JSON, GraphML, DOT.

    write("ioi.pdf", export(Exportable(circuit, figure, meta), "pdf"))

:data:`FORMATS` lists what there is; the command line, the app and the tests read it. On fonts in PNG and PDF see
:mod:`workbench.figures.fonts`.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import networkx as nx

from workbench.circuits.graph import Circuit, head_of, node_of, part_of
from workbench.figures.colours import DARK, LIGHT
from workbench.figures.figure import FONT, Figure, standalone
from workbench.figures.interaction import interaction_js
from workbench.figures.svg import escape
from workbench.models.lookup import pick

MOST_PIXELS = 100_000_000

# No request of any kind may leave the page; its own style, script and images are inline.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Exportable:
    """What can be written to a file.

    Attributes:
        circuit: the circuit, for the data formats.
        figure: the picture, for the picture formats.
        meta: model, task, method, settings, versions; goes into JSON.
    """

    circuit: Circuit | None = None
    figure: Figure | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One way to write an :class:`Exportable`.

    Attributes:
        key: what a user types.
        title: what a menu shows.
        extension: of the file, with the dot.
        mime: media type.
        needs: which part of the exportable it is made from; ``data`` is the circuit if there is one, else the record.
        make: ``(figure or circuit, meta) -> the file``.
    """

    key: str
    title: str
    extension: str
    mime: str
    needs: Literal["figure", "circuit", "data"]
    make: Callable[[Any, Mapping[str, Any]], bytes | str]


def export(bundle: Exportable, format: str) -> bytes:
    """The bytes of a file.

    Args:
        bundle: what to write.
        format: key of one of :data:`FORMATS`.

    Raises:
        ValueError: the format is unknown (the closest is suggested), or needs a figure or circuit that is missing.
    """
    record = pick(FORMATS, format, "format")
    source = bundle.figure if record.needs == "figure" else bundle.circuit
    if source is None and record.needs != "data":
        *others, last = (other.key for other in FORMATS if other.needs != record.needs)
        raise ValueError(f"There is no {record.needs} to write as {format}; choose {', '.join(others)} or {last}.")
    made = record.make(source, bundle.meta)
    return made.encode() if isinstance(made, str) else made


def write(path: str | Path, data: bytes | str) -> Path:
    """Write a file whole or not at all, making its folder where needed; returns the path.

    Raises:
        ValueError: the folder cannot be made or written to; one sentence with the path and the remedy.
    """
    path = Path(path)
    raw = data.encode() if isinstance(data, str) else data
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's file is for its owner only; a new file should get what the user's umask gives.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        reason = (error.strerror or type(error).__name__).lower()
        raise ValueError(f"Cannot write '{path}' ({reason}); choose a folder that you may write to.") from error
    return path


def to_svg(figure: Figure) -> str:
    """The figure as an SVG file: white ground, no variables, nothing to load."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{standalone(figure.svg)}\n'


def to_png(figure: Figure, scale: float = 2) -> bytes:
    """The figure as a PNG picture on white, ``scale`` pixels for each of its own.

    Raises:
        ValueError: the scale is not positive, or the picture would have more than 100 million pixels.
    """
    import resvg_py

    from workbench.figures.fonts import VERA, vera_files

    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"The scale of a picture is a positive number, not {scale}.")
    width, height = size(figure)
    if width * height * scale**2 > MOST_PIXELS:
        largest = math.floor(10 * math.sqrt(MOST_PIXELS / (width * height))) / 10
        raise ValueError(f"At scale {scale:g} the picture has over 100 million pixels; choose at most {largest:g}.")
    png: bytes = resvg_py.svg_to_bytes(
        svg_string=standalone(figure.svg),
        zoom=scale,
        background="#ffffff",
        font_files=vera_files(),
        # resvg leaves a text out whose generic family names no font; Vera is always there.
        sans_serif_family=VERA,
        font_family=VERA,
    )
    return bytes(png)


def to_pdf(figure: Figure) -> bytes:
    """The figure as a one-page PDF in vectors, its text selectable."""
    from reportlab.graphics import renderPDF
    from svglib.svglib import svg2rlg

    from workbench.figures.fonts import set_fonts

    # Fonts are chosen letter by letter afterwards; a standard name here spares svglib its own search.
    svg = standalone(figure.svg).replace(f'font-family="{escape(FONT)}"', 'font-family="Helvetica"')
    # svglib would print the hover text of a text beside it.
    svg = re.sub("<title>[^<]*</title>", "", svg)
    drawing = svg2rlg(io.BytesIO(svg.encode()))
    if drawing is None:
        raise RuntimeError("svglib could not read a figure's SVG")
    set_fonts(drawing)
    pdf: bytes = renderPDF.drawToString(drawing)
    return pdf


def size(figure: Figure) -> tuple[float, float]:
    """(width, height) of a figure in pixels."""
    import xml.etree.ElementTree as ElementTree

    root = ElementTree.fromstring(figure.svg)
    return float(root.attrib["width"]), float(root.attrib["height"])


def to_html(figure: Figure) -> str:
    """The figure as one page that works offline: hover, click, keyboard, and a slider for a circuit's edges.

    It follows the reader's light or dark setting and can load nothing: a strict content policy forbids it.
    """
    n_edges = int(figure.data.get("n_edges", 0)) if 'class="wb-edges"' in figure.svg else 0
    shown = n_edges - figure.svg.count(' display="none"')
    slider = (
        f'<label>Edges, strongest first <input type="range" class="wb-slider" min="0" max="{n_edges}" '
        f'value="{shown}"></label> <output class="wb-slider-count">{shown} of {n_edges} edges</output>'
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(figure.title)}</title>
<style>
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
@media print {{ :root {{ {_variables(LIGHT)} }} .wb-controls {{ display: none; }} }}
body {{ margin: 1rem auto; max-width: 72rem; font: 14px sans-serif; }}
body {{ background: var(--wb-ground); color: var(--wb-text); }}
figure {{ margin: 0; }}
figcaption {{ max-width: 60rem; min-height: 1.4em; color: var(--wb-muted); }}
.wb-controls input {{ vertical-align: middle; width: 20rem; max-width: 60vw; }}
</style>
</head>
<body>
<figure class="wb-root">
<div class="wb-controls">{slider if n_edges else ""}</div>
{figure.svg}
<figcaption class="wb-detail"></figcaption>
</figure>
<script>
{interaction_js()}
const root = document.querySelector(".wb-root");
const detail = root.querySelector(".wb-detail");
attach(root, (id) => {{
  const mark = [...root.querySelectorAll("[data-id]")].find((one) => one.dataset.id === id);
  detail.textContent = mark ? mark.querySelector("title").textContent : "";
}});
</script>
</body>
</html>
"""


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--wb-{name}: {colour};" for name, colour in colours.items())


def data_json(circuit: Circuit | None, meta: Mapping[str, Any]) -> str:
    """The circuit as JSON, see :func:`circuit_json`; of what is none the record: what was asked, and the numbers."""
    if circuit is not None:
        return circuit_json(circuit, meta)
    return json.dumps(_plain(dict(meta)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def circuit_json(circuit: Circuit, meta: Mapping[str, Any] | None = None) -> str:
    """The circuit as JSON: the graph's sizes, the edges (strongest first), and where they came from."""
    edges = [{key: value for key, value in edge.items() if value is not None} for edge in _edges(circuit)]
    document = {
        "format": "workbench-circuit",
        "version": 1,
        "meta": _plain(dict(meta or {})),
        "graph": asdict(circuit.graph),
        "n_edges": len(edges),
        "nodes": circuit.nodes,
        "edges": edges,
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def circuit_graphml(circuit: Circuit) -> bytes:
    """The circuit as GraphML, for Gephi, Cytoscape, igraph, networkx; an edge's id is its name."""
    source = circuit.to_networkx()
    graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    graph.add_nodes_from(source.nodes(data=True))
    for writer, reader, attributes in source.edges(data=True):
        # GraphML wants ids that are unique in the file; networkx writes an edge's key as its id.
        graph.add_edge(writer, reader, key=attributes["name"], **attributes)
    buffer = io.BytesIO()
    nx.write_graphml(graph, buffer, named_key_ids=True)
    return buffer.getvalue()


def circuit_dot(circuit: Circuit) -> str:
    """The circuit as DOT, for Graphviz: computation upwards, a rank for every layer, the figure's colours."""
    lines = [
        "digraph circuit {",
        "  rankdir=BT;",
        '  node [fontname="Helvetica"];',
        '  edge [fontname="Helvetica"];',
    ]
    rows: dict[str, list[str]] = {}
    for node in circuit.nodes:
        place = head_of(node)
        label = f"{place[0]}.{place[1]}" if place else node
        shape = "circle" if place else "box"
        lines.append(f"  {_quoted(node)} [label={_quoted(label)}, shape={shape}];")
        if place:
            rows.setdefault(str(place[0]), []).append(_quoted(node))
    lines += [f"  {{ rank=same; {'; '.join(nodes)}; }}" for nodes in rows.values() if len(nodes) > 1]
    for edge in _edges(circuit):
        style = "dashed" if (edge["score"] or 0.0) < 0 else "solid"
        attributes = {
            "color": LIGHT[edge["feeds"]],
            "style": style,
            "feeds": edge["feeds"],
            "name": edge["name"],
        }
        if edge["score"] is not None:
            attributes["score"] = f"{edge['score']:.6g}"
        written = ", ".join(f"{key}={_quoted(value)}" for key, value in attributes.items())
        lines.append(f"  {_quoted(edge['source'])} -> {_quoted(edge['target'])} [{written}];")
    return "\n".join([*lines, "}"]) + "\n"


def _edges(circuit: Circuit) -> list[dict[str, Any]]:
    """The edges as records, strongest first; a score that is unknown is None."""
    found = []
    for name in circuit.edges:
        writer, _, reader = name.partition("->")
        score = circuit.score(name)
        known = score if math.isfinite(score) else None
        found.append(
            {
                "name": name,
                "source": writer,
                "target": node_of(reader),
                "feeds": part_of(reader),
                "score": known,
            }
        )
    return sorted(found, key=lambda edge: (-abs(edge["score"] or 0.0), edge["name"]))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: NaN and infinity become null, what JSON does not know becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


FORMATS: list[Format] = [
    Format("svg", "SVG picture", ".svg", "image/svg+xml", "figure", lambda figure, _: to_svg(figure)),
    Format("png", "PNG picture", ".png", "image/png", "figure", lambda figure, _: to_png(figure)),
    Format("pdf", "PDF page", ".pdf", "application/pdf", "figure", lambda figure, _: to_pdf(figure)),
    Format("html", "HTML page, works offline", ".html", "text/html", "figure", lambda figure, _: to_html(figure)),
    Format("json", "JSON data", ".json", "application/json", "data", data_json),
    Format(
        "graphml",
        "GraphML (Gephi, Cytoscape, networkx)",
        ".graphml",
        "application/graphml+xml",
        "circuit",
        lambda circuit, _: circuit_graphml(circuit),
    ),
    Format("dot", "DOT (Graphviz)", ".dot", "text/vnd.graphviz", "circuit", lambda circuit, _: circuit_dot(circuit)),
]
