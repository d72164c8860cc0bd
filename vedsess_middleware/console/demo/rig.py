"""The set-up of the demo: a keeper of Redis, a SQLite file, two apps, and the end of them all."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from vedsess_middleware.console.demo.binary import redis_binary
from vedsess_middleware.console.demo.keeper import KeeperGone, Remote
from vedsess_middleware.errors import ConfigurationError, SessionError

__all__ = ["DemoFailed", "Rig"]

_NEEDED = ("httpx", "uvicorn", "waitress")
_FOREIGN = ("VEDSESS_", "REDIS_", "SESSION_STORAGE")
_LONGEST_GOODBYE = 10.0
_HOST = "127.0.0.1"
_LAST = 12


class DemoFailed(SessionError):
    """The demo could not be set up, or fell over."""


class Rig:
    """The running demo, as a context manager.  Nothing of it is left at the end, nor if this process is killed.

    Args:
        port: of the WSGI app; 0: a free one.

    Attributes:
        urls: of both apps, by name.
        folder: of everything that is written.
        environ: the settings of both apps.

    Raises:
        ConfigurationError: something is not installed, or the port is taken.
        DemoFailed: Redis does not start.
    """

    def __init__(self, port: int = 0) -> None:
        missing = [name for name in _NEEDED if find_spec(name) is None]
        if missing:
            raise ConfigurationError(f"the demo needs {', '.join(missing)}: pip install 'vedsess-middleware[demo]'")
        self._port, self._binary = port, redis_binary()
        self._stack = ExitStack()
        self._apps: dict[str, subprocess.Popen[bytes]] = {}
        self.urls: Mapping[str, str] = {}
        self.folder, self.environ = Path(), dict[str, str]()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, order: str = "state") -> str:
        """Give an order to the keeper of Redis, and return the state of Redis then.

        Raises:
            DemoFailed: it could not be done.
        """
        try:
            answer = self._keeper.ask(order)
        except KeeperGone as error:
            raise DemoFailed("the keeper of Redis has ended") from error
        if answer.startswith("failed"):
            raise DemoFailed(f"Redis, {order}: {answer}")
        return answer

    def dead(self) -> str:
        """What an app that has ended left in its log; empty: both run."""
        for name, process in self._apps.items():
            if process.poll() is not None:
                return f"the {name.upper()} app has ended ({process.returncode}): {self.log(name)}"
        return ""

    def log(self, app: str) -> str:
        """The end of what an app has logged; empty if the folder is gone."""
        with suppress(OSError):
            lines = (self.folder / f"{app}.log").read_text(encoding="utf-8", errors="replace").splitlines()
            return "\n".join(lines[-_LAST:])
        return ""

    def _start(self, stack: ExitStack) -> None:
        listeners = {"wsgi": stack.enter_context(_listener(self._port)), "asgi": stack.enter_context(_listener(0))}
        self.urls = {name: f"http://{_HOST}:{each.getsockname()[1]}" for name, each in listeners.items()}
        mine, for_wsgi, for_asgi = self._start_keeper(stack)
        self._keeper = mine
        self.folder = Path(self.ask("folder"))
        self.environ = _settings(self.folder)
        self.ask("start")
        for (name, listener), keeper in zip(listeners.items(), (for_wsgi, for_asgi), strict=True):
            self._start_app(stack, name, listener, keeper)

    def _start_keeper(self, stack: ExitStack) -> tuple[Remote, socket.socket, socket.socket]:
        """The keeper's process, our line to it, and a line for each app."""
        pairs = [socket.socketpair() for _ in range(3)]
        (mine, *for_apps), theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        numbers = [str(end.fileno()) for end in theirs]
        process = _spawn("keeper", [str(self._binary), *numbers], theirs, environ=dict(os.environ))
        for end in theirs:
            end.close()
        stack.callback(_wait, process)
        remote = Remote(mine)
        stack.callback(remote.close)
        for end in for_apps:
            stack.callback(end.close)
        return remote, for_apps[0], for_apps[1]

    def _start_app(self, stack: ExitStack, name: str, listener: socket.socket, keeper: socket.socket) -> None:
        arguments = [name, str(listener.fileno()), str(keeper.fileno()), *self.urls.values()]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = _spawn("apps", arguments, [listener, keeper], environ=kept | self.environ, log=log.fileno())
        listener.close()
        keeper.close()
        self._apps[name] = process
        stack.callback(_end, process)


def _listener(port: int) -> socket.socket:
    """A port that is ours from now on: the app takes it over, and requests wait for it meanwhile."""
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        raise ConfigurationError(f"port {port}: {os.strerror(error.errno or 0)}; choose another --port") from error


def _settings(folder: Path) -> dict[str, str]:
    return {
        "VEDSESS_SECRET_KEY": secrets.token_urlsafe(48),
        "VEDSESS_REDIS_URL": f"unix://{folder}/redis.sock",
        "VEDSESS_DATABASE_URL": f"sqlite:///{folder}/sessions.sqlite3",
        "VEDSESS_COOKIE_NAME": "vedsess_demo",  # cookies know no ports: another app of this host keeps its own
    }


def _spawn(
    module: str,
    arguments: Sequence[str],
    sockets: Sequence[socket.socket],
    *,
    environ: Mapping[str, str],
    log: int | None = None,
) -> subprocess.Popen[bytes]:
    """A process that a Ctrl-C in the terminal does not reach: it ends when its line to us does."""
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", f"{__package__}.{module}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environ,
        pass_fds=[each.fileno() for each in sockets],
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(_LONGEST_GOODBYE)
        return
    process.kill()
    process.wait()
