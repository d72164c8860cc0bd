"""`vedsess check` against real servers: what it finds, and the mend that it names."""

import json
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from tests.servers import PostgresServer, RedisFactory, RedisServer, free_port
from vedsess_middleware import Settings, StoreMisconfigured, run_blocking
from vedsess_middleware.build import build_manager
from vedsess_middleware.console.check import check
from vedsess_middleware.console.check_session import SessionCheck
from vedsess_middleware.console.cli import cli
from vedsess_middleware.console.steps import Checklist, Explanation, Finding, Step, StepFailed
from vedsess_middleware.console.stores import run
from vedsess_middleware.manager import manager
from vedsess_middleware.sealing import PlainSealer
from vedsess_middleware.stores.contract import Owner
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.sql import SQLStore

KEY = "nfa1nKi7kKZyK8Ej0EMyl5eNDVkpH9i7Bwfgx5bZ9pXE9Tuy2Q0aVg"
CIPHER = "Yk3vQ8mXw2Lr7Tn5Bz9Hd4Gs6Jf1Pc0AoEuIyWqRtSxMv"
PASSWORD = "sesame-8c1d"  # to be found nowhere
# Of nobody: `localhost` and 127.0.0.1, good for a hundred years.
CERTIFICATE = """
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUd+1Qvx4IjluTQU42swwr6eKHGG8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzIyMjYwMloYDzIxMjYxMDMw
MjIyNjAyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQ/LUt6WjNau3L/6EpNqu7/rDaMSasybqfUVzE33ahBa8z2CjPLhMir
Rgb+RycKa+W83mSsTW+OHlwhjnSZkb/ro28wbTAdBgNVHQ4EFgQUpea0xTm/6ylL
RIiyF/cBKOvzuEAwHwYDVR0jBBgwFoAUpea0xTm/6ylLRIiyF/cBKOvzuEAwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAN7Np75P2adND0Najnv5+pYrnh1M0ofDgUuLUxDD1oOLAiAJ
PKgswqfQiMDhjRziSsSv8vbWlqKzREOz92HOorEqIQ==
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQguzzx/T3D1spq4HA+
2PcFdJBQIyykrDU/n4/YrtaIirOhRANCAAQ/LUt6WjNau3L/6EpNqu7/rDaMSasy
bqfUVzE33ahBa8z2CjPLhMirRgb+RycKa+W83mSsTW+OHlwhjnSZkb/r
-----END PRIVATE KEY-----
"""

Talk = Callable[[socket.socket], None]


def checked(**environ: str) -> list[Step]:
    """All steps with these variables."""
    settings = Settings.from_env({"VEDSESS_SECRET_KEY": KEY, **environ})
    return run(settings, lambda is_async: check(settings, is_async=is_async))


def step(steps: Sequence[Step], area: str, name: str) -> Step:
    """The one step of that name."""
    (found,) = (each for each in steps if (each.area, each.name) == (area, name))
    return found


def first_failure(steps: Sequence[Step]) -> Step:
    """Where it went wrong; everything after it in its area, and the session, has to be skipped."""
    failed = [each for each in steps if each.outcome == "failed"]
    assert len(failed) == 1, [each for each in steps if each.outcome != "ok"]
    after = [each for each in steps[steps.index(failed[0]) + 1 :] if each.area in (failed[0].area, "session")]
    assert {each.outcome for each in after} <= {"skipped"}
    assert all(each.detail == f"because of: {failed[0].area}, {failed[0].name}" for each in after)
    return failed[0]


@contextmanager
def listening(talk: Talk) -> Iterator[int]:
    """The port of something that is no Redis and no database."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            talk(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """The port of something that speaks TLS, with a certificate that nobody knows."""
    (tmp_path / "tls.pem").write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem")

    def talk(connection: socket.socket) -> None:
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()

    with listening(talk) as port:
        yield port


class TestHealthy:
    @pytest.mark.parametrize("database", ["sqlite", "sqlite+aiosqlite"])
    def test_every_step_holds_on_every_redis(self, redis_server: RedisServer, tmp_path: Path, database: str) -> None:
        steps = checked(REDIS_URL=redis_server.url, VEDSESS_DATABASE_URL=f"{database}:///{tmp_path}/s.db")
        assert {each.outcome for each in steps} <= {"ok", "note", "warning"}
        assert step(steps, "Redis", "version").detail == redis_server.name
        assert step(steps, "session", "load").detail == "served by redis"
        assert step(steps, "session", "copy in SQL").detail == "equal"
        assert step(steps, "session", "end").detail == "redis and sql"

    @pytest.mark.parametrize("driver", ["postgresql", "postgresql+asyncpg"])
    def test_every_step_holds_on_postgresql(self, valkey: RedisServer, postgres_url: str, driver: str) -> None:
        url = postgres_url.replace("postgresql", driver, 1)
        steps = checked(REDIS_URL=valkey.url, VEDSESS_DATABASE_URL=url, VEDSESS_REDIS_TIMEOUT="2")
        assert {each.outcome for each in steps} <= {"ok", "note"}
        assert step(steps, "SQL", "shared").detail == "hosts can share it"

    def test_nothing_is_left_behind(self, valkey: RedisServer, postgres_url: str) -> None:
        checked(REDIS_URL=valkey.url, VEDSESS_DATABASE_URL=postgres_url)
        with psycopg.connect(postgres_url) as connection:
            assert connection.execute("SELECT count(*) FROM vedsess_sessions").fetchone() == (0,)
        left = sorted(valkey.cli("KEYS", "*"))
        assert left.pop(0) == "vedsess:epoch"
        assert [name[: len("vedsess:session:")] for name in left] == ["vedsess:session:"]
        assert valkey.cli("HKEYS", left[0]) == ["gone"]
        assert valkey.cli("TTL", left[0]) <= 60

    def test_other_sessions_keep_their_indexes(self, valkey: RedisServer, sqlite_url: str) -> None:
        manager = build_manager(Settings(secret_key=KEY, redis_url=valkey.url, database_url=sqlite_url), is_async=False)
        session = run_blocking(manager.open())
        session.login("alice")
        run_blocking(manager.commit(session))
        manager.close()
        checked(REDIS_URL=valkey.url, VEDSESS_DATABASE_URL=sqlite_url)
        assert valkey.cli("ZCARD", "vedsess:session_index:all") == 1
        assert valkey.cli("TTL", "vedsess:session_index:all") > 600_000

    def test_the_tables_are_said_to_be_there_or_to_be_made(self, sqlite_url: str) -> None:
        details = [step(checked(VEDSESS_DATABASE_URL=sqlite_url), "SQL", "tables").detail for _ in range(2)]
        assert details == ["not all was there: made now", "all are there"]

    def test_a_file_of_one_host_is_a_warning(self, sqlite_url: str) -> None:
        shared = step(checked(VEDSESS_DATABASE_URL=sqlite_url), "SQL", "shared")
        assert shared.outcome == "warning"
        assert "PostgreSQL" in shared.mend

    @pytest.mark.parametrize("environ", [{}, {"REDIS_URL": "redis://127.0.0.1:1/0", "SESSION_STORAGE": "database"}])
    def test_without_redis_the_session_lives_in_sql(self, sqlite_url: str, environ: dict[str, str]) -> None:
        steps = checked(VEDSESS_DATABASE_URL=sqlite_url, **environ)
        assert step(steps, "Redis", "connect").outcome == "note"
        assert step(steps, "session", "load").detail == "served by sql"
        assert step(steps, "session", "copy in SQL").detail == "there is SQL only"
        assert not [each for each in steps if each.outcome == "failed"]

    def test_without_a_mirror_there_is_no_copy_and_a_restart_is_warned_of(
        self, valkey: RedisServer, sqlite_url: str
    ) -> None:
        steps = checked(REDIS_URL=valkey.url, VEDSESS_DATABASE_URL=sqlite_url, VEDSESS_MIRROR="off")
        assert step(steps, "session", "copy in SQL").outcome == "note"
        assert step(steps, "Redis", "persistence").outcome == "warning"
        assert not [each for each in steps if each.outcome == "failed"]


class TestRedis:
    """Each thing that can be wrong with it."""

    @pytest.fixture
    def locked(self, fresh_redis: RedisFactory) -> RedisServer:
        """A Valkey with a password."""
        return fresh_redis("valkey-9.1", "--requirepass", PASSWORD)

    def failure(self, url: str, **environ: str) -> Step:
        steps = checked(REDIS_URL=url, VEDSESS_DATABASE_URL="sqlite:///:memory:", **environ)
        assert PASSWORD not in repr(steps)
        return first_failure(steps)

    def test_nobody_listens(self) -> None:
        failed = self.failure(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
        assert failed.name == "connect"
        assert failed.detail.startswith("nobody listens at redis://:***@127.0.0.1:")
        assert failed.mend == "start Redis there, or correct REDIS_URL"

    def test_the_variables_at_fault_are_named(self) -> None:
        settings = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(free_port())}
        failed = first_failure(checked(VEDSESS_DATABASE_URL="sqlite:///:memory:", **settings))
        assert failed.mend == "start Redis there, or correct REDIS_HOST, REDIS_PORT"

    def test_the_host_is_unknown(self) -> None:
        failed = self.failure("redis://nosuch.invalid:6379/0")
        assert (failed.name, failed.mend) == ("connect", "correct the host in REDIS_URL")

    def test_there_is_no_socket(self, tmp_path: Path) -> None:
        failed = self.failure(f"unix://{tmp_path}/redis.sock")
        assert failed.detail.startswith("there is no socket at unix://")

    def test_it_hangs(self, fresh_redis: RedisFactory) -> None:
        server = fresh_redis()
        server.freeze()
        failed = self.failure(server.url)
        assert failed.name == "connect"
        assert failed.detail.endswith("within 0.2 s")
        assert "VEDSESS_REDIS_TIMEOUT" in failed.mend

    def test_it_wants_a_password(self, locked: RedisServer) -> None:
        failed = self.failure(locked.url)
        assert failed.name == "authenticate"
        assert failed.detail == "Redis wants a password, and REDIS_URL gives none"
        assert failed.mend.startswith("set REDIS_PASSWORD")

    def test_the_password_is_wrong(self, locked: RedisServer) -> None:
        failed = self.failure(locked.url.replace("redis://", "redis://:wrong@"))
        assert failed.name == "authenticate"
        assert failed.detail == "Redis refused the user name or the password"

    def test_the_right_password_passes(self, locked: RedisServer) -> None:
        steps = checked(REDIS_URL=locked.url, REDIS_PASSWORD=PASSWORD, VEDSESS_DATABASE_URL="sqlite:///:memory:")
        assert step(steps, "Redis", "authenticate").outcome == "ok"
        assert PASSWORD not in repr(steps)

    def test_it_has_no_password_and_one_is_given(self, valkey: RedisServer) -> None:
        failed = self.failure(valkey.url.replace("redis://", f"redis://:{PASSWORD}@"))
        assert failed.name == "authenticate"
        assert failed.detail == "a password is given, and this Redis has none"

    def test_it_has_no_such_database(self, valkey: RedisServer) -> None:
        failed = self.failure(valkey.url.removesuffix("/0") + "/99")
        assert failed.name == "authenticate"
        assert failed.detail == "this Redis has no database of that number"

    def test_the_user_may_not_read_our_keys(self, redis_server: RedisServer, acl: Callable[..., str]) -> None:
        failed = self.failure(acl(redis_server, "~other:*", "+@all"))
        assert failed.name == "permission"
        assert "~vedsess:* +@read +@write +@scripting" in failed.mend

    def test_the_user_may_not_run_scripts(self, redis_server: RedisServer, acl: Callable[..., str]) -> None:
        failed = self.failure(acl(redis_server, "~vedsess:*", "+@read", "+@write"))
        assert (failed.area, failed.name) == ("session", "load")
        assert failed.detail == "served by sql instead of redis"
        assert failed.mend.startswith("this Redis user may not do what sessions need: ACL SETUSER")

    def test_the_mend_for_a_permission_is_enough(self, redis_server: RedisServer, acl: Callable[..., str]) -> None:
        poor = acl(redis_server, "~other:*", "+@all")
        _, _, name, *rules = self.failure(poor).mend.split()
        redis_server.cli("ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", *rules)
        steps = checked(REDIS_URL=poor, VEDSESS_DATABASE_URL="sqlite:///:memory:")
        assert not [each for each in steps if each.outcome == "failed"]
        assert step(steps, "Redis", "version").outcome == "ok"

    def test_the_commands_that_the_store_needs_are_enough(
        self, redis_server: RedisServer, acl: Callable[..., str], sqlite_url: str
    ) -> None:
        hashes = "+hset +hget +hmget +hgetall +hdel +del +exists +expire +pexpire +pttl +set +get +scan"
        rules = f"~vedsess:* +eval +evalsha {hashes} +zadd +zrem +zrange +zscan +zscore +zremrangebyscore"
        steps = checked(REDIS_URL=acl(redis_server, *rules.split()), VEDSESS_DATABASE_URL=sqlite_url)
        assert not [each for each in steps if each.outcome == "failed"]

    def test_one_command_that_is_missing_late_is_found_too(
        self, redis_server: RedisServer, acl: Callable[..., str]
    ) -> None:
        failed = self.failure(acl(redis_server, "~vedsess:*", "+@all", "-zrem"))
        assert failed.area == "session"
        assert failed.mend.startswith("this Redis user may not do what sessions need")

    def test_a_user_who_may_not_ask_for_facts_is_no_flaw(
        self, redis_server: RedisServer, acl: Callable[..., str]
    ) -> None:
        steps = checked(
            REDIS_URL=acl(redis_server, "~vedsess:*", "+@all", "-@dangerous"),
            VEDSESS_DATABASE_URL="sqlite:///:memory:",
        )
        assert {step(steps, "Redis", name).outcome for name in ("version", "memory", "persistence")} == {"note"}
        assert not [each for each in steps if each.outcome == "failed"]

    @pytest.mark.parametrize("talks_first", [False, True])
    def test_something_else_answers(self, talks_first: bool) -> None:
        def talk(connection: socket.socket) -> None:
            if not talks_first:
                connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            while connection.recv(1000):
                pass

        with listening(talk) as port:
            failed = self.failure(f"redis://127.0.0.1:{port}/0")
        assert failed.name == "connect"
        assert failed.detail.endswith("is not Redis")

    def test_its_certificate_is_not_known(self, tls_port: int) -> None:
        failed = self.failure(f"rediss://127.0.0.1:{tls_port}/0")
        assert failed.name == "connect"
        assert "TLS certificate" in failed.detail
        assert "ssl_ca_certs" in failed.mend

    def test_it_speaks_tls_and_we_do_not(self, tls_port: int) -> None:
        failed = self.failure(f"redis://127.0.0.1:{tls_port}/0")
        assert failed.name == "connect"
        assert "write rediss://" in failed.mend

    def test_we_speak_tls_and_it_does_not(self) -> None:
        def talk(connection: socket.socket) -> None:
            connection.recv(1000)
            connection.sendall(b"-ERR unknown command\r\n")
            while connection.recv(1000):
                pass

        with listening(talk) as port:
            failed = self.failure(f"rediss://127.0.0.1:{port}/0")
        assert failed.detail.endswith("speaks no TLS")

    def test_tls_to_a_port_without_it_may_be_the_reason_of_silence(self, valkey: RedisServer) -> None:
        failed = self.failure(valkey.url.replace("redis://", "rediss://"))
        assert "A port without TLS does not answer rediss://" in failed.mend

    def test_it_is_a_replica(self, valkey: RedisServer, fresh_redis: RedisFactory) -> None:
        replica = fresh_redis("valkey-9.1", "--replicaof", f"127.0.0.1 {valkey.port}")
        failed = self.failure(replica.url)
        assert failed.area == "session"
        assert failed.mend.endswith("point REDIS_URL at the primary")

    def test_it_is_full(self, fresh_redis: RedisFactory) -> None:
        server = fresh_redis("valkey-9.1", "--maxmemory", "1", "--maxmemory-policy", "noeviction")
        steps = checked(REDIS_URL=server.url, VEDSESS_DATABASE_URL="sqlite:///:memory:")
        assert step(steps, "Redis", "memory").outcome == "warning"
        assert "maxmemory" in first_failure(steps).mend

    @pytest.mark.parametrize(
        ("policy", "outcome"), [("noeviction", "warning"), ("allkeys-lru", "warning"), ("volatile-ttl", "ok")]
    )
    def test_what_it_evicts_is_looked_at(self, fresh_redis: RedisFactory, policy: str, outcome: str) -> None:
        server = fresh_redis("valkey-9.1", "--maxmemory", "100mb", "--maxmemory-policy", policy)
        steps = checked(REDIS_URL=server.url, VEDSESS_DATABASE_URL="sqlite:///:memory:")
        assert step(steps, "Redis", "memory").outcome == outcome

    @pytest.mark.parametrize(
        ("options", "outcome"),
        [(("--appendonly", "yes"), "ok"), (("--save", "60", "1"), "ok"), ((), "note")],
        ids=["append-only", "snapshots", "nothing"],
    )
    def test_what_it_keeps_is_told(self, fresh_redis: RedisFactory, options: tuple[str, ...], outcome: str) -> None:
        steps = checked(REDIS_URL=fresh_redis("redis-6.2", *options).url, VEDSESS_DATABASE_URL="sqlite:///:memory:")
        assert step(steps, "Redis", "persistence").outcome == outcome

    @pytest.mark.parametrize(
        ("name", "value"), [("VEDSESS_REDIS_TIMEOUT", "0.00001"), ("VEDSESS_PROBE_TIMEOUT", "0.00001")]
    )
    def test_a_distant_one_needs_more_patience(self, valkey: RedisServer, name: str, value: str) -> None:
        steps = checked(REDIS_URL=valkey.url, VEDSESS_DATABASE_URL="sqlite:///:memory:", **{name: value})
        assert any(name in each.mend for each in steps)


@pytest.fixture
def acl() -> Iterator[Callable[..., str]]:
    """Makes a user with these rules, and returns the URL for it."""
    made: list[RedisServer] = []

    def make(server: RedisServer, *rules: str) -> str:
        made.append(server)
        server.cli("ACL", "SETUSER", "poor", "reset", "on", f">{PASSWORD}", *rules)
        return server.url.replace("redis://", f"redis://poor:{PASSWORD}@")

    yield make
    for server in made:
        server.cli("ACL", "DELUSER", "poor")


class TestSQL:
    """Each thing that can be wrong with it."""

    def failure(self, url: str) -> Step:
        steps = checked(VEDSESS_DATABASE_URL=url)
        assert PASSWORD not in repr(steps)
        return first_failure(steps)

    def test_the_folder_is_missing(self, tmp_path: Path) -> None:
        failed = self.failure(f"sqlite:///{tmp_path}/no/s.db")
        assert failed.name == "connect"
        assert failed.mend.startswith("make its folder and let this user write there")

    def test_the_file_is_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "s.db").write_text("not a database, and long enough to be looked at" * 100)
        assert self.failure(f"sqlite:///{tmp_path}/s.db").detail.endswith("is no SQLite database")

    def test_the_file_is_read_only(self, tmp_path: Path) -> None:
        (tmp_path / "s.db").touch()
        failed = self.failure(f"sqlite:///file:{tmp_path}/s.db?mode=ro&uri=true")
        assert "let this user write to the file and its folder" in failed.mend

    def test_nobody_listens(self) -> None:
        failed = self.failure(f"postgresql://user:{PASSWORD}@127.0.0.1:{free_port()}/name")
        assert failed.name == "connect"
        assert failed.detail.startswith("nobody listens at postgresql://user:***@")
        assert failed.mend == "start the database there, or correct VEDSESS_DATABASE_URL"

    def test_the_host_is_unknown(self) -> None:
        assert self.failure("postgresql://user@nosuch.invalid/name").mend.startswith("correct the host")

    def test_it_hangs(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            failed = self.failure(f"postgresql://user@127.0.0.1:{silent.getsockname()[1]}/name")
        assert failed.detail.endswith("within 1 s")

    def test_the_user_is_unknown(self, postgres_url: str) -> None:
        failed = self.failure(postgres_url.replace("postgres@", f"nobody:{PASSWORD}@"))
        assert failed.detail == "the database does not know this user"

    def test_the_password_is_wrong(self, postgres_url: str, locked_user: str) -> None:
        failed = self.failure(postgres_url.replace("postgres@", f"{locked_user}:{PASSWORD}@"))
        assert failed.detail == "the database refused the user name or the password"

    def test_the_database_is_missing(self, postgres_url: str) -> None:
        failed = self.failure(f"{postgres_url}_not")
        assert failed.name == "connect"
        assert failed.detail.endswith("has no such database")
        assert "CREATE DATABASE" in failed.mend

    def test_the_user_may_not_make_the_table(self, postgres_url: str) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("CREATE ROLE guest LOGIN")
        try:
            failed = self.failure(postgres_url.replace("postgres@", "guest@"))
        finally:
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                connection.execute("DROP ROLE guest")
        assert failed.name == "tables"
        assert "vedsess sql-init" in failed.mend

    def test_the_mend_for_a_permission_is_enough_and_one_table_less_is_not(self, postgres_url: str) -> None:
        run_blocking(self.make_tables(postgres_url))
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("CREATE ROLE guest LOGIN")
            try:
                connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON vedsess_facts, vedsess_sessions TO guest")
                failed = self.failure(postgres_url.replace("postgres@", "guest@"))
                grant = failed.mend.partition("then ")[2]
                connection.execute(f"{grant} TO guest".encode())
                steps = checked(VEDSESS_DATABASE_URL=postgres_url.replace("postgres@", "guest@"))
            finally:
                connection.execute("DROP OWNED BY guest")
                connection.execute("DROP ROLE guest")
        assert failed.name == "write"
        assert not [each for each in steps if each.outcome == "failed"]

    async def make_tables(self, url: str) -> None:
        store = SQLStore.from_url(url, is_async=False)
        await store.create_tables()
        await store.close()

    def test_a_missing_driver_is_a_configuration_error(self) -> None:
        result = CliRunner().invoke(
            cli, ["check"], env={"VEDSESS_SECRET_KEY": KEY, "VEDSESS_DATABASE_URL": "mysql+cymysql://u@h/d"}
        )
        assert result.exit_code == 2
        assert "database_url" in result.stderr


@pytest.fixture
def locked_user(postgres: PostgresServer) -> Iterator[str]:
    """A PostgreSQL user with a password, in a cluster that trusts all others."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        (rules,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        before = Path(rules).read_text()
        Path(rules).write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{before}")
        connection.execute("CREATE ROLE locked LOGIN PASSWORD 'another'")
        connection.execute("SELECT pg_reload_conf()")
        yield "locked"
        Path(rules).write_text(before)
        connection.execute("DROP ROLE locked")
        connection.execute("SELECT pg_reload_conf()")


class TestCommand:
    def run(self, *arguments: str, **environ: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["check", *arguments], env={"VEDSESS_SECRET_KEY": KEY, **environ})
        return result.exit_code, result.output

    def test_people_see_settings_with_their_origin_and_every_step(self, valkey: RedisServer, sqlite_url: str) -> None:
        code, output = self.run(REDIS_URL=valkey.url, VEDSESS_DATABASE_URL=sqlite_url)
        lines = [" ".join(line.split()) for line in output.splitlines()]
        assert code == 0
        assert "secret_key *** (VEDSESS_SECRET_KEY)" in lines
        assert f"redis_url {valkey.url} (REDIS_URL)" in lines
        assert "cookie_name vedsess (default)" in lines
        assert KEY not in output
        assert [line for line in lines if line.startswith("update ok served by redis")]

    def test_a_failure_is_shown_with_its_mend_and_exits_with_one(self, sqlite_url: str) -> None:
        url = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
        code, output = self.run(REDIS_URL=url, VEDSESS_DATABASE_URL=sqlite_url)
        assert code == 1
        assert "mend: start Redis there, or correct REDIS_URL\n" in output
        assert "because of: Redis, connect\n" in output
        assert PASSWORD not in output

    def test_programs_read_the_same(self, valkey: RedisServer, sqlite_url: str) -> None:
        code, output = self.run("--json", REDIS_URL=valkey.url, VEDSESS_DATABASE_URL=sqlite_url)
        found = json.loads(output)
        assert (code, found["ok"]) == (0, True)
        assert found["settings"]["secret_key"] == {"value": "***", "source": "VEDSESS_SECRET_KEY"}
        assert found["steps"][0].keys() == {"area", "name", "outcome", "detail", "mend", "milliseconds"}
        assert [each["outcome"] for each in found["steps"] if each["area"] == "session"] == ["ok", "note", *["ok"] * 5]

    def test_programs_are_told_of_a_failure(self, tmp_path: Path) -> None:
        code, output = self.run("--json", VEDSESS_DATABASE_URL=f"sqlite:///{tmp_path}/no/s.db")
        assert (code, json.loads(output)["ok"]) == (1, False)


class Forgetful(MemoryStore):
    """Takes everything and remembers nothing."""

    def load(self, key: str, **_: object) -> None:
        return None

    def peek(self, key: str) -> None:
        return None


class Undying(MemoryStore):
    """Ends nothing."""

    def end(self, keys: Sequence[str], **_: object) -> list[str]:
        return list(keys)


class Idle(MemoryStore):
    """Is never brought up to date."""

    def mirror(self, key: str, record: Record, *, before: Record | None = None) -> Record:
        return record

    def mirror_all(self, records: Mapping[str, Record]) -> dict[str, Record]:
        return dict(records)


class Listing(MemoryStore):
    """Still names sessions that are over."""

    def records_of(self, owner: str, *, at: float, by: Owner = "user") -> dict[str, Record]:
        return {"k": Record.new(at=at, idle_timeout=1.0, deadline_at=at + 1.0)}


class TestSession:
    """A store that does not keep its contract is found out."""

    @pytest.mark.parametrize(
        ("primary", "secondary", "name", "detail"),
        [
            (Forgetful(), Forgetful(counts="s"), "load", "the session came back without what was written"),
            (MemoryStore(), Idle(counts="s"), "copy in SQL", "SQL has no equal copy of the session"),
            (Undying(), MemoryStore(counts="s"), "end", "the session is still there after its logout"),
            (MemoryStore(), Undying(counts="s"), "end", "memory still has the session after its logout"),
            (Listing(), MemoryStore(counts="s"), "indexes", "an index still names the session after its logout"),
        ],
    )
    def test_each_broken_promise_has_its_words(
        self, primary: MemoryStore, secondary: MemoryStore, name: str, detail: str
    ) -> None:
        checklist = Checklist("session", lambda error: Explanation("", str(error), ""))
        store = FailoverStore(primary, secondary)
        run_blocking(SessionCheck(Settings(secret_key=KEY), store, None, []).run(checklist))
        failed = first_failure(checklist.steps)
        assert (failed.name, failed.detail) == (name, detail)


class TestEncryption:
    """What a session of the app would look like in the stores."""

    def finding(self, store: MemoryStore, **options: Any) -> Step:
        checklist = Checklist("session", lambda error: Explanation("", str(error), ""))
        run_blocking(SessionCheck(Settings(secret_key=KEY, **options), store, None, []).run(checklist))
        return step(checklist.steps, "session", "encryption")

    def test_without_a_key_there_is_none(self) -> None:
        found = self.finding(MemoryStore())
        assert (found.outcome, found.detail) == ("note", "none: values are stored as they are")

    @pytest.mark.parametrize(
        ("keys", "detail"), [([CIPHER], "AES-256-GCM"), ([CIPHER, KEY[::-1]], "AES-256-GCM with the first of 2 keys")]
    )
    def test_with_one_it_has_been_looked_at(self, keys: list[str], detail: str) -> None:
        found = self.finding(MemoryStore(), encryption_key=keys)
        assert (found.outcome, found.detail) == ("ok", detail)

    def test_that_plain_values_are_believed_is_a_warning(self) -> None:
        found = self.finding(MemoryStore(), encryption_key=CIPHER, encryption_accepts_plain=True)
        assert found.outcome == "warning"
        assert found.mend.startswith("unset VEDSESS_ENCRYPTION_ACCEPTS_PLAIN when")

    def test_a_value_that_lies_there_as_it_is_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manager, "field_sealer", lambda **options: PlainSealer())
        found = self.finding(MemoryStore(), encryption_key=CIPHER)
        assert (found.outcome, found.detail) == ("failed", "the session is not in the store as it should be, encrypted")

    def test_so_does_one_that_is_not_there(self) -> None:
        assert self.finding(Forgetful(), encryption_key=CIPHER).outcome == "failed"

    def test_every_step_holds_with_it_in_both_stores(self, valkey: RedisServer, sqlite_url: str) -> None:
        environ = {"REDIS_URL": valkey.url, "VEDSESS_DATABASE_URL": sqlite_url, "VEDSESS_ENCRYPTION_KEY": CIPHER}
        steps = checked(**environ)
        assert not [each for each in steps if each.outcome == "failed"]
        assert step(steps, "session", "encryption").detail == "AES-256-GCM"
        assert step(steps, "session", "copy in SQL").detail == "equal"
        assert CIPHER not in repr(steps)

    def test_a_library_that_is_missing_is_told_before_anybody_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
        asked: list[socket.socket] = []
        with listening(asked.append) as port:
            environ = {"VEDSESS_SECRET_KEY": KEY, "VEDSESS_ENCRYPTION_KEY": CIPHER}
            environ |= {"REDIS_URL": f"redis://127.0.0.1:{port}", "VEDSESS_DATABASE_URL": "sqlite:///:memory:"}
            result = CliRunner().invoke(cli, ["check"], env=environ)
        assert (result.exit_code, result.stdout, asked) == (2, "", [])
        assert result.stderr.startswith("Error: encryption_key: ")
        assert "pip install 'vedsess-middleware[crypto]'" in result.stderr


class TestChecklist:
    def test_a_step_that_saw_something_wrong_fails_with_its_own_mend(self) -> None:
        async def wrong() -> Finding:
            raise StepFailed("seen", "mended so")

        checklist = Checklist("area", lambda error: Explanation("", "", ""))
        run_blocking(checklist.run("one", wrong))
        (only,) = checklist.steps
        assert (only.outcome, only.detail, only.mend) == ("failed", "seen", "mended so")
        assert checklist.blocked == "area, one"

    def test_an_error_that_nobody_knows_is_not_hidden(self) -> None:
        async def broken() -> Finding:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run_blocking(Checklist("area", lambda error: Explanation("", "", "")).run("one", broken))

    def test_the_error_of_a_store_is_put_into_words(self) -> None:
        async def refused() -> Finding:
            raise StoreMisconfigured("no")

        checklist = Checklist("area", lambda error: Explanation("kind", f"what: {error}", "mend"))
        run_blocking(checklist.run("one", refused))
        assert (checklist.steps[0].detail, checklist.steps[0].mend) == ("what: no", "mend")
