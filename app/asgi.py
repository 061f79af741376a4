"""The app as it is served: `streamlit run app/asgi.py`, `uvicorn app.asgi:app`, or `moyu serve`, which adds a worker.

Around app/main.py, which also runs alone, it puts what Streamlit leaves to others: compressed assets, security headers,
and a warm start. MOYU_FRAME_ANCESTORS names the sites that may show the app in a frame (CSP syntax; default: 'self'),
MOYU_METRICS_TOKEN opens the metrics to its bearer, MOYU_PUBLIC turns public mode on (moyu_core/public.py).
"""

from __future__ import annotations

import base64
import gc
import gzip
import hashlib
import importlib
import logging
import mimetypes
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HERE = Path(__file__).resolve().parent
STREAMLIT_PAGE = Path(st.__file__).parent / "static"
"""Folder of the installed index.html, whose static/ holds the browser's half of Streamlit."""

FRAMED = bool(os.environ.get("MOYU_FRAME_ANCESTORS"))
VISITOR = "moyu_visitor"
"""Cookie that app/ui/visitors.py reads."""
VISITOR_SECONDS = 30 * 86400

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
    path = _path_below_base(scope)
    headers = Headers(scope=scope) if path else {}
    return path if "gzip" in headers.get("accept-encoding", "") and "range" not in headers else ""


def _path_below_base(scope: Scope) -> str:
    """The path of a GET without the prefix under which the app is served; empty for other requests."""
    if scope["type"] != "http" or scope["method"] != "GET":
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


class VisitorCookie:
    """Gives every browser of a public installation a random name of its own, and keeps it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and "text/html" in Headers(raw=message.get("headers", [])).get(
                "content-type", ""
            ):
                secure = scope["scheme"] == "https" or Headers(scope=scope).get("x-forwarded-proto") == "https"
                # A frame of another site (Hugging Face) gets it only with SameSite=None, which needs HTTPS.
                site = "None; Secure; Partitioned" if secure and FRAMED else "Lax; Secure" if secure else "Lax"
                cookie = f"{VISITOR}={secrets.token_hex(16)}; Path=/; HttpOnly; Max-Age={VISITOR_SECONDS}; SameSite={site}"
                message["headers"] = [*message["headers"], (b"set-cookie", cookie.encode("ascii"))]
            await send(message)

        new = scope["type"] == "http" and f"{VISITOR}=" not in Headers(scope=scope).get("cookie", "")
        await self.app(scope, receive, with_cookie if new else send)


class Metrics:
    """Streamlit's /_stcore/metrics answers everyone; here only who shows MOYU_METRICS_TOKEN as a bearer token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        # Compared loosely: a path that some layer below might still take for the metrics is refused as well.
        if scope["type"] == "http" and "_stcore/metrics" in re.sub("/+", "/", scope["path"]).lower():
            said = Headers(scope=scope).get("authorization", "")
            if not self.token or not secrets.compare_digest(said.encode(), f"Bearer {self.token}".encode()):
                await Response("not found", status_code=404, media_type="text/plain")(scope, receive, send)
                return
        await self.app(scope, receive, send)


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
    logging.getLogger("streamlit.error_util").addFilter(WithoutMessages())
    warm_up()
    yield


class Bundles:
    """Sends a run as one file, made while it is sent, from `bundle/<run id>`.

    Whoever has a run's link may look at it, so its name is enough here too. A route of Streamlit's app would not stand below the
    base path, hence this.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        path = _path_below_base(scope)
        app = await _bundle(path.removeprefix("/bundle/")) if path.startswith("/bundle/") else self.app
        await app(scope, receive, send)


async def _bundle(run_id: str) -> Response:
    from moyu_core import archive, store
    from moyu_core.errors import MoyuError
    from moyu_core.home import Home

    try:
        run = await to_thread.run_sync(store.find_run, Home.default(), run_id)
        run.check_sizes()
    except MoyuError as error:
        return Response(str(error), status_code=404, media_type="text/plain")
    headers = {"Content-Disposition": f'attachment; filename="{run.id}{archive.ENDING}"'}
    return StreamingResponse(archive.stream(run), media_type="application/zip", headers=headers)


class WithoutMessages(logging.Filter):
    """Takes the messages of exceptions out of Streamlit's log: one may quote a prompt. The traceback stays."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Alter the record; it is always logged."""
        from moyu_core.worker import without_messages

        if record.exc_info and record.exc_info[1] is not None:
            record.msg, record.args = "%s\n%s", (record.getMessage(), without_messages(record.exc_info[1]))
            record.exc_info, record.exc_text = None, None
        return True


_SIGN_IN = os.environ.get("MOYU_SIGN_IN") == "1"  # then bundles come through the page, which knows who is signed in
os.environ["MOYU_BUNDLE_ROUTE"] = "" if _SIGN_IN else "1"
_PUBLIC = os.environ.get("MOYU_PUBLIC", "") not in ("", "0")
_HEADERS = security_headers(
    (STREAMLIT_PAGE / "index.html").read_text(encoding="utf-8"), os.environ.get("MOYU_FRAME_ANCESTORS", "'self'")
)

app = st.App(
    HERE / "main.py",
    lifespan=lifespan,
    middleware=[
        Middleware(SecurityHeaders, headers=_HEADERS),
        Middleware(Metrics, token=os.environ.get("MOYU_METRICS_TOKEN", "")),
        *([Middleware(VisitorCookie)] if _PUBLIC else []),
        *([] if _SIGN_IN else [Middleware(Bundles)]),
        Middleware(CompressedAssets),
    ],
)
