"""Neurons that a person marked and named. They live in one bound text, `layer.neuron name; ...`, so a link carries them."""

from __future__ import annotations

import re

import streamlit as st

_MARK = re.compile(r"\s*(\d{1,4})\.(\d{1,7})(?:\s+(.*?))?\s*")
MAX_NAME = 40


def parse(text: str) -> list[tuple[int, int, str]]:
    """(layer, neuron, name) of every part that can be read; the rest is left out (see `unreadable`)."""
    found = [_MARK.fullmatch(part) for part in text.split(";")]
    return [(int(m[1]), int(m[2]), (m[3] or f"neuron {m[2]}")[:MAX_NAME]) for m in found if m]


def unreadable(text: str) -> list[str]:
    """Parts of the text that are not marks."""
    return [part.strip() for part in text.split(";") if part.strip() and not _MARK.fullmatch(part)]


def render(marks: list[tuple[int, int, str]]) -> str:
    """The text of marks, the inverse of `parse`."""
    return "; ".join(f"{layer}.{neuron} {name.replace(';', ',')}" for layer, neuron, name in sorted(marks))


def marks_of_layer(layer: int) -> tuple[tuple[int, str], ...]:
    """(neuron, name) of the marks of one layer, as the map takes them."""
    return tuple((neuron, name) for found, neuron, name in parse(st.session_state.get("marks") or "") if found == layer)


def add(layer: int, neuron: int, name: str) -> None:
    """Mark a neuron, or rename its mark; for a callback."""
    others = [mark for mark in parse(st.session_state.get("marks") or "") if mark[:2] != (layer, neuron)]
    st.session_state["marks"] = render([*others, (layer, neuron, name.strip() or f"neuron {neuron}")])


def remove(layer: int, neuron: int) -> None:
    """Take a mark away; for a callback."""
    marks = parse(st.session_state.get("marks") or "")
    st.session_state["marks"] = render([mark for mark in marks if mark[:2] != (layer, neuron)])
