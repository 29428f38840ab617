"""Fonts for the renderers of files.

PNG and PDF have to draw their letters themselves. reportlab brings Bitstream Vera, which covers the Latin script
and is always there; the system's fonts come first where they exist. Japanese, Chinese or Korean tokens need a font
that holds them (such as Noto Sans CJK), otherwise each of their letters is drawn as an empty box. SVG and HTML are
drawn by the reader's own browser and need nothing.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from functools import cache
from itertools import groupby
from pathlib import Path

import reportlab
from reportlab.graphics.shapes import Drawing, Group, String
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFError, TTFont

VERA = "Bitstream Vera Sans"
_PREFERRED = {
    False: (
        "DejaVuSans.ttf",
        "NotoSans-Regular.ttf",
        "Arial Unicode.ttf",
        "LiberationSans-Regular.ttf",
        "arial.ttf",
    ),
    True: ("DejaVuSans-Bold.ttf", "NotoSans-Bold.ttf", "LiberationSans-Bold.ttf", "arialbd.ttf"),
}
# Opening a font takes tens of milliseconds; those most likely to hold other scripts are asked first.
_LIKELY = ("unicode", "cjk", "noto", "gothic", "hei", "wqy", "droid", "emoji", "dejavusans.")
_MOST_FONTS = 80


def vera_files() -> list[str]:
    """The font files that reportlab brings: regular and bold."""
    folder = Path(reportlab.__file__).parent / "fonts"
    return [str(folder / name) for name in ("Vera.ttf", "VeraBd.ttf")]


def set_fonts(drawing: Drawing) -> None:
    """Give every text of a reportlab drawing fonts that hold its letters, in place.

    reportlab draws one font a string and letters in the order given. So a text is split where its font changes, and
    right-to-left letters are put in the order in which they are seen. Arabic letters are not joined.
    """
    _set_fonts(drawing)


def _set_fonts(group: Group) -> None:
    contents = []
    for shape in group.contents:
        if isinstance(shape, Group):
            _set_fonts(shape)
        contents += _pieces(shape) if isinstance(shape, String) else [shape]
    group.contents = contents


def _pieces(text: String) -> list[String]:
    bold = "bold" in text.fontName.lower()
    visible = (char for char in text.text if not 0x2066 <= ord(char) <= 0x2069 and char not in "\u200c\u200d")
    runs = [
        (font, "".join(char for _, char in run))
        for font, run in groupby(
            ((_font_of(char, bold), char) for char in _seen_order("".join(visible))), lambda pair: pair[0]
        )
    ]
    widths = [pdfmetrics.stringWidth(run, font, text.fontSize) for font, run in runs]
    x = text.x - {"end": 1.0, "middle": 0.5}.get(text.textAnchor, 0.0) * sum(widths)
    pieces = []
    for (font, run), width in zip(runs, widths, strict=True):
        piece = String(x, text.y, run, fontName=font, fontSize=text.fontSize, textAnchor="start")
        piece.fillColor = text.fillColor
        pieces.append(piece)
        x += width
    return pieces


def _seen_order(text: str) -> str:
    """``text`` with every right-to-left run reversed."""
    runs = groupby(text, lambda char: unicodedata.bidirectional(char) in ("R", "AL", "NSM"))
    return "".join("".join(run)[::-1] if right_to_left else "".join(run) for right_to_left, run in runs)


@cache
def _font_of(char: str, bold: bool) -> str:
    """Name of a registered font that holds ``char``; the main font where none does."""
    main = _main_font(bold)
    if ord(char) in _letters(main):
        return main
    for path in _font_files():
        name = _register(path)
        if name is not None and ord(char) in _letters(name):
            return name
    return main


@cache
def _main_font(bold: bool) -> str:
    by_name = {Path(path).name: path for path in reversed(_font_files())}
    for name in _PREFERRED[bold]:
        if name in by_name and (registered := _register(by_name[name])) is not None:
            return registered
    vera = _register(vera_files()[bold])
    assert vera is not None, "reportlab without its own font"
    return vera


@cache
def _register(path: str) -> str | None:
    """Name under which reportlab knows a font file; None where it has no TrueType outlines to read."""
    name = f"wb-{path}"
    try:
        pdfmetrics.registerFont(TTFont(name, path))
    except (TTFError, OSError, ValueError, KeyError, IndexError, AssertionError):
        return None
    return name


@cache
def _letters(name: str) -> frozenset[int]:
    return frozenset(pdfmetrics.getFont(name).face.charToGlyph)


@cache
def _font_files() -> tuple[str, ...]:
    """TrueType files of this machine, the likely ones for many scripts first."""
    found = []
    for folder in _folders():
        for where, _, names in os.walk(folder):
            found += [str(Path(where, name)) for name in names if name.lower().endswith((".ttf", ".ttc"))]

    def key(path: str) -> tuple[bool, str]:
        name = Path(path).name.lower()
        return not any(part in name for part in _LIKELY) and Path(path).name not in _PREFERRED[False] + _PREFERRED[
            True
        ], path

    return tuple(sorted(found, key=key)[:_MOST_FONTS])


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts")]
    return [
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        home / ".fonts",
        home / ".local/share/fonts",
    ]
