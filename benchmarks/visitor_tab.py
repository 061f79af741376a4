"""One tab of a browser that draws nothing: Streamlit's own messages over a websocket, as its page sends and receives them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection

PATIENCE = 60.0
"""Seconds after which a view that has not come, or a job that has not ended, is an error."""
ENDS = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)


@dataclass
class Tab:
    """A browser's tab: its connection, and ids of what its page shows.

    Attributes:
        socket: the open connection.
        shown: (kind, label) -> id of the fields and buttons of the page.
        fragment: the part of the page that asks to be drawn every second; "" = none.
        drawn: elements that the last rerun drew.
        problems: errors that the last rerun showed.
    """

    socket: ClientConnection
    shown: dict[tuple[str, str], str] = field(default_factory=dict)
    fragment: str = ""
    drawn: int = 0
    problems: list[str] = field(default_factory=list)

    async def look(self, page: str, query: str, fragment: str = "", **widgets: Any) -> float:
        """Ask for a rerun and wait for its last message; returns the seconds it took.

        Args:
            page, query: the view.
            fragment: the part that is drawn alone; "" = the page.
            **widgets: `text`, what is written into the field for a text; `press`, the label of a button.
        """
        started = time.perf_counter()
        await self.socket.send(self._request(page, query, fragment, **widgets))
        self.problems, self.drawn = [], 0
        async with asyncio.timeout(PATIENCE):
            while not self._ended(message := ForwardMsg.FromString(await self.socket.recv(decode=False))):
                self._note(message)
        if not (fragment or self.drawn):
            self.problems.append("nothing was drawn")
        return time.perf_counter() - started

    def _request(self, page: str, query: str, fragment: str, text: str = "", press: str = "") -> bytes:
        message = BackMsg()
        state = message.rerun_script
        state.page_name, state.query_string, state.fragment_id = page, query, fragment
        state.is_auto_rerun = bool(fragment)
        state.is_history_navigation = not (fragment or text or press)  # else another link to the same page would change nothing
        if text:
            state.widget_states.widgets.add(id=self.shown["text_area", "Your text"], string_value=text)
        if press:
            state.widget_states.widgets.add(id=self.shown["button", press], trigger_value=True)
        return message.SerializeToString()

    def _ended(self, message: ForwardMsg) -> bool:
        if message.WhichOneof("type") != "script_finished":
            return False
        if message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
            self.problems.append("the script does not compile")
            return True
        return message.script_finished in ENDS

    def _note(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "page_not_found":
            self.problems.append(f"there is no page {message.page_not_found.page_name!r}")
        elif kind == "auto_rerun":
            self.fragment = message.auto_rerun.fragment_id
        elif kind in ("delta", "ref_hash"):  # the second: an element that the browser has already
            self.drawn += 1
            if message.delta.WhichOneof("type") == "new_element":
                self._note_element(message.delta.new_element)

    def _note_element(self, element: Any) -> None:
        kind = element.WhichOneof("type")
        if kind == "exception":
            self.problems.append(f"{element.exception.type}: {element.exception.message}")
        elif kind == "alert" and element.alert.format == element.alert.ERROR:
            self.problems.append(element.alert.body)
        elif kind in ("button", "text_area"):
            part = getattr(element, kind)
            if part.disabled:  # as for a person: it cannot be used
                self.shown.pop((kind, part.label), None)
            else:
                self.shown[kind, part.label] = part.id
