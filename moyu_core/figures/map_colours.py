"""Colours of the token x neuron map for files: the same scales and tones as the browser's canvas draws with.

`app/components/neuron_map/colour.js` holds them for the browser; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moyu_core.companding import LEVELS_PER_OCTAVE, NOT_FINITE, TOP_LEVEL
from moyu_core.figures.map_payload import MapPicture

VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
NAN = "#ff2fd0"
_BLUES = (
    ("#f7f7f7", "#d1e5f0", "#92c5de", "#4393c3", "#2166ac", "#0f4383"),
    ("#1d2430", "#24426b", "#2b62a8", "#3f86e0", "#6aa9f7", "#9fcbff"),
)
_REDS = (
    ("#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#8a0d22"),
    ("#1d2430", "#642b30", "#a03733", "#de5a49", "#f5816a", "#ffb09c"),
)
_TONES = (
    {"hit": "#0a5745", "miss": "#c65a10", "false_alarm": "#9a86e0", "stay": "#23568f", "out": "#e3a932", "in": "#c2508b"},
    {"hit": "#7fe9cb", "miss": "#e47b2c", "false_alarm": "#7d60cc", "stay": "#a9cdfb", "out": "#b07a12", "in": "#ec7fb5"},
)
_ACTIVE = ("#1b4f9c", "#8cb8ff")
SET_TONES = 64
"""Steps between no and every neuron of a pixel active."""


@dataclass(frozen=True)
class Inks:
    """The page's colours as hex: text, background and accent of the theme, and what is mixed of them."""

    text: str
    back: str
    accent: str
    muted: str
    line: str
    panel: str
    dark: bool


def inks(dark: bool) -> Inks:
    """Colours around the cells, of the app's light or dark theme."""
    text, back, accent = ("#dde3ea", "#12161d", "#3a7cb0") if dark else ("#1c2530", "#ffffff", "#2a6592")

    def mixed(share: float) -> str:
        return as_hex(_mix(as_rgb(text), as_rgb(back), share))

    return Inks(text, back, accent, mixed(0.36), mixed(0.6), mixed(0.9 if dark else 0.94), dark)


def as_rgb(colour: str) -> np.ndarray:
    """(3,) float64 of #rrggbb."""
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=np.float64)


def as_hex(rgb: np.ndarray) -> str:
    """#rrggbb; halves are rounded up, as the browser does."""
    return "#" + "".join(f"{int(part):02x}" for part in np.floor(np.asarray(rgb) + 0.5))


def _mix(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    return start + (end - start) * share


def stops(show: str, dark: bool) -> tuple[str, ...]:
    """Evenly spaced colours of the scale of values, from its lowest to its highest; the middle of a signed one is zero."""
    if show != "signed":
        return VIRIDIS
    return (*_BLUES[dark][:0:-1], *_REDS[dark])


def _ramp(colours: tuple[str, ...], place: np.ndarray) -> np.ndarray:
    """(n, 3) colours at places in [0, 1] of evenly spaced stops."""
    table = np.array([as_rgb(colour) for colour in colours])
    at = np.clip(place, 0, 1) * (len(colours) - 1)
    return np.stack([np.interp(at, np.arange(len(colours)), table[:, part]) for part in range(3)], axis=1)


def set_colour(share: float, dark: bool) -> np.ndarray:
    """Tone of a pixel in which a share of the neurons is active; one active neuron is always seen."""
    panel = as_rgb(inks(dark).panel)
    return _mix(panel, as_rgb(_ACTIVE[dark]), 0.2 + 0.8 * share) if share > 0 else panel


def category_colour(key: str, dark: bool) -> str:
    """Tone of a category of a comparison; the background's is that of the panel."""
    return _TONES[dark].get(key, inks(dark).panel)


def palette(picture: MapPicture, dark: bool) -> np.ndarray:
    """(n, 3) uint8, the colour of every index of `map_pooling.pooled`.

    values: 256, by level below the end of the scale, sign in the highest bit, on a square-root scale;
    set: SET_TONES + 1; compare: one a category.
    """
    if picture.kind == "compare":
        found = np.array([as_rgb(category_colour(category.colour, dark)) for category in picture.categories])
    elif picture.kind == "set":
        found = np.array([set_colour(step / SET_TONES, dark) for step in range(SET_TONES + 1)])
    else:
        place = np.exp2((np.arange(128) - TOP_LEVEL) / (2 * LEVELS_PER_OCTAVE))
        place[0] = 0
        signed, scale = picture.show == "signed", stops(picture.show, dark)
        sides = [0.5 + 0.5 * place, 0.5 - 0.5 * place] if signed else [place, place]
        found = np.concatenate([_ramp(scale, side) for side in sides])
        found[NOT_FINITE] = as_rgb(NAN)
    return np.floor(found + 0.5).astype(np.uint8)
