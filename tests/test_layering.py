"""The rooms: imports point down only, each library has its place, and importing does nothing else."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vedsess_middleware

PACKAGE = vedsess_middleware.__name__
FOLDER = Path(vedsess_middleware.__file__).parent

# Each room, and the rooms that it may import from: all of them stand above it, so that no import points up.
ROOMS: dict[str, str] = {
    # 1: facts and decisions that need nothing
    "errors": "",
    "events": "",
    "breaker": "",
    "concurrency": "",
    "batching": "",
    "request": "",
    "clients": "",
    "http": "clients",
    "helpers": "",
    "oidc": "errors",
    "forms": "",
    "strength": "",
    # 2: settings, cookies, codec, stores
    "environment": "errors",
    "settings": "errors environment strength",
    "codec": "errors forms",
    "sealing": "errors",
    "stores.record": "",
    "stores.contract": "concurrency stores.record",
    "stores.memory": "errors stores.record stores.contract",
    "stores.circuit": "errors events breaker concurrency",
    "stores.failover": "errors events breaker concurrency stores.record stores.contract stores.circuit",
    "stores.redis": "errors events concurrency batching stores.record stores.contract",
    "stores.sql": "errors concurrency stores.record stores.contract",
    "cookies": "settings stores.record",
    # 3: what an app sees
    "state": "errors request sealing codec stores.record cookies",
    "locks": "errors concurrency state",
    "changes": "errors sealing stores.record state",
    "contents": "errors sealing state changes",
    "session": "errors helpers oidc stores.record state locks contents",
    # 4: the only room that knows both cookie and store; no store by name
    "manager": """
        errors events concurrency request clients oidc sealing settings codec stores.record stores.contract cookies
        state contents session
    """,
    # 5: the only room below the console that knows every backend
    "build": "errors events settings stores.contract stores.failover stores.redis stores.sql manager",
    # 6: the protocol of the server
    "wsgi": "errors concurrency request http settings session manager build",
    "sockets": "concurrency session manager",
    "asgi": "errors request http settings session manager build sockets",
    # the public names; what is written here may be imported from the console alone
    "": "errors concurrency request settings codec session manager",
    # 7: the command
    "console": """
        errors events concurrency request environment settings codec session manager build wsgi asgi
        stores.record stores.contract stores.failover stores.redis stores.sql
    """,
}

# Where a library may be imported.
LIBRARIES: dict[str, set[str]] = {
    "itsdangerous": {"cookies"},
    "werkzeug": {"cookies", "console"},
    "cryptography": {"sealing"},
    "msgspec": {"codec", "environment", "settings", "stores.contract", "stores.record", "stores.sql"},
    "redis": {"stores.redis"},
    "sqlalchemy": {"stores.sql"},
    "asyncpg": {"stores.sql"},
    "psycopg": {"stores.sql"},
    "starlette": {"asgi", "sockets", "console"},
    "_typeshed": {"wsgi", "console"},
    "click": {"console"},
    "rich": {"console"},
    "httpx": {"console"},
    "uvicorn": {"console"},
    "waitress": {"console"},
}

# The same for parts of the standard library: no threads and no tasks of our own, and never a pickle.
PLACES: dict[str, set[str]] = {
    "asyncio": {"batching", "concurrency", "stores.sql", "console"},
    "concurrent": {"console"},
    "marshal": set(),
    "multiprocessing": set(),
    "os": {"concurrency", "settings", "stores.sql", "console"},
    "pickle": set(),
    "selectors": set(),
    "shelve": set(),
    "signal": {"console"},
    "socket": {"console"},
    "subprocess": {"console"},
    "threading": {"breaker", "stores.memory", "stores.failover", "console", "stores.redis"},
}

DECISIONS = ["breaker", "clients", "codec", "cookies", "environment", "errors", "forms", "helpers", "http", "oidc"]
DECISIONS += ["events.audit", "events.base", "events.hooks", "events.names", "events.sessions", "events.stores"]
DECISIONS += ["request", "sealing.cipher", "sealing.packing", "sealing.sealers", "sealing.sizes", "sealing.texts"]
DECISIONS += ["settings", "stores.record", "strength"]


@cache
def modules() -> dict[str, Path]:
    """The files of the package by dotted name, without the package's own."""
    files = {}
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def room_of(module: str) -> str:
    """The room of a module: the folder or the file that the table names."""
    inside = [room for room in ROOMS if room and (module == room or module.startswith(f"{room}."))]
    return max(inside, key=len, default="")


@cache
def tree_of(module: str) -> ast.Module:
    """The source of a module, parsed."""
    return ast.parse(modules()[module].read_text())


def imported(module: str) -> Iterator[str]:
    """Absolute names of all that a module imports, anywhere in it: of modules where there are such."""
    package = f"{PACKAGE}.{module}".rstrip(".").split(".")
    if modules()[module].name != "__init__.py":
        package.pop()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name.removeprefix(f"{PACKAGE}.") in modules() else base


def neighbours(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    ours = (name for name in imported(module) if name.partition(".")[0] == PACKAGE)
    return {name.removeprefix(PACKAGE).removeprefix(".") for name in ours}


# -- our own rooms -----------------------------------------------------------------------------------------------------


def test_the_table_points_down_only() -> None:
    above: set[str] = set()
    for room, allowed in ROOMS.items():
        assert set(allowed.split()) <= above, room
        above.add(room)


def test_every_module_has_a_room() -> None:
    homeless = {module for module in modules() if not room_of(module)}
    assert homeless == {"", "stores"}
    assert not modules()["stores"].read_text()


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_rooms_below_it(module: str) -> None:
    room = room_of(module)
    found = {room_of(name) for name in neighbours(module)} - {room}
    assert found <= {*ROOMS[room].split(), *([""] if room == "console" else [])}


def test_no_import_leads_back_to_where_it_came_from() -> None:
    order = TopologicalSorter({module: neighbours(module) for module in modules()}).static_order()
    assert set(order) == set(modules())


@pytest.mark.parametrize("module", modules())
def test_what_is_private_stays_in_its_module(module: str) -> None:
    names = [
        alias.name
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith(PACKAGE))
        for alias in node.names
    ]
    assert [name for name in names if name.startswith("_")] == []


# -- libraries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_libraries_that_belong_there(module: str) -> None:
    room = room_of(module)
    found = {name.partition(".")[0] for name in imported(module)} - {PACKAGE}
    foreign = found - set(sys.stdlib_module_names)
    assert {library for library in foreign if room not in LIBRARIES.get(library, set())} == set()
    assert {name for name in found & PLACES.keys() if room not in PLACES[name]} == set()


@pytest.mark.parametrize("module", DECISIONS)
def test_a_decision_neither_waits_nor_asks_the_clock(module: str) -> None:
    waiting = ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith
    assert not [node for node in ast.walk(tree_of(module)) if isinstance(node, waiting)]
    assert not {"time", "asyncio", "socket"} & {name.partition(".")[0] for name in imported(module)}


@pytest.mark.parametrize("module", modules())
def test_nobody_starts_a_thread_or_a_task_on_the_request_path(module: str) -> None:
    starters = {
        "Thread",
        "Timer",
        "create_task",
        "ensure_future",
        "run_in_executor",
        "to_thread",
        "TaskGroup",
        "gather",
    }
    named = {node.attr for node in ast.walk(tree_of(module)) if isinstance(node, ast.Attribute)}
    named |= {node.id for node in ast.walk(tree_of(module)) if isinstance(node, ast.Name)}
    # The one receive that the app of an open websocket waits for goes on while its session is looked after.
    allowed = {"ensure_future"} if module == "concurrency" else set()
    assert room_of(module) == "console" or not named & starters - allowed


# -- what importing does -----------------------------------------------------------------------------------------------

WATCH = """
    import os, sys, time
    from collections.abc import MutableMapping

    noticed = []

    def notice(what):
        # The innermost of our own frames is to blame, unless it only imports something that does this.
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                return
            if frame.f_globals.get("__name__", "").startswith("vedsess_middleware"):
                noticed.append((frame.f_globals["__name__"], what))
                return
            frame = frame.f_back

    def audit(event, arguments):
        if event == "open" or event.split(".")[0] in ("os", "shutil", "socket", "sqlite3", "subprocess"):
            notice(f"{event} {arguments[:1]}")

    class Environ(MutableMapping):
        def __init__(self, real): self.real = real
        def __getitem__(self, name): notice(f"environ {name}"); return self.real[name]
        def __setitem__(self, name, value): notice(f"environ {name}"); self.real[name] = value
        def __delitem__(self, name): notice(f"environ {name}"); del self.real[name]
        def __iter__(self): notice("environ"); return iter(self.real)
        def __len__(self): notice("environ"); return len(self.real)

    def watched(clock):
        def look():
            notice("clock")
            return clock()
        return look

    os.environ = Environ(os.environ)
    for name in ("time", "monotonic", "perf_counter"):
        setattr(time, name, watched(getattr(time, name)))
    sys.addaudithook(audit)
"""


def run(program: str, *arguments: str, folder: Path) -> str:
    """What a program prints, run in a process and in a folder of its own, watched."""
    text = textwrap.dedent(WATCH) + textwrap.dedent(program)
    command = [sys.executable, "-c", text, *arguments]
    environ = {"PYTHONPATH": str(FOLDER.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_importing_reads_no_file_no_environment_and_no_clock(tmp_path: Path) -> None:
    program = """
        import importlib
        for name in sys.argv[1:]:
            importlib.import_module(name)
        print(noticed)
    """
    names = [f"{PACKAGE}.{module}".rstrip(".") for module in modules() if room_of(module) != "console"]
    assert run(program, *names, folder=tmp_path) == "[]"
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_brings_no_client_library_and_no_server_with_it(tmp_path: Path) -> None:
    program = """
        import vedsess_middleware
        brought = {"redis", "sqlalchemy", "starlette", "click", "rich", "sqlite3", "cryptography"} & sys.modules.keys()
        print(sorted(brought))
    """
    assert run(program, folder=tmp_path) == "[]"


def test_the_watch_would_notice(tmp_path: Path) -> None:
    program = """
        import socket
        exec(compile('''if True:
            import os, time, sqlite3
            os.environ.get("HOME"); os.getenv("HOME"); time.time(); open(os.devnull).close()
            socket.socket().close(); sqlite3.connect(":memory:").close()
        ''', "x", "exec"), {"__name__": "vedsess_middleware.x", "socket": socket})
        print([what.split()[0] for _, what in noticed])
    """
    events = ["environ", "environ", "clock", "open", "socket.__new__", "sqlite3.connect", "sqlite3.connect/handle"]
    assert run(program, folder=tmp_path) == str(events)


@pytest.mark.parametrize("front_end", ["wsgi", "asgi"])
@pytest.mark.parametrize("database", ["", "sqlite:///sessions.db", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_middleware_that_is_built_has_connected_to_nothing(front_end: str, database: str, tmp_path: Path) -> None:
    program = """
        import importlib
        front_end, database = sys.argv[1:]
        middleware = importlib.import_module(f"vedsess_middleware.{front_end}").SessionMiddleware
        del noticed[:]
        options = {"secret_key": "Tz4mW9qX2vK7nB5cR8jL1pY6dH3gF0sAeUiOaStEwMk", "redis_url": "redis://localhost"}
        made = middleware(print, database_url=database or None, **options)
        print([what for _, what in noticed if "/vedsess_middleware/stores/redis/lua/" not in what])
    """
    assert run(program, front_end, database, folder=tmp_path) == "[]"
    assert list(tmp_path.iterdir()) == []
