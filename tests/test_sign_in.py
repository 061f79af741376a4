"""Sign-in of a private installation: who is not signed in gets the sign-in page and nothing else, whatever is asked for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from websockets.asyncio.client import connect

from app.ui import cached
from benchmarks.visitor_tab import Tab
from moyu_core.home import REPOSITORY, Home
from tests.browser import free_port
from tests.waiting import ended, line_with

MAIN = str(REPOSITORY / "app" / "main.py")
PAGES = sorted(f"views/{path.name}" for path in (REPOSITORY / "app" / "views").glob("*.py") if path.stem != "__init__")
SECRET = "a secret of the test that signs the cookie"
AUTH = f"""
[auth]
redirect_uri = "http://127.0.0.1/oauth2callback"
cookie_secret = "{SECRET}"
client_id = "nobody"
client_secret = "nothing"
server_metadata_url = "http://127.0.0.1:9/.well-known/openid-configuration"
"""


@pytest.fixture
def private(app_home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MOYU_SIGN_IN", "1")
    return app_home


def opened(user: dict[str, Any], page: str = "") -> AppTest:
    app = AppTest.from_file(MAIN, default_timeout=60)
    app.user = user
    app.query_params["run"] = "capture-000000000000"
    if page:
        app.switch_page(page)
    return app.run()


def nothing_but(app: AppTest, title: str, buttons: list[str]) -> bool:
    """Whether the page holds a title, one sentence and such buttons, and the sidebar nothing."""
    _, *shown = [element.type for element in app.main]  # the first is the block itself
    _, *beside = list(app.sidebar)
    said = [each.value for each in app.title] == [title] and [each.label for each in app.button] == buttons
    return said and not beside and sorted(shown) == sorted(["title", *["button"] * len(buttons), "info" if buttons else "error"])


@pytest.mark.parametrize("page", ["", *PAGES])
def test_who_is_not_signed_in_sees_the_sign_in_page_only(private: Home, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.setattr(cached, "home", lambda: pytest.fail("the installation was looked at"))
    app = opened({"is_logged_in": False}, page)
    assert not app.exception and nothing_but(app, "MOYU Explorer", ["Sign in"])
    assert "private installation" in app.info[0].value


def test_who_is_signed_in_sees_the_pages_and_the_way_out(private: Home) -> None:
    app = opened({"is_logged_in": True, "email": "ann@example.org"})
    assert not app.exception and "Sign in" not in [button.label for button in app.button]
    assert app.title[0].value == "Activation map"
    assert "Sign out" in [button.label for button in app.sidebar.button]
    assert "ann@example.org" in "".join(str(caption.value) for caption in app.sidebar.caption)


@pytest.mark.parametrize("user", [{}, {"email": "somebody@example.org"}, {"is_logged_in": "yes"}])
def test_without_a_provider_the_installation_stays_closed(private: Home, user: dict[str, Any]) -> None:
    app = opened(user)
    assert not app.exception and [each.value for each in app.title] == ["MOYU Explorer"]
    assert nothing_but(app, "MOYU Explorer", [] if "is_logged_in" not in user else ["Sign in"])
    assert "is_logged_in" in user or "[auth]" in app.error[0].value


def test_without_the_setting_nobody_is_asked(app_home: Home) -> None:
    app = opened({})
    assert not app.exception and app.title[0].value == "Activation map"
    assert "Sign out" not in [button.label for button in app.sidebar.button]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server with sign-in, whose provider is never asked."""
    folder, port = tmp_path_factory.mktemp("private"), free_port()
    (folder / "secrets.toml").write_text(AUTH)
    told = {**os.environ, "MOYU_HOME": str(folder), "PYTHONPATH": str(REPOSITORY), "MOYU_SIGN_IN": "1"}
    told["STREAMLIT_SECRETS_FILES"] = str(folder / "secrets.toml")
    command = [sys.executable, "-m", "moyu_core.cli", "serve", "--read-only", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, env=told, stdout=subprocess.PIPE, text=True)
    try:
        line_with("ready", process.stdout)
        yield f"http://127.0.0.1:{port}"
    finally:
        ended(process)


def cookie(secret: str, origin: str) -> str:
    """The cookie of a signed-in user, as Streamlit writes it after the provider's answer."""
    from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

    user = json.dumps({"origin": origin, "is_logged_in": True, "email": "ann@example.org"})
    return f"_streamlit_user={create_signed_value(secret, '_streamlit_user', user).decode()}"


def xsrf(origin: str) -> str:
    """The token that Streamlit gives to a page and wants to see again with the cookie."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{origin}/_stcore/health", timeout=30) as answer:
        return next(said for said in answer.headers.get_all("Set-Cookie") if said.startswith("_streamlit_xsrf=")).split(";")[0]


async def buttons(origin: str, *cookies: str) -> list[str]:
    """Labels of the buttons that the page Runs shows to a browser with these cookies."""
    token = xsrf(origin)
    headers = {"Origin": origin, "Cookie": "; ".join([token, *cookies])}
    options: dict[str, Any] = {"subprotocols": ["streamlit", token.partition("=")[2].strip('"')], "max_size": None, "proxy": None}
    async with connect(f"{origin.replace('http', 'ws', 1)}/_stcore/stream", additional_headers=headers, **options) as socket:
        tab = Tab(socket)
        await tab.look("runs", "")
        return [label for kind, label in tab.shown if kind == "button"]


def test_a_real_server_believes_the_signed_cookie_alone(server: str) -> None:
    def seen(*cookies: str) -> list[str]:
        return asyncio.run(buttons(server, *cookies))

    assert seen() == ["Sign in"]
    assert seen(cookie("another secret", server)) == ["Sign in"]
    assert seen(cookie(SECRET, "http://elsewhere.example")) == ["Sign in"]
    signed = seen(cookie(SECRET, server))
    assert "Sign in" not in signed and "Sign out" in signed
