"""Colours: the theme's variables, the categories, and the scales.

Figures use the theme's colours through CSS variables with light fallbacks (``var(--wb-text, #1a1a1a)``), so that
one SVG is right in the app's light and dark theme and right alone. Categories are Okabe and Ito's, ordered values
cividis or viridis, shares one hue from white to dark, signed values blue - white - vermilion.
"""

from __future__ import annotations

from bisect import bisect_right

# Okabe & Ito's palette, told apart by people with any common colour vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)

# What a theme may set (as --wb-NAME) and what is drawn where it does not.
LIGHT = {
    "ground": "#ffffff",
    "text": "#1a1a1a",
    "muted": "#6a7078",
    "faint": "#dcdfe3",
    "node": "#262b33",
    "node-text": "#ffffff",
    "q": BLUE,
    "k": VERMILION,
    "v": GREEN,
    "mlp": ORANGE,
    "logits": PURPLE,
    "first": BLUE,
    "second": VERMILION,
}
DARK = LIGHT | {
    "ground": "#14171c",
    "text": "#e8eaed",
    "muted": "#9aa1ab",
    "faint": "#363c45",
    "node": "#e8eaed",
    "node-text": "#14171c",
    "q": "#4FA3DC",
    "k": "#F07F2E",
    "v": "#2FBF94",
    "mlp": "#F0B429",
    "logits": "#DE97BE",
    "first": "#4FA3DC",
    "second": "#F07F2E",
}

Scale = tuple[str, ...]
CIVIDIS: Scale = (
    "#00224E",
    "#123570",
    "#3B496C",
    "#575D6D",
    "#707173",
    "#8A8678",
    "#A59C74",
    "#C3B369",
    "#E1CC55",
    "#FEE838",
)
VIRIDIS: Scale = (
    "#440154",
    "#482878",
    "#3E4989",
    "#31688E",
    "#26828E",
    "#1F9E89",
    "#35B779",
    "#6DCD59",
    "#B4DE2C",
    "#FDE725",
)
SHARE: Scale = ("#FFFFFF", "#DCE9F4", "#B3D0E8", "#7FB2D9", "#4790C4", "#1C6CA9", "#0B4A80", "#062C52")
SIGNED: Scale = ("#0072B2", "#5AA0CC", "#AECFE4", "#FFFFFF", "#F3C7A6", "#E5935A", "#D55E00")


def theme(name: str) -> str:
    """A theme colour as an SVG paint: the CSS variable with its light fallback."""
    return f"var(--wb-{name}, {LIGHT[name]})"


def scale(colours: Scale, share: float) -> str:
    """The colour at ``share`` of a scale from 0 to 1, clipped there; linear between its stops."""
    place = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    low = min(int(place), len(colours) - 2)
    start, end = _rgb(colours[low]), _rgb(colours[low + 1])
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(start, end, strict=True))
    return "#" + "".join(f"{channel:02X}" for channel in mixed)


def signed(value: float, limit: float) -> str:
    """Colour of a signed value: ``-limit`` is blue, 0 white, ``limit`` vermilion."""
    return scale(SIGNED, 0.5 + 0.5 * value / limit if limit > 0 else 0.5)


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a ``#RRGGBB`` ground."""
    red, green, blue = _rgb(colour)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    return ("#FFFFFF", "#1A1A1A")[bisect_right((150.0,), luminance)]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
