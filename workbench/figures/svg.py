"""Building SVG text: elements, escaping, numbers, tokens and the width of a line.

Everything that a figure writes passes through :func:`element`, so there is one place where text is escaped.
Token text is untrusted: it may hold markup, quotes, control characters or marks that turn the reading
direction. It always comes out as text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

NAMESPACE = "http://www.w3.org/2000/svg"

# The complement of the characters that XML 1.0 allows; a parser refuses the whole file for one of them.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = str.maketrans(
    # White space is written as a reference because a parser would turn \r into \n, and any of them in an
    # attribute into a space.
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        '"': "&quot;",
        "'": "&#39;",
        "\t": "&#9;",
        "\n": "&#10;",
        "\r": "&#13;",
    }
)

# Advance widths of ASCII 32..126 in hundredths of an em, measured on Bitstream Vera Sans, whose metrics DejaVu
# Sans shares. Most other sans-serif faces are narrower, so that a text that fits by these widths fits in them.
_WIDTHS = (
    "32 40 46 84 64 95 78 27 39 39 50 84 32 36 32 34 64 64 64 64 64 64 64 64 64 64 34 34 84 84 84 53 "
    "100 68 69 70 77 63 58 77 75 29 29 66 56 86 75 79 60 79 69 63 61 73 68 99 69 61 69 39 34 39 84 50 "
    "50 61 63 55 63 62 35 63 63 28 28 58 28 97 63 61 63 63 41 52 39 63 59 82 59 59 52 64 34 64 84 "
)
_ASCII = [int(width) / 100 for width in _WIDTHS.split()]


class Markup(str):
    """Finished SVG text. Every other string given to :func:`element` is escaped."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """``text`` for use between tags or between quotes; characters that XML 1.0 forbids are dropped."""
    return Markup(_FORBIDDEN.sub("", text).translate(_ESCAPES))


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """One SVG element.

    Args:
        name: tag name, such as ``"rect"``.
        children: text, which is escaped, or :class:`Markup`, which is not.
        attributes: ``stroke_width`` is written ``stroke-width``, ``class_`` is written ``class``; None leaves an
            attribute out, numbers are written with at most two decimals.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            written = escape(value) if isinstance(value, str) else coordinate(value)
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{written}"')
    inside = join(children)
    return Markup(f"<{' '.join(parts)}>{inside}</{name}>" if inside else f"<{' '.join(parts)}/>")


def join(parts: Iterable[str]) -> Markup:
    """The parts one after the other; text among them is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def coordinate(value: float) -> str:
    """A length or an opacity: at most two decimals, no trailing zeros."""
    return _trim(f"{value:.2f}")


def _trim(text: str) -> str:
    text = text.rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


def number(value: float) -> str:
    """A number as a figure prints it: at most three significant digits, a true minus sign.

    >>> number(5.0561), number(-0.48412), number(123456), number(1e-7), number(float("nan"))
    ('5.06', '−0.484', '123,000', '1e−7', 'not known')
    """
    if not math.isfinite(value):
        return "not known"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e9:
        rounded = float(f"{value:.3g}")
        decimals = max(0, 2 - math.floor(math.log10(abs(rounded))))
        text = f"{rounded:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        text = f"{_trim(mantissa)}e{int(exponent)}"
    return text.replace("-", "−")


def plural(count: int, noun: str) -> str:
    """``1 edge``, ``1,234 edges``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def readable(token: str) -> str:
    """A token with everything invisible made visible.

    A space becomes a thin middle dot, a line break an arrow; control characters and marks without a shape of their
    own (the direction marks among them, which would reorder the text around) become their code point.

    >>> readable(" the\\n"), readable("\\x00"), readable("\\u202e")
    ('·the↵', '⟨U+0000⟩', '⟨U+202E⟩')
    """
    return "".join(map(_readable, token)) if token else "⟨empty⟩"


def _readable(char: str) -> str:
    if (shown := {" ": "·", "\n": "↵", "\t": "⇥"}.get(char)) is not None:
        return shown
    # The joiners hold emoji and Indic and Persian letters together and are harmless.
    if char in "\u200c\u200d" or unicodedata.category(char) not in (
        "Cc",
        "Cf",
        "Cn",
        "Co",
        "Cs",
        "Zl",
        "Zp",
        "Zs",
    ):
        return char
    return f"⟨U+{ord(char):04X}⟩"


def cut(text: str, limit: int = 12) -> str:
    """``text``, cut with an ellipsis after ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def show_token(token: str, limit: int = 12) -> str:
    """A token as a label: :func:`readable` and cut; the whole token belongs into the element's hover text."""
    return cut(readable(token), limit)


def isolate(text: str) -> str:
    """``text`` for use in a sentence: right-to-left letters are kept from reordering the words around."""
    if any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in text):
        return f"\u2068{text}\u2069"
    return text


def text_width(text: str, size: float) -> float:
    """Width of one line in pixels at a font size in pixels; an estimate on the wide side."""
    return size * sum(map(_em, text))


def _em(char: str) -> float:
    if " " <= char <= "~":
        return _ASCII[ord(char) - 32]
    if unicodedata.combining(char) or char in "\u200c\u200d":
        return 0.0
    return 1.05 if unicodedata.east_asian_width(char) in "WF" else 0.7


def wrap(text: str, size: float, width: float) -> list[str]:
    """``text`` in lines of at most ``width`` pixels; a word longer than a line is broken."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".lstrip()
        if text_width(candidate, size) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if lines[-1] and text_width(lines[-1] + char, size) > width:
                lines.append("")
            lines[-1] += char
    return lines if lines[-1] else lines[:-1]
