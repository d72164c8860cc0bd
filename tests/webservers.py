"""Real web servers as processes of their own, each on a free loopback port."""

import functools
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.servers import Server

REPOSITORY = Path(__file__).parents[1]
SECRET_KEY = "b_GOGW2QFvdy_kcKwl0kgFObdVWADE1IrnCYJyAJcoYJQVU-_w9kuA"
COOKIE = "vedsess"

WSGI_SERVERS = {
    "gunicorn-sync": "gunicorn --bind 127.0.0.1:{port} --workers 2 tests.webapps:wsgi()",
    "gunicorn-gthread": "gunicorn --bind 127.0.0.1:{port} --workers 2 --threads 8 --preload tests.webapps:warm_wsgi()",
    "gunicorn-gevent": "gunicorn --bind 127.0.0.1:{port} --workers 2 --worker-class gevent tests.webapps:wsgi()",
    "waitress": "waitress-serve --listen 127.0.0.1:{port} --call tests.webapps:wsgi",
    "wsgiref": "python -m tests.webapps {port}",
    "uvicorn-a2wsgi": "uvicorn --port {port} --factory tests.webapps:wsgi_on_asgi",
}
ASGI_SERVERS = {
    "uvicorn": "uvicorn --port {port} --factory tests.webapps:asgi",
    "hypercorn": "hypercorn --bind 127.0.0.1:{port} tests.webapps:asgi()",
}


class WebServer(Server):
    """A web server that runs an app of this repository.

    Args:
        command: as in a shell, with `{port}` in the place of the port.
        environment: added to that of the tests, without what is meant for other apps there.
        directory: takes the log, and is where a default SQLite file would go.
    """

    def __init__(self, command: str, *, environment: Mapping[str, str], directory: Path) -> None:
        words = shlex.split(command)
        super().__init__(Path(sys.executable).with_name(words[0]))
        self._arguments = [word.format(port=self.port) for word in words[1:]]
        self._environment = {**_neutral_environment(), "VEDSESS_SECRET_KEY": SECRET_KEY, **environment}
        self._directory = directory
        self.url = f"http://127.0.0.1:{self.port}"

    @functools.cached_property
    def name(self) -> str:
        return self.binary.name

    @property
    def log(self) -> str:
        """What it has written to stdout and stderr."""
        return self._log().read_text()

    def browser(self, *, cookie: str | None = None) -> httpx.Client:
        """A client with cookies of its own, and this one to begin with."""
        browser = httpx.Client(base_url=self.url, timeout=10.0, trust_env=False)
        if cookie is not None:
            browser.cookies.set(COOKIE, cookie, domain="127.0.0.1", path="/")
        return browser

    def close(self) -> None:
        """Ask it to end; RuntimeError with its log if it had to be killed."""
        process = self._process
        super().close()
        if process is not None and process.returncode == -signal.SIGKILL:
            raise RuntimeError(f"{self.name} did not end when it was asked to:\n{self.log[-2000:]}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log().open("ab") as output:
            return subprocess.Popen(
                [self.binary, *self._arguments],
                cwd=REPOSITORY,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        try:
            return bool(httpx.get(f"{self.url}/started", timeout=5.0, trust_env=False))
        except httpx.TransportError:
            return False

    def _log(self) -> Path:
        return self._directory / f"{self.name}-{self.port}.log"


def cookie_of(browser: httpx.Client) -> str:
    """The session cookie that a browser holds."""
    return browser.cookies[COOKIE]


def session_id_of(cookie: str) -> str:
    """The secret in a session cookie: all before the first full stop."""
    return cookie.partition(".")[0]


def _neutral_environment() -> dict[str, str]:
    others = ("VEDSESS_", "REDIS_", "SESSION_STORAGE", "GUNICORN_", "WEB_CONCURRENCY", "FLASK_", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    folders = [str(Path(sys.executable).parent), kept.get("PATH", "")]
    return {**kept, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", "PATH": os.pathsep.join(folders)}
