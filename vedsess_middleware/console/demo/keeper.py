"""The process that owns the demo's Redis and its folder, and removes both when the demo is gone, however it went.

It obeys one order a line, from the demo and from each app, and answers with the state that Redis is in then.  It ends
when the demo's connection ends, which no kill can prevent; the apps end when theirs to the keeper does.
"""

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["KeeperGone", "RedisProcess", "Remote", "keep"]

_LONGEST_START = 10.0
_LONGEST_GOODBYE = 5.0
_LONGEST_ANSWER = 20.0
_LONGEST_SOCKET_PATH = 100


class KeeperGone(ConnectionError):
    """The keeper does not answer any more: the demo is ending."""


class RedisProcess:
    """One Redis on a Unix socket.  Started again it is empty, or as it was when it was told to SAVE.

    Args:
        binary: of the server.
        folder: for its socket and its log.
    """

    def __init__(self, binary: Path, folder: Path) -> None:
        self.folder = folder
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def state(self) -> str:
        """`running`, `frozen` or `stopped`."""
        if self._process is None or self._process.poll() is not None:
            return "stopped"
        return "frozen" if self._frozen else "running"

    def start(self) -> None:
        """Return when it answers; RuntimeError after 10 s."""
        self.thaw()
        if self.state == "stopped":
            self._process = self._spawn()
        deadline = time.monotonic() + _LONGEST_START
        while not self._answers():
            if self.state == "stopped" or time.monotonic() > deadline:
                raise RuntimeError("Redis did not start")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._frozen = False

    def freeze(self) -> None:
        """Stop it by SIGSTOP: it takes connections and answers nothing.  Returns when it stands."""
        if self._process is not None and self.state == "running":
            self._process.send_signal(signal.SIGSTOP)
            os.waitpid(self._process.pid, os.WUNTRACED)
            self._frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None and self.state == "frozen":
            self._process.send_signal(signal.SIGCONT)
        self._frozen = False

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = ["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [self._binary, *options], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.settimeout(1.0)
            connection.connect(str(self.folder / "redis.sock"))
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
        return False


class Remote:
    """The keeper as seen from another process.

    Args:
        connection: to it.
        on_end: called in a thread of its own when the keeper has gone.
    """

    def __init__(self, connection: socket.socket, on_end: Callable[[], None] = lambda: None) -> None:
        self._connection, self._on_end = connection, on_end
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, order: str = "state") -> str:
        """Give an order: `start`, `kill`, `freeze`, `thaw` or `state`; returns the state then, or what went wrong.

        The order `folder` asks for the folder.

        Raises:
            KeeperGone: nobody is there to obey.
        """
        with self._lock:
            try:
                self._connection.sendall(f"{order}\n".encode())
                answer = self._answers.get(timeout=_LONGEST_ANSWER)
            except (OSError, queue.Empty) as error:
                raise KeeperGone("the demo is ending") from error
            if answer is None:
                raise KeeperGone("the demo is ending")
            return answer

    def close(self) -> None:
        """Let go: the keeper of a demo ends then."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _listen(self) -> None:
        with suppress(OSError), self._connection.makefile(encoding="utf-8") as lines:
            for line in lines:
                self._answers.put(line.rstrip("\n"))
        self._answers.put(None)
        self._on_end()


def keep(binary: Path, demo: socket.socket, apps: list[socket.socket]) -> None:
    """Obey until the demo has gone, then end the apps and Redis, and remove the folder."""
    folder = _new_folder()
    redis, lock = RedisProcess(binary, folder), threading.Lock()
    threads = [threading.Thread(target=_obey, args=(app, redis, lock), daemon=True) for app in apps]
    try:
        for thread in threads:
            thread.start()
        _obey(demo, redis, lock)
    finally:
        for app in apps:
            with suppress(OSError):
                app.shutdown(socket.SHUT_WR)
        for thread in threads:
            thread.join(_LONGEST_GOODBYE)
        redis.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _obey(connection: socket.socket, redis: RedisProcess, lock: threading.Lock) -> None:
    with suppress(OSError), connection.makefile(encoding="utf-8") as lines:
        for line in lines:
            with lock:
                answer = _obeyed(line.strip(), redis)
            connection.sendall(f"{answer}\n".encode())


def _obeyed(order: str, redis: RedisProcess) -> str:
    orders = {"start": redis.start, "kill": redis.kill, "freeze": redis.freeze, "thaw": redis.thaw}
    if order == "folder":
        return str(redis.folder)
    try:
        if order in orders:
            orders[order]()
    except (RuntimeError, OSError) as error:
        return f"failed: {error}"
    return redis.state


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vedsess-demo-"))
    if len(str(folder / "redis.sock")) <= _LONGEST_SOCKET_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="vedsess-demo-", dir="/tmp"))


def _stop(*_: object) -> None:
    raise SystemExit


def _main(server: str, *numbers: str) -> None:
    signal.signal(signal.SIGTERM, _stop)
    demo, *apps = (socket.socket(fileno=int(number)) for number in numbers)
    keep(Path(server), demo, apps)


if __name__ == "__main__":
    _main(*sys.argv[1:])
