"""A drawing in steps: one inline SVG a step, a sentence each, forwards and backwards by button or arrow key, or played."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit.components.v2 as components

_HERE = Path(__file__).parent
_COMPONENT = components.component(
    "moyu_stepped_drawing",
    html='<div class="sd"></div>',
    css=(_HERE / "style.css").read_text(encoding="utf-8"),
    js=(_HERE / "steps.js").read_text(encoding="utf-8"),
)


def stepped_drawing(drawings: Sequence[str], sentences: Sequence[str], *, key: str) -> None:
    """Show the drawings one after the other.

    Args:
        drawings: SVG elements made by this program; text from outside must have been escaped in them.
        sentences: what each step says, plain text.
        key: identity on its page; the step is kept while drawings change.
    """
    _COMPONENT(key=key, data={"drawings": list(drawings), "sentences": list(sentences)}, height="content")
