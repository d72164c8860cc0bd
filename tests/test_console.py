"""The commands, in this process and as a person runs them."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from tests.servers import RedisFactory, RedisServer, free_port
from vedsess_middleware import JsonCodec, RequestInfo, SessionManager, Settings, run_blocking
from vedsess_middleware.build import build_manager
from vedsess_middleware.concurrency import settle
from vedsess_middleware.console import render, stores
from vedsess_middleware.console.cli import cli
from vedsess_middleware.console.users import AsStored
from vedsess_middleware.manager import SessionInfo
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Field, Version
from vedsess_middleware.stores.sql.engines import sync_engine
from vedsess_middleware.stores.sql.tables import instant, metadata, sessions

ROOT = Path(__file__).parents[1]
KEY = "nfa1nKi7kKZyK8Ej0EMyl5eNDVkpH9i7Bwfgx5bZ9pXE9Tuy2Q0aVg"
PASSWORD = "sesame-8c1d"  # to be found nowhere

OF_STORES = ["check", "stats", "cleanup", "status", "maintain", "sql-init"]
OF_USERS = ["sessions", "revoke", "export", "erase --yes"]

Vedsess = Callable[..., Result]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the settings of a test count, and only its folder is written to."""
    for name in list(os.environ):
        if name.startswith(("VEDSESS_", "REDIS_", "SESSION_STORAGE")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def vedsess() -> Vedsess:
    """Runs a command in this process, with these variables."""

    def invoke(*arguments: str, **environ: str) -> Result:
        result = CliRunner().invoke(cli, arguments, env=environ, prog_name="vedsess")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def manager(valkey: RedisServer, sqlite_url: str) -> Iterator[SessionManager]:
    """A manager over the stores that `both` names."""
    settings = Settings(secret_key=KEY, redis_url=valkey.url, database_url=sqlite_url)
    manager = build_manager(settings, is_async=False)
    yield manager
    manager.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database, of each kind in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def both(valkey: RedisServer, sqlite_url: str) -> dict[str, str]:
    """The variables for Redis and SQLite, without a key."""
    return {"REDIS_URL": valkey.url, "VEDSESS_DATABASE_URL": sqlite_url}


def process(*arguments: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a person does."""
    command = [sys.executable, "-m", "vedsess_middleware.console", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def log_in(manager: SessionManager, user: str) -> str:
    """Store a session with its copy in SQL, and return the cookie."""
    session = run_blocking(manager.open())
    session.login(user)
    cookie = run_blocking(manager.commit(session)) or ""
    run_blocking(manager.after_response())
    return cookie.partition(";")[0]


@contextmanager
def app(redis_url: str, database_url: str, **options: Any) -> Iterator[SessionManager]:
    """What an app has: a manager of its own, which knows nothing of the others."""
    settings = Settings(secret_key=KEY, redis_url=redis_url, database_url=database_url, **options)
    manager = build_manager(settings, is_async=False)
    try:
        yield manager
    finally:
        manager.close()


def write(manager: SessionManager, cookie: str, *, finish: bool = True, **values: str) -> str:
    """Write into the session of this cookie, and return the cookie that the browser has then."""
    session = run_blocking(manager.open(cookie))
    session.update(values)
    header = run_blocking(manager.commit(session))
    if finish:
        run_blocking(manager.after_response())
    return header.partition(";")[0] if header else cookie


def variables(redis_url: str, database_url: str) -> dict[str, str]:
    """The environment of a command over these stores."""
    return {"REDIS_URL": redis_url, "VEDSESS_DATABASE_URL": database_url}


def nobody() -> str:
    """The URL of a Redis that is away."""
    return f"redis://127.0.0.1:{free_port()}/0"


def rows_of(result: Result) -> dict[str, dict[str, str]]:
    """What a command says for people, by store and by name."""
    found: dict[str, dict[str, str]] = {}
    store = ""
    for line in result.stdout.splitlines():
        if line and not line.startswith(" "):
            store = line
        elif line:
            name, _, value = line.strip().partition("  ")
            found.setdefault(store, {})[name] = value.strip()
    return found


def facts_of(result: Result) -> dict[str, dict[str, Any]]:
    """What `status --json` says, by store."""
    return {each["store"]: each for each in json.loads(result.stdout)["stores"]}


class TestKeygen:
    def test_it_prints_one_line_that_the_settings_take(self, vedsess: Vedsess) -> None:
        name, _, key = vedsess("keygen").stdout.rstrip("\n").partition("=")
        assert name == "VEDSESS_SECRET_KEY"
        assert Settings.from_env({name: key}).secret_keys == (key,)

    def test_a_key_for_encryption_goes_by_another_name(self, vedsess: Vedsess) -> None:
        name, _, key = vedsess("keygen", "--for", "encryption").stdout.rstrip("\n").partition("=")
        assert name == "VEDSESS_ENCRYPTION_KEY"
        assert Settings.from_env({name: key}, secret_key=KEY).encryption_keys == (key,)

    def test_one_file_holds_both_keys(self, vedsess: Vedsess, tmp_path: Path) -> None:
        path = tmp_path / ".env"
        for purpose in ("encryption", "secret"):
            assert vedsess("keygen", "--for", purpose, "--env-file", str(path)).exit_code == 0
        names = [line.partition("=")[0] for line in path.read_text().splitlines()]
        assert names == ["VEDSESS_ENCRYPTION_KEY", "VEDSESS_SECRET_KEY"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_no_key_comes_twice(self, vedsess: Vedsess) -> None:
        assert len({vedsess("keygen").stdout for _ in range(5)}) == 5

    def test_a_new_file_is_for_its_owner_only_and_the_key_is_not_shown(self, vedsess: Vedsess, tmp_path: Path) -> None:
        path = tmp_path / ".env"
        result = vedsess("keygen", "--env-file", str(path))
        name, _, key = path.read_text().rstrip("\n").partition("=")
        assert result.exit_code == 0
        assert key not in result.output
        assert Settings.from_env({name: key}).secret_keys == (key,)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.parametrize(
        ("before", "gap", "end"),
        [
            pytest.param(b"A=1\n# VEDSESS_SECRET_KEY=old\n", b"", b"\n", id="lines"),
            pytest.param(b"A=1", b"\n", b"\n", id="no line end"),
            pytest.param(b"A=1\r\nB=2\r\n", b"", b"\r\n", id="lines of Windows"),
            pytest.param(b"MY_VEDSESS_SECRET_KEY=1\n", b"", b"\n", id="a longer name"),
            pytest.param(b"", b"", b"\n", id="empty"),
        ],
    )
    def test_what_a_file_holds_stays_as_it_is(
        self, vedsess: Vedsess, tmp_path: Path, before: bytes, gap: bytes, end: bytes
    ) -> None:
        path = tmp_path / ".env"
        path.write_bytes(before)
        assert vedsess("keygen", "--env-file", str(path)).exit_code == 0
        added = path.read_bytes().removeprefix(before + gap)
        assert added.startswith(b"VEDSESS_SECRET_KEY=")
        assert added.endswith(end)
        assert added.count(b"\n") == 1

    @pytest.mark.parametrize("purpose", ["secret", "encryption"])
    @pytest.mark.parametrize("line", ["{}=old", "export {}='old'", "  {} = old", "{}: old", "{}_FILE=/run/key", "{}='"])
    def test_a_key_that_is_there_stays_and_the_message_says_how_to_rotate(
        self, vedsess: Vedsess, tmp_path: Path, line: str, purpose: str
    ) -> None:
        path, content = tmp_path / ".env", f"A=1\n{line.format(f'VEDSESS_{purpose.upper()}_KEY')}\n"
        path.write_text(content)
        result = vedsess("keygen", "--for", purpose, "--env-file", str(path))
        assert result.exit_code == 1
        assert path.read_text() == content
        assert f"vedsess rotate-keys --for {purpose}" in result.stderr

    @pytest.mark.parametrize("value", ["", "''", " # later"])
    def test_an_empty_assignment_is_left_to_the_person(self, vedsess: Vedsess, tmp_path: Path, value: str) -> None:
        path = tmp_path / ".env"
        path.write_text(f"VEDSESS_SECRET_KEY={value}\n")
        result = vedsess("keygen", "--env-file", str(path))
        assert result.exit_code == 1
        assert "remove that line" in result.stderr
        assert path.read_text() == f"VEDSESS_SECRET_KEY={value}\n"

    def test_a_file_that_others_can_read_is_mentioned(self, vedsess: Vedsess, tmp_path: Path) -> None:
        path = tmp_path / ".env"
        path.touch()
        path.chmod(0o644)
        assert "chmod 600" in vedsess("keygen", "--env-file", str(path)).stderr

    def test_a_folder_that_is_not_there_is_one_clear_line(self, vedsess: Vedsess, tmp_path: Path) -> None:
        result = vedsess("keygen", "--env-file", str(tmp_path / "no" / ".env"))
        assert result.exit_code == 1
        assert result.stderr == f"Error: {tmp_path}/no/.env: No such file or directory\n"


class TestErrors:
    def test_a_missing_key_is_a_configuration_error_that_names_the_command_for_it(self, vedsess: Vedsess) -> None:
        result = vedsess("check")
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: secret_key is missing")
        assert "vedsess keygen" in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize("command", [*OF_STORES, *(f"{command} alice" for command in OF_USERS)])
    def test_a_mistyped_variable_stops_every_command(self, vedsess: Vedsess, command: str) -> None:
        result = vedsess(*command.split(), VEDSESS_SECRET_KEY=KEY, VEDSESS_IDLE_TIMOUT="5")
        assert result.exit_code == 2
        assert "did you mean VEDSESS_IDLE_TIMEOUT?" in result.stderr

    def test_wrong_usage_is_not_a_failure(self, vedsess: Vedsess) -> None:
        assert vedsess("stats", "--jsno").exit_code == 2
        assert vedsess("nothing").exit_code == 2

    def test_an_error_of_a_store_is_one_line_without_traceback(self) -> None:
        result = process("sql-init", VEDSESS_DATABASE_URL="sqlite:////nowhere/at/all.db")
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith("Error: ")

    @pytest.mark.parametrize("package", ["click", "rich"])
    def test_without_the_extra_it_says_how_to_install_it(self, package: str) -> None:
        code = f"import sys; sys.modules['{package}'] = None; from vedsess_middleware.console import main; main()"
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert result.stderr == f"vedsess needs {package}: pip install 'vedsess-middleware[cli]'\n"


class TestStats:
    def test_both_stores_count_exactly(self, vedsess: Vedsess, both: dict[str, str], manager: SessionManager) -> None:
        for user in ("alice", "alice", "bob"):
            log_in(manager, user)
        result = vedsess("stats", "--json", **both)
        redis, sql = json.loads(result.stdout)["stores"]
        assert result.exit_code == 0
        assert (redis["store"], redis["active"], redis["users"]) == ("redis", 3, 2)
        assert (sql["store"], sql["active"], sql["users"]) == ("sql", 3, 2)
        assert {"memory used (bytes)", "connections", "keyspace hits", "keyspace misses"} <= redis["details"].keys()
        assert sql["details"] == {"rows that Redis may not know": 0}

    def test_people_read_the_same_in_lines(
        self, vedsess: Vedsess, both: dict[str, str], manager: SessionManager
    ) -> None:
        log_in(manager, "alice")
        lines = [line.split() for line in vedsess("stats", **both).stdout.splitlines()]
        assert lines.count(["active", "sessions", "1"]) == 2
        assert any(line[:2] == ["keyspace", "hits"] for line in lines)

    def test_a_redis_that_is_down_does_not_hide_the_database(self, vedsess: Vedsess, sqlite_url: str) -> None:
        down = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
        result = vedsess("stats", "--json", REDIS_URL=down, VEDSESS_DATABASE_URL=sqlite_url)
        redis, sql = json.loads(result.stdout)["stores"]
        assert result.exit_code == 0
        assert "nobody listens" in redis["error"]
        assert sql["active"] == 0
        assert PASSWORD not in result.output

    def test_a_database_that_is_down_does_not_hide_redis(self, vedsess: Vedsess, valkey: RedisServer) -> None:
        result = vedsess("stats", REDIS_URL=valkey.url, VEDSESS_DATABASE_URL="sqlite:////nowhere/at/all.db")
        assert result.exit_code == 0
        assert "active sessions" in result.stdout
        assert "cannot be opened" in result.stdout

    def test_it_fails_only_if_no_store_answers(self, vedsess: Vedsess) -> None:
        down = f"redis://127.0.0.1:{free_port()}/0"
        result = vedsess("stats", REDIS_URL=down, VEDSESS_DATABASE_URL="sqlite:////nowhere/at/all.db")
        assert result.exit_code == 1
        assert result.stdout.count("no answer") == 2

    def test_without_redis_there_is_one_store(self, vedsess: Vedsess, sqlite_url: str) -> None:
        (only,) = json.loads(vedsess("stats", "--json", VEDSESS_DATABASE_URL=sqlite_url).stdout)["stores"]
        assert only["store"] == "sql"

    def test_a_driver_for_event_loops_is_used_on_one(
        self, vedsess: Vedsess, tmp_path: Path, valkey: RedisServer
    ) -> None:
        url = f"sqlite+aiosqlite:///{tmp_path}/sessions.db"
        stores = json.loads(vedsess("stats", "--json", REDIS_URL=valkey.url, VEDSESS_DATABASE_URL=url).stdout)["stores"]
        assert [store.get("active") for store in stores] == [0, 0]


class TestCleanup:
    def test_it_counts_what_went_from_each_store(
        self, vedsess: Vedsess, both: dict[str, str], manager: SessionManager, valkey: RedisServer, tmp_path: Path
    ) -> None:
        log_in(manager, "alice")
        log_in(manager, "bob")
        (name, *_) = valkey.cli("ZRANGE", "vedsess:user_sessions:bob", 0, -1)
        valkey.cli("DEL", f"vedsess:session:{name}")
        with sqlite3.connect(tmp_path / "sessions.sqlite3") as database:
            database.execute("UPDATE vedsess_sessions SET expires_at = '2001-01-01' WHERE user_id = 'bob'")
        database.close()
        result = vedsess("cleanup", **both)
        assert result.exit_code == 0
        assert [line.split()[-1] for line in result.stdout.splitlines() if "removed" in line] == ["2", "1"]
        assert valkey.cli("EXISTS", "vedsess:user_sessions:bob") == 0
        assert valkey.cli("ZCARD", "vedsess:session_index:all") == 1

    def test_a_store_that_is_down_is_told_and_the_other_is_tidied(self, vedsess: Vedsess, sqlite_url: str) -> None:
        down = f"redis://127.0.0.1:{free_port()}/0"
        result = vedsess("cleanup", REDIS_URL=down, VEDSESS_DATABASE_URL=sqlite_url)
        assert result.exit_code == 1
        assert "nobody listens" in result.stdout
        assert "entries removed" in result.stdout


class TestStatus:
    def test_two_healthy_stores_owe_each_other_nothing(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        with app(valkey.url, database_url) as manager:
            log_in(manager, "alice")
        epoch = valkey.cli("GET", "vedsess:epoch")
        result = vedsess("status", "--json", **variables(valkey.url, database_url))
        found = facts_of(result)
        assert result.exit_code == 0
        assert list(found) == ["redis", "sql"]
        assert found["redis"] == {
            "store": "redis",
            "answers": "yes",
            "copies that SQL is owed": 0,
            "trusted": "yes",
            "error": None,
        }
        assert found["sql"] == {
            "store": "sql",
            "answers": "yes",
            "epoch": epoch[:8],
            "rows that Redis may not know": "0",
            "error": None,
        }

    def test_people_read_the_same_in_lines(
        self, vedsess: Vedsess, both: dict[str, str], manager: SessionManager
    ) -> None:
        log_in(manager, "alice")
        rows = rows_of(vedsess("status", **both))
        assert rows["redis"] == {"answers": "yes", "copies that SQL is owed": "0", "trusted": "yes"}
        assert rows["sql"].keys() == {"answers", "epoch", "rows that Redis may not know"}

    def test_stores_that_nobody_has_used_yet_have_no_epoch(self, vedsess: Vedsess, both: dict[str, str]) -> None:
        result = vedsess("status", **both)
        assert result.exit_code == 0
        assert rows_of(result)["sql"]["epoch"] == "none yet"
        assert "trusted" not in rows_of(result)["redis"]

    def test_a_redis_that_was_restarted_since_is_not_trusted(
        self, vedsess: Vedsess, fresh_redis: RedisFactory, database_url: str
    ) -> None:
        server = fresh_redis()
        with app(server.url, database_url) as manager:
            log_in(manager, "alice")
        server.restart(empty=False)
        result = vedsess("status", **variables(server.url, database_url))
        assert result.exit_code == 0
        assert rows_of(result)["redis"]["trusted"].startswith("no: restarted since")

    def test_a_redis_that_is_away_is_told_with_the_mend(
        self, vedsess: Vedsess, manager: SessionManager, sqlite_url: str
    ) -> None:
        log_in(manager, "alice")
        down = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
        result = vedsess("status", "--json", **variables(down, sqlite_url))
        found = facts_of(result)
        assert result.exit_code == 1
        assert "nobody listens" in found["redis"]["error"]
        assert "start Redis there" in found["redis"]["error"]
        assert found["sql"]["answers"] == "yes"
        assert PASSWORD not in result.output

    def test_a_database_that_is_away_is_told_with_the_mend(self, vedsess: Vedsess, valkey: RedisServer) -> None:
        result = vedsess("status", **variables(valkey.url, "sqlite:////nowhere/at/all.db"))
        assert result.exit_code == 1
        assert rows_of(result)["redis"] == {"answers": "yes", "copies that SQL is owed": "0"}
        assert "cannot be opened" in result.stdout
        assert "make its folder" in result.stdout

    def test_without_redis_there_is_one_store(self, vedsess: Vedsess, database_url: str) -> None:
        result = vedsess("status", "--json", VEDSESS_DATABASE_URL=database_url)
        assert result.exit_code == 0
        assert list(facts_of(result)) == ["sql"]

    def test_redis_that_is_not_used_is_not_asked(self, vedsess: Vedsess, database_url: str) -> None:
        environ = variables(nobody(), database_url)
        result = vedsess("status", "--json", SESSION_STORAGE="database", **environ)
        assert result.exit_code == 0
        assert list(facts_of(result)) == ["sql"]

    def test_rows_that_redis_may_not_know_are_counted(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        with app(valkey.url, database_url) as near, app(nobody(), database_url) as cut_off:
            for user in ("alice", "bob"):
                write(cut_off, log_in(near, user), where="sql")
            log_in(near, "carol")
        result = vedsess("status", **variables(valkey.url, database_url))
        assert result.exit_code == 0
        assert rows_of(result)["sql"]["rows that Redis may not know"] == "2"

    def test_copies_that_sql_is_owed_are_counted(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        with app(valkey.url, database_url) as manager:
            write(manager, "", finish=False, a="1")
            write(manager, "", finish=False, a="2")
        result = vedsess("status", **variables(valkey.url, database_url))
        assert result.exit_code == 0
        assert rows_of(result)["redis"]["copies that SQL is owed"] == "2"

    def test_it_changes_nothing(self, vedsess: Vedsess, valkey: RedisServer, sqlite_url: str) -> None:
        with app(valkey.url, sqlite_url) as manager:
            log_in(manager, "alice")
        before = valkey.cli("GET", "vedsess:epoch")
        assert before
        assert vedsess("status", **variables(valkey.url, sqlite_url)).exit_code == 0
        assert valkey.cli("GET", "vedsess:epoch") == before

    def test_it_makes_no_table(self, vedsess: Vedsess, valkey: RedisServer, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/empty.db"
        assert rows_of(vedsess("status", **variables(valkey.url, url)))["sql"]["epoch"] == "none yet"
        assert _tables(tmp_path / "empty.db") == set()

    def test_a_driver_for_event_loops_is_used_on_one(
        self, vedsess: Vedsess, valkey: RedisServer, postgres_url: str
    ) -> None:
        with app(valkey.url, postgres_url) as manager:
            log_in(manager, "alice")
        url = postgres_url.replace("postgresql:", "postgresql+asyncpg:")
        assert rows_of(vedsess("status", **variables(valkey.url, url)))["redis"]["trusted"] == "yes"


class TestMaintain:
    def test_where_there_is_nothing_to_do_it_ends_at_once(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        with app(valkey.url, database_url) as manager:
            log_in(manager, "alice")
        result = vedsess("maintain", **variables(valkey.url, database_url))
        assert result.exit_code == 0
        assert rows_of(result) == {
            "both": {"settled": "yes"},
            "redis": {"entries removed": "0"},
            "sql": {"entries removed": "0"},
        }

    def test_stores_that_nobody_has_used_yet_are_settled(self, vedsess: Vedsess, both: dict[str, str]) -> None:
        assert vedsess("maintain", **both).exit_code == 0
        assert rows_of(vedsess("status", **both))["redis"]["trusted"] == "yes"

    def test_rows_that_were_written_while_redis_was_away_are_drained_and_their_marks_cleared(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        environ = variables(valkey.url, database_url)
        with app(valkey.url, database_url) as near, app(nobody(), database_url) as cut_off:
            cookies = [write(cut_off, log_in(near, f"user {number}"), where="sql") for number in range(20)]
        result = vedsess("maintain", **environ)
        assert result.exit_code == 0
        assert rows_of(result)["both"] == {"records drained": "20", "settled": "yes"}
        assert rows_of(vedsess("status", **environ))["sql"]["rows that Redis may not know"] == "0"
        with app(valkey.url, database_url) as later:
            found = [run_blocking(later.open(cookie)) for cookie in cookies]
            assert {(session.store, session["where"]) for session in found} == {("redis", "sql")}

    def test_a_logout_that_redis_was_not_told_of_reaches_it(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        environ = variables(valkey.url, database_url)
        with app(valkey.url, database_url) as near, app(nobody(), database_url) as cut_off:
            session = run_blocking(cut_off.open(log_in(near, "alice")))
            session.logout()
            run_blocking(cut_off.commit(session))
        [name] = valkey.cli("KEYS", "vedsess:session:*")
        assert valkey.cli("HEXISTS", name, "gone") == 0
        assert vedsess("maintain", **environ).exit_code == 0
        assert valkey.cli("HEXISTS", name, "gone") == 1
        assert rows_of(vedsess("status", **environ))["sql"]["rows that Redis may not know"] == "0"

    def test_copies_that_a_dead_process_owed_are_picked_up(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        environ = variables(valkey.url, database_url)
        with app(valkey.url, database_url) as dying:
            cookie = write(dying, log_in(dying, "alice"), finish=False, where="redis")
        result = vedsess("maintain", **environ)
        assert result.exit_code == 0
        assert rows_of(result)["both"] == {"copies picked up": "1", "settled": "yes"}
        assert rows_of(vedsess("status", **environ))["redis"]["copies that SQL is owed"] == "0"
        with app(nobody(), database_url) as later:
            session = run_blocking(later.open(cookie))
            assert (session.store, session.user_id, session["where"]) == ("sql", "alice", "redis")

    def test_after_an_empty_restart_of_redis_it_agrees_on_a_new_epoch(
        self, vedsess: Vedsess, fresh_redis: RedisFactory, database_url: str
    ) -> None:
        server = fresh_redis()
        environ = variables(server.url, database_url)
        with app(server.url, database_url) as manager:
            cookie = log_in(manager, "alice")
        before = rows_of(vedsess("status", **environ))
        server.restart()
        result = vedsess("maintain", **environ)
        after = rows_of(vedsess("status", **environ))
        assert result.exit_code == 0
        assert rows_of(result)["both"] == {"new epochs": "1", "settled": "yes"}
        assert before["sql"]["epoch"] != after["sql"]["epoch"]
        assert (before["redis"]["trusted"], after["redis"]["trusted"]) == ("yes", "yes")
        with app(server.url, database_url) as later:
            assert run_blocking(later.open(cookie)).user_id == "alice"
            run_blocking(later.after_response())
            assert run_blocking(later.open(cookie)).store == "redis"

    def test_what_has_expired_is_removed(self, vedsess: Vedsess, valkey: RedisServer, database_url: str) -> None:
        with app(valkey.url, database_url) as manager:
            log_in(manager, "alice")
            log_in(manager, "bob")
        expire(database_url, "bob")
        result = vedsess("maintain", **variables(valkey.url, database_url))
        assert result.exit_code == 0
        assert rows_of(result)["sql"] == {"entries removed": "1"}

    def test_a_redis_that_is_away_is_told_in_time(
        self, vedsess: Vedsess, manager: SessionManager, sqlite_url: str
    ) -> None:
        log_in(manager, "alice")
        started_at = time.monotonic()
        result = vedsess("maintain", "--seconds", "0.5", **variables(nobody(), sqlite_url))
        assert time.monotonic() - started_at < 2.5
        assert result.exit_code == 1
        rows = rows_of(result)
        assert rows["both"]["settled"] == "no"
        assert "not settled after 0.5 s: a store does not answer" in rows["both"]["left over"]
        assert "nobody listens" in rows["redis"]["no answer"]
        assert rows["sql"] == {"entries removed": "0"}

    def test_a_database_that_is_away_is_told_in_time(self, vedsess: Vedsess, valkey: RedisServer) -> None:
        environ = variables(valkey.url, "sqlite:////nowhere/at/all.db")
        result = vedsess("maintain", "--seconds", "0.5", **environ)
        assert result.exit_code == 1
        assert "a store does not answer" in rows_of(result)["both"]["left over"]
        assert "cannot be opened" in rows_of(result)["sql"]["no answer"]

    def test_copies_that_are_still_owed_when_it_gives_up_are_what_it_names(
        self, vedsess: Vedsess, valkey: RedisServer, sqlite_url: str
    ) -> None:
        with app(valkey.url, sqlite_url) as dying:
            write(dying, "", finish=False, a="1")
        result = vedsess("maintain", "--seconds", "0", **variables(valkey.url, sqlite_url))
        assert result.exit_code == 1
        assert "0 records" not in result.stdout

    def test_without_redis_it_only_removes_what_has_expired(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        with app(valkey.url, database_url, storage="database") as manager:
            log_in(manager, "alice")
            log_in(manager, "bob")
        expire(database_url, "bob")
        result = vedsess("maintain", VEDSESS_DATABASE_URL=database_url)
        assert result.exit_code == 0
        assert rows_of(result) == {"sql": {"entries removed": "1"}}

    def test_without_copies_in_sql_it_moves_back_what_was_written_there(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        with app(valkey.url, database_url, mirror="off") as near, app(nobody(), database_url, mirror="off") as cut_off:
            cookie = write(cut_off, log_in(near, "alice"), where="sql")
        environ = variables(valkey.url, database_url) | {"VEDSESS_MIRROR": "off"}
        result = vedsess("maintain", **environ)
        assert result.exit_code == 0
        assert rows_of(result)["both"] == {"records drained": "1", "settled": "yes"}
        with app(valkey.url, database_url, mirror="off") as later:
            session = run_blocking(later.open(cookie))
            assert (session.store, session.user_id, session["where"]) == ("redis", "alice", "sql")

    def test_a_driver_for_event_loops_is_used_on_one(
        self, vedsess: Vedsess, valkey: RedisServer, postgres_url: str
    ) -> None:
        with app(valkey.url, postgres_url) as near, app(nobody(), postgres_url) as cut_off:
            write(cut_off, log_in(near, "alice"), where="sql")
            write(near, log_in(near, "bob"), finish=False, where="redis")
        url = postgres_url.replace("postgresql:", "postgresql+asyncpg:")
        result = vedsess("maintain", **variables(valkey.url, url))
        assert result.exit_code == 0
        assert rows_of(result)["both"] == {"records drained": "1", "copies picked up": "1", "settled": "yes"}

    def test_a_time_below_zero_is_wrong_usage(self, vedsess: Vedsess, both: dict[str, str]) -> None:
        assert vedsess("maintain", "--seconds", "-1", **both).exit_code == 2


AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
CIPHER = "Yk3vQ8mXw2Lr7Tn5Bz9Hd4Gs6Jf1Pc0AoEuIyWqRtSxMv"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """The store that all commands of a test find, whatever the settings say."""
    store = MemoryStore()

    def build(settings: Settings, *, is_async: bool, **extensions: Any) -> SessionManager:
        return SessionManager(store, settings, **extensions)

    monkeypatch.setattr(stores, "build_manager", build)
    return store


def visit(store: Store, user: str, *, agent: str | None = None, values: Any = (), **options: Any) -> str:
    """Store a session of this user, and return its handle."""
    manager = SessionManager(store, Settings(secret_key=KEY, **options))
    before = {info.handle for info in run_blocking(manager.sessions(user))}
    session = run_blocking(manager.open())
    session.login(user)
    session.update(values)
    run_blocking(manager.commit(session, RequestInfo(user_agent=agent, ip_address="192.0.2.7")))
    (handle,) = {info.handle for info in run_blocking(manager.sessions(user))} - before
    return handle


def handles(store: Store, user: str) -> set[str]:
    """The live sessions of a user."""
    return {info.handle for info in run_blocking(SessionManager(store, Settings(secret_key=KEY)).sessions(user))}


class Colour(Enum):
    """What an app keeps, and no command knows."""

    RED = 1


class TestSessions:
    def test_a_row_tells_how_to_know_a_session_again(self, vedsess: Vedsess, memory: MemoryStore) -> None:
        handle = visit(memory, "alice", agent=AGENT)
        visit(memory, "bob")
        result = vedsess("sessions", "alice")
        header, row = result.stdout.splitlines()
        today = time.strftime("%Y-%m-%d", time.gmtime())
        assert result.exit_code == 0
        assert header.split() == ["handle", "created", "(UTC)", "last", "used", "ends", "client", "address"]
        assert row.startswith(f"{handle}  {today} ")
        assert row.rstrip().endswith("Firefox 140 on Linux  192.0.2.7")

    def test_programs_read_the_same(self, vedsess: Vedsess, memory: MemoryStore) -> None:
        handle = visit(memory, "alice", agent=AGENT)
        found = json.loads(vedsess("sessions", "alice", "--json").stdout)
        (only,) = found["sessions"]
        assert found["user_id"] == "alice"
        assert (only["handle"], only["user_agent"], only["ip_address"]) == (handle, "Firefox 140 on Linux", "192.0.2.7")
        assert only["expires_at"] - only["created_at"] == 86400

    def test_a_user_without_one_is_no_failure(self, vedsess: Vedsess, memory: MemoryStore) -> None:
        result = vedsess("sessions", "alice")
        assert (result.exit_code, result.stdout) == (0, "alice has no live session.\n")
        assert json.loads(vedsess("sessions", "alice", "--json").stdout) == {"user_id": "alice", "sessions": []}

    def test_a_user_who_looks_like_an_option_comes_after_two_dashes(
        self, vedsess: Vedsess, memory: MemoryStore
    ) -> None:
        visit(memory, "--json")
        assert json.loads(vedsess("sessions", "--json", "--", "--json").stdout)["user_id"] == "--json"
        assert vedsess("revoke", "--", "--json").stdout == "Ended of --json: 1 session.\n"

    @pytest.mark.parametrize("command", OF_USERS)
    @pytest.mark.parametrize("user", ["", "a" * 256, "a\udcff"])
    def test_what_no_app_can_have_logged_in_is_wrong_usage(
        self, vedsess: Vedsess, memory: MemoryStore, command: str, user: str
    ) -> None:
        result = vedsess(*command.split(), "--", user)
        assert result.exit_code == 2
        assert "a user id has" in result.stderr

    def test_a_name_cannot_talk_to_the_terminal(self, vedsess: Vedsess, memory: MemoryStore) -> None:
        for command in ("sessions", "revoke"):
            result = vedsess(command, "\x1b]0;title\x07[bold]\u202e")
            assert "\\x1b]0;title\\x07[bold]\\u202e" in result.stdout
            assert result.stdout[:-1].isprintable()

    def test_what_a_client_said_of_itself_is_shown_and_not_acted_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        evil = "\x1b[2J[red]\u202e\r\nagent"
        info = SessionInfo(
            handle="1f",
            created_at=0.0,
            authenticated_at=0.0,
            last_activity=0.0,
            expires_at=0.0,
            user_agent=evil,
            ip_address="[link=http://evil]\x07",
        )
        render.print_sessions([info])
        _, row = capsys.readouterr().out.splitlines()
        assert "\\x1b[2J[red]\\u202e\\r\\nagent  [link=http://evil]\\x07" in row
        assert row.isprintable()


class TestRevoke:
    @pytest.fixture
    def three(self, memory: MemoryStore) -> list[str]:
        """The sessions of alice; bob has one too."""
        visit(memory, "bob")
        return [visit(memory, "alice") for _ in range(3)]

    def test_all_of_a_user_end_and_no_other(self, vedsess: Vedsess, memory: MemoryStore, three: list[str]) -> None:
        result = vedsess("revoke", "alice")
        assert (result.exit_code, result.stdout) == (0, "Ended of alice: 3 sessions.\n")
        assert handles(memory, "alice") == set()
        assert len(handles(memory, "bob")) == 1
        assert vedsess("revoke", "alice").stdout == "Ended of alice: 0 sessions.\n"

    def test_one_ends_by_its_handle(self, vedsess: Vedsess, memory: MemoryStore, three: list[str]) -> None:
        result = vedsess("revoke", "alice", "--handle", three[1])
        assert (result.exit_code, result.stdout) == (0, "Ended of alice: 1 session.\n")
        assert handles(memory, "alice") == {three[0], three[2]}

    @pytest.mark.parametrize("kept", [[0], [0, 2], [0, 1, 2]])
    def test_all_but_some_end(self, vedsess: Vedsess, memory: MemoryStore, three: list[str], kept: list[int]) -> None:
        options = [option for index in kept for option in ("--all-but", three[index])]
        result = vedsess("revoke", "alice", *options)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Ended of alice: {3 - len(kept)} session")
        assert handles(memory, "alice") == {three[index] for index in kept}

    @pytest.mark.parametrize("options", [["--handle", "{1}"], ["--all-but", "{0}", "--all-but", "{1}"]])
    def test_a_handle_that_is_mistyped_or_of_somebody_else_ends_nothing(
        self, vedsess: Vedsess, memory: MemoryStore, three: list[str], options: list[str]
    ) -> None:
        (other,) = handles(memory, "bob")
        for wrong in (other, "\x1b[2J"):
            result = vedsess("revoke", "alice", *(option.format(three[0], wrong) for option in options))
            assert result.exit_code == 1
            assert result.stderr.startswith("Error: no live session of this user has the handle '")
            assert result.stderr[:-1].isprintable()
        assert handles(memory, "alice") == set(three)
        assert handles(memory, "bob") == {other}

    def test_everything_is_what_began_until_now(self, vedsess: Vedsess, memory: MemoryStore, three: list[str]) -> None:
        result = vedsess("revoke", "alice", "--everything")
        assert (result.exit_code, result.stdout) == (0, "Ended of alice: 3 sessions.\n")
        assert handles(memory, "alice") == set()
        assert len(handles(memory, "bob")) == 1
        assert list(memory.cut_offs(after=0)) == ["alice"]

    @pytest.mark.parametrize("left_out", ["--handle x", "--all-but x", "--everything"])
    def test_two_options_at_once_are_wrong_usage(
        self, vedsess: Vedsess, memory: MemoryStore, three: list[str], left_out: str
    ) -> None:
        options = [option for option in ("--handle x", "--all-but x", "--everything") if option != left_out]
        assert vedsess("revoke", "alice", *" ".join(options).split()).exit_code == 2
        assert handles(memory, "alice") == set(three)


class TestExport:
    def test_all_that_is_kept_is_there_with_its_types(self, vedsess: Vedsess, memory: MemoryStore) -> None:
        values = {"cart": [1, "\x1b[2J"], "due": date(2026, 11, 23), "seen": {3, 1}, "price": Decimal("9.90")}
        handle = visit(memory, "alice", agent=AGENT, values=values)
        visit(memory, "bob", values={"a": "of bob"})
        result = vedsess("export", "alice")
        (only,) = json.loads(result.stdout)["sessions"]
        assert result.exit_code == 0
        assert (only["handle"], only["ip_address"]) == (handle, "192.0.2.7")
        assert only["values"] == {
            "cart": [1, "\x1b[2J"],
            "due": {"!date": "2026-11-23"},
            "seen": {"!set": [1, 3]},
            "price": {"!decimal": "9.90"},
        }
        assert "of bob" not in result.stdout
        assert "\x1b" not in result.stdout

    def test_members_of_enums_are_shown_by_name_without_their_class(
        self, vedsess: Vedsess, memory: MemoryStore
    ) -> None:
        manager = SessionManager(memory, Settings(secret_key=KEY), codec=JsonCodec(enums=[Colour]))
        session = run_blocking(manager.open())
        session.login("alice")
        session["likes"] = Colour.RED
        run_blocking(manager.commit(session))
        (only,) = json.loads(vedsess("export", "alice").stdout)["sessions"]
        assert only["values"] == {"likes": {"!enum": ["Colour", "RED"]}}

    @pytest.mark.parametrize("text", ["neither {JSON", "[" * 100_000])
    def test_what_another_codec_wrote_is_shown_as_text(self, text: str) -> None:
        assert AsStored().decode(text) == text

    def test_what_is_encrypted_is_opened_with_the_key_of_the_environment(
        self, vedsess: Vedsess, memory: MemoryStore
    ) -> None:
        visit(memory, "alice", values={"cart": "secret"}, encryption_key=CIPHER)
        (only,) = json.loads(vedsess("export", "alice", VEDSESS_ENCRYPTION_KEY=CIPHER).stdout)["sessions"]
        assert only["values"] == {"cart": "secret"}

    def test_without_that_key_nothing_is_handed_out_as_if_it_were_all(
        self, vedsess: Vedsess, memory: MemoryStore
    ) -> None:
        handle = visit(memory, "alice", values={"cart": "secret"}, encryption_key=CIPHER)
        result = vedsess("export", "alice")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "encryption_key is not set" in result.stderr
        assert handle in vedsess("sessions", "alice").stdout
        assert vedsess("revoke", "alice", "--handle", handle).exit_code == 0

    def test_a_value_that_cannot_be_read_is_named_and_the_others_are_printed(
        self, vedsess: Vedsess, memory: MemoryStore
    ) -> None:
        visit(memory, "alice", values={"cart": "secret", "other": "told"}, encryption_key=CIPHER)
        (key,) = run_blocking(settle(memory.records_of("alice", at=time.time())))
        record = memory.peek(key)
        assert record is not None
        damaged = {**record.fields, "cart": Field(Version(), record.values["cart"][:-8] + "AAAAAAAA")}
        memory._records[key] = record.replace(fields=damaged)
        result = vedsess("export", "alice", VEDSESS_ENCRYPTION_KEY=CIPHER)
        (only,) = json.loads(result.stdout)["sessions"]
        assert result.exit_code == 1
        assert only["values"] == {"other": "told"}
        assert result.stderr.startswith("Missing: ")
        assert "cart" in result.stderr

    def test_a_user_of_whom_nothing_is_kept_is_no_failure(self, vedsess: Vedsess, memory: MemoryStore) -> None:
        result = vedsess("export", "alice")
        assert (result.exit_code, json.loads(result.stdout)) == (0, {"user_id": "alice", "sessions": []})


class TestErase:
    def test_with_a_yes_nothing_is_left_of_the_user(self, vedsess: Vedsess, memory: MemoryStore) -> None:
        visit(memory, "alice", agent=AGENT, values={"cart": "full"})
        visit(memory, "bob")
        result = vedsess("erase", "alice", "--yes")
        assert (result.exit_code, result.stdout) == (0, "Erased of alice: 1 session.\n")
        assert json.loads(vedsess("export", "alice").stdout)["sessions"] == []
        assert len(handles(memory, "bob")) == 1

    def test_without_a_terminal_to_ask_on_it_does_nothing(self, vedsess: Vedsess, memory: MemoryStore) -> None:
        handle = visit(memory, "alice")
        result = vedsess("erase", "alice")
        assert result.exit_code == 2
        assert "give --yes" in result.stderr
        assert handles(memory, "alice") == {handle}

    @pytest.mark.parametrize(
        ("answer", "code", "said", "left"), [(b"y\n", 0, b"Erased of alice: 1 session.\n", 0), (b"n\n", 1, b"", 1)]
    )
    def test_on_a_terminal_it_asks_first(
        self, sqlite_url: str, tmp_path: Path, answer: bytes, code: int, said: bytes, left: int
    ) -> None:
        environ = {"VEDSESS_DATABASE_URL": sqlite_url}
        with app(nobody(), sqlite_url, storage="database") as manager:
            log_in(manager, "alice")
            ours, theirs = os.openpty()
            try:
                os.write(ours, answer)
                command = [sys.executable, "-m", "vedsess_middleware.console", "erase", "alice"]
                env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
                done = subprocess.run(
                    command, cwd=tmp_path, env=env, stdin=theirs, capture_output=True, timeout=60, check=False
                )
            finally:
                os.close(ours)
                os.close(theirs)
            assert (done.returncode, done.stdout) == (code, said)
            assert b"Erase all sessions of alice?" in done.stderr
            assert len(run_blocking(manager.sessions("alice"))) == left


class TestUsersInRealStores:
    """The same over Redis and a database, each of which has to be told."""

    def test_what_one_command_lists_another_hands_out_and_a_third_ends(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        environ = variables(valkey.url, database_url)
        with app(valkey.url, database_url) as manager:
            cookies = [write(manager, log_in(manager, "alice"), cart="full") for _ in range(2)]
        listed = json.loads(vedsess("sessions", "alice", "--json", **environ).stdout)["sessions"]
        exported = json.loads(vedsess("export", "alice", **environ).stdout)["sessions"]
        assert len(listed) == len(cookies)
        assert [each["values"] for each in exported] == [{"cart": "full"}] * 2
        result = vedsess("revoke", "alice", "--all-but", listed[0]["handle"], **environ)
        assert result.stdout == "Ended of alice: 1 session.\n"
        assert rows_of(vedsess("status", **environ))["sql"]["rows that Redis may not know"] == "0"
        for where in (valkey.url, nobody()):
            with app(where, database_url) as later:
                assert sorted(run_blocking(later.open(cookie)).is_new for cookie in cookies) == [False, True]

    @pytest.mark.parametrize("command", [["revoke", "alice", "--everything"], ["erase", "alice", "--yes"]])
    def test_a_user_is_cut_off_in_both(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str, command: list[str]
    ) -> None:
        with app(valkey.url, database_url) as manager:
            cookie, other = log_in(manager, "alice"), log_in(manager, "bob")
        environ = variables(valkey.url, database_url)
        result = vedsess(*command, **environ)
        assert (result.exit_code, result.stdout.partition("of")[2]) == (0, " alice: 1 session.\n")
        assert rows_of(vedsess("status", **environ))["sql"]["rows that Redis may not know"] == "0"
        for where in (valkey.url, nobody()):
            with app(where, database_url) as later:
                assert run_blocking(later.open(cookie)).is_new
                assert not run_blocking(later.open(other)).is_new

    def test_while_redis_is_away_the_database_is_told_and_redis_hears_of_it_later(
        self, vedsess: Vedsess, valkey: RedisServer, database_url: str
    ) -> None:
        with app(valkey.url, database_url) as manager:
            cookie = log_in(manager, "alice")
        result = vedsess("revoke", "alice", **variables(nobody(), database_url))
        assert (result.exit_code, result.stdout) == (0, "Ended of alice: 1 session.\n")
        with app(valkey.url, database_url) as later:
            assert run_blocking(later.open(cookie)).is_new

    def test_without_any_store_it_is_one_line_and_a_failure(self, vedsess: Vedsess) -> None:
        for command in OF_USERS:
            result = vedsess(*command.split(), "alice", **variables(nobody(), "sqlite:////nowhere/at/all.db"))
            assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1), result.output
            assert result.stderr.endswith("; `vedsess check` says why\n")

    def test_a_driver_for_event_loops_is_used_on_one(
        self, vedsess: Vedsess, valkey: RedisServer, postgres_url: str
    ) -> None:
        with app(valkey.url, postgres_url) as manager:
            log_in(manager, "alice")
        environ = variables(valkey.url, postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
        assert len(json.loads(vedsess("sessions", "alice", "--json", **environ).stdout)["sessions"]) == 1
        assert vedsess("revoke", "alice", **environ).stdout == "Ended of alice: 1 session.\n"


class TestSqlInit:
    @pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])
    def test_the_table_is_made_once_and_kept(self, vedsess: Vedsess, tmp_path: Path, driver: str) -> None:
        url = f"{driver}:///{tmp_path}/sessions.db"
        for _ in range(2):
            result = vedsess("sql-init", VEDSESS_DATABASE_URL=url)
            assert result.exit_code == 0
            assert result.stdout == f"In {url}: vedsess_facts, vedsess_sessions, vedsess_users.\n"
        assert _tables(tmp_path / "sessions.db") == set(metadata.tables)

    def test_the_password_in_the_url_is_not_shown(self, vedsess: Vedsess, postgres_url: str) -> None:
        url = postgres_url.replace("postgres@", f"postgres:{PASSWORD}@")
        result = vedsess("sql-init", VEDSESS_DATABASE_URL=url)
        assert result.exit_code == 0
        assert PASSWORD not in result.output
        assert "***" in result.output

    def test_the_printed_statements_make_the_table(self, vedsess: Vedsess, tmp_path: Path) -> None:
        printed = vedsess("sql-init", "--print", VEDSESS_DATABASE_URL=f"sqlite:///{tmp_path}/none.db").stdout
        assert not (tmp_path / "none.db").exists()
        with sqlite3.connect(tmp_path / "made.db") as database:
            database.executescript(printed)
        database.close()
        assert _tables(tmp_path / "made.db") == set(metadata.tables)

    @pytest.mark.parametrize(
        ("scheme", "words"), [("postgresql", "DOUBLE PRECISION"), ("mysql", "LONGTEXT"), ("mariadb", "DATETIME(3)")]
    )
    def test_they_are_printed_in_the_words_of_each_database_without_asking_it(
        self, vedsess: Vedsess, scheme: str, words: str
    ) -> None:
        url = f"{scheme}://user:{PASSWORD}@127.0.0.1:{free_port()}/name"
        result = vedsess("sql-init", "--print", VEDSESS_DATABASE_URL=url)
        assert result.exit_code == 0
        assert words in result.stdout
        statements = [line for line in result.stdout.splitlines() if line.startswith("CREATE TABLE")]
        assert [line.split()[2] for line in statements] == sorted(metadata.tables)
        assert PASSWORD not in result.stdout


class TestAsProcesses:
    """Once each, as installed."""

    def test_keygen(self) -> None:
        assert process("keygen").stdout.startswith("VEDSESS_SECRET_KEY=")

    def test_every_command_that_asks_the_stores(self, both: dict[str, str], tmp_path: Path) -> None:
        for command in ("sql-init", "check", "stats", "cleanup", "maintain", "status"):
            result = process(command, cwd=tmp_path, VEDSESS_SECRET_KEY=KEY, **both)
            assert (result.returncode, result.stderr) == (0, ""), command
            assert "\x1b" not in result.stdout
            assert KEY not in result.stdout

    def test_help_names_the_exit_codes(self) -> None:
        result = process("--help")
        assert result.returncode == 0
        assert "Exit codes: 0" in result.stdout

    def test_a_broken_setting_leaves_with_two(self) -> None:
        result = process("stats", REDIS_URL="redis://a:6379/0", REDIS_HOST="b")
        assert result.returncode == 2
        assert "REDIS_URL and REDIS_HOST resolve to different values" in result.stderr


def test_a_frozen_redis_is_told_and_does_not_hold_the_command(
    vedsess: Vedsess, fresh_redis: RedisFactory, sqlite_url: str
) -> None:
    server = fresh_redis()
    server.freeze()
    result = vedsess("stats", REDIS_URL=server.url, VEDSESS_DATABASE_URL=sqlite_url)
    assert "no answer from" in result.stdout
    assert "active sessions" in result.stdout


def _tables(path: Path) -> set[str]:
    database = sqlite3.connect(path)
    try:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        database.close()


def expire(database_url: str, user: str) -> None:
    """Let the rows of a user have expired long ago."""
    engine = sync_engine(database_url)
    with engine.begin() as connection:
        connection.execute(update(sessions).where(sessions.c.user_id == user).values(expires_at=instant(978_307_200.0)))
    engine.dispose()
