"""The app as it is served: `streamlit run app/asgi.py`, `uvicorn app.asgi:app`, or `moyu serve`, which adds a worker.

Around app/main.py, which also runs alone, it puts what Streamlit leaves to others: compressed assets, security headers,
and a warm start. MOYU_FRAME_ANCESTORS names the sites that may show the app in a frame (CSP syntax; default: 'self').
"""

from __future__ import annotations

import base64
import gc
import gzip
import hashlib
import importlib
import mimetypes
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HERE = Path(__file__).resolve().parent
STREAMLIT_PAGE = Path(st.__file__).parent / "static"
"""Folder of the installed index.html, whose static/ holds the browser's half of Streamlit."""

if str(HERE.parent) not in sys.path:  # `streamlit run` puts only app/ on the path
    sys.path.insert(0, str(HERE.parent))


class CompressedAssets:
    """Answers requests for Streamlit's own scripts and styles with gzip, each file compressed once.

    A chart page needs 12 MB of them, 4 MB compressed. Streamlit sends them as they are; Starlette's GZipMiddleware
    would compress them again for every visitor, on the event loop.
    """

    def __init__(self, app: ASGIApp, folder: Path = STREAMLIT_PAGE) -> None:
        self.app = app
        files = [file for file in (folder / "static").rglob("*") if file.suffix in (".js", ".css")]
        # Only names that exist now are answered, so no path from outside ever reaches the file system.
        self.files = {f"/{file.relative_to(folder).as_posix()}": file for file in files}
        self.packed: dict[str, bytes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        path = _asset_path(scope)
        if path not in self.files:
            await self.app(scope, receive, send)
            return
        if path not in self.packed:
            self.packed[path] = await to_thread.run_sync(_pack, self.files[path])
        headers = {
            "Content-Encoding": "gzip",
            "Vary": "Accept-Encoding",
            "Cache-Control": "public, immutable, max-age=31536000",  # as Streamlit: the name holds the content's hash
        }
        kind = mimetypes.guess_type(path)[0]
        await Response(self.packed[path], headers=headers, media_type=kind)(scope, receive, send)


def _asset_path(scope: Scope) -> str:
    """The path below the app's base, `/static/js/x.js`; empty for requests that are no plain GET of an asset."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return ""
    headers = Headers(scope=scope)
    if "gzip" not in headers.get("accept-encoding", "") or "range" in headers:
        return ""
    base = "/" + (st.get_option("server.baseUrlPath") or "").strip("/")
    return scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(base.rstrip("/"))


def _pack(file: Path) -> bytes:
    return gzip.compress(file.read_bytes(), compresslevel=6, mtime=0)


class SecurityHeaders:
    """Adds headers to every answer."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self.app = app
        self.headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def security_headers(page: str, frame_ancestors: str = "'self'") -> dict[str, str]:
    """What the browser is told to refuse.

    Args:
        page: the installed index.html; its inline scripts are allowed by their hashes, no other inline script is.
        frame_ancestors: who may show the app in a frame.
    """
    inline = re.findall(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", page, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in inline]
    policy = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", "blob:", *hashes]),  # blob: is how components v2 load their own script
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "worker-src": "'self' blob:",
        "frame-ancestors": frame_ancestors,
        "base-uri": "'self'",
        "object-src": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",  # an address may hold the name of a run
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }


def warm_up() -> None:
    """Imports what every page needs, draws once, and takes it all out of the garbage collector's sight.

    Streamlit collects garbage after every rerun; with these modules in sight that costs 60 ms each time, without 0.
    """
    for name in ("pandas", "pyarrow.parquet", "pyarrow.dataset", "plotly.graph_objects", "plotly.express"):
        importlib.import_module(name)
    figures = importlib.import_module("plotly.graph_objects")
    figures.Figure(figures.Heatmap(z=[[0, 1]])).to_json()
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Before the first visitor: the server answers /_stcore/health only after this."""
    from moyu_core.serve import stop_with_parent

    stop_with_parent()
    warm_up()
    yield


_HEADERS = security_headers(
    (STREAMLIT_PAGE / "index.html").read_text(encoding="utf-8"), os.environ.get("MOYU_FRAME_ANCESTORS", "'self'")
)

app = st.App(
    HERE / "main.py",
    lifespan=lifespan,
    middleware=[Middleware(SecurityHeaders, headers=_HEADERS), Middleware(CompressedAssets)],
)
