"""Token text as it is shown: spaces, line breaks and bytes that are no text made visible; numbers; sizes."""

from __future__ import annotations

import html
import unicodedata

_VISIBLE = {" ": "\u00b7", "\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d", "\u00a0": "\u237d"}
_ISOLATE = ("\u2068", "\u2069")  # keeps right-to-left text from turning the text around it


def visible(token: str) -> str:
    """One token's text with white space as signs and invisible characters as code points; "" becomes the empty-set sign."""
    if not token:
        return "\u2205"
    return "".join(_VISIBLE.get(character) or _plain(character) for character in token)


def _plain(character: str) -> str:
    invisible = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs")
    return f"\\u{ord(character):04x}" if invisible and character != "\u200d" else character


def escaped(token: str) -> str:
    """`visible` text for HTML and for Plotly's pseudo-HTML, isolated from its neighbours' writing direction."""
    return html.escape(_ISOLATE[0] + visible(token) + _ISOLATE[1], quote=True)


def beginning(text: str, most: int) -> str:
    """A text in one line of at most `most` characters: cut between words, or in one that fills half of it; an ellipsis says so."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    cut = line.rfind(" ", most // 2, most)
    return line[: cut if cut > 0 else most - 1].rstrip() + "\u2026"


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, whole numbers from 1000 with thin spaces, no exponent between 0.001 and 10 million."""
    if value != value or value in (float("inf"), float("-inf")):
        return "not finite"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e7 or size < 1e-3:
        return f"{value:.{digits - 1}e}"
    if size >= 999.5:
        return f"{value:,.0f}".replace(",", "\u2009")
    return f"{value:.{digits}g}"


def percent(share: float) -> str:
    """A share as percent, for instance `9.96 %`."""
    return f"{number(100 * share)}\u202f%"


def size(count: float) -> str:
    """A number of bytes with its unit, for instance `1.23 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:
            return f"{number(count / factor)} {unit}"
    return f"{count:.0f} byte{'' if count == 1 else 's'}"
