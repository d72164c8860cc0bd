"""The fixtures that every test may ask for: real servers, empty for each test."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.leaks import Watch
from tests.servers import PostgresServer, RedisFactory, RedisServer, RedisServers, redis_binary, redis_ids
from tests.stores import emptied_database

if TYPE_CHECKING:
    from tests.mariadb import MariaServer

pytest_plugins = ["tests.sites"]

_database_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Let no test show a secret."""
    config.pluginmanager.register(Watch(), "leaks")


@pytest.fixture(scope="session")
def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    """Running servers by id, such as ``valkey-9.1``, each started when first asked for and shared by all tests."""
    servers = RedisServers(tmp_path_factory.mktemp("redis"))
    yield servers
    for server in servers.values():
        server.kill()


@pytest.fixture(params=redis_ids())
def redis_server(request: pytest.FixtureRequest, redis_servers: RedisServers) -> RedisServer:
    """Each server in turn, empty; Debian's only where there is one."""
    return redis_servers[request.param].empty()


@pytest.fixture
def valkey(redis_servers: RedisServers) -> RedisServer:
    """The Valkey 9.1 that all tests share, empty."""
    return redis_servers["valkey-9.1"].empty()


@pytest.fixture
def system_redis(request: pytest.FixtureRequest, redis_servers: RedisServers) -> RedisServer:
    """The operating system's Redis, empty; only for tests that carry the marker ``system``."""
    if request.node.get_closest_marker("system") is None:
        pytest.fail("a test that asks for system_redis needs the marker 'system'", pytrace=False)
    return redis_servers["redis-system"].empty()


@pytest.fixture
def fresh_redis(tmp_path: Path) -> Iterator[RedisFactory]:
    """Starts servers of the test's own: ``fresh_redis()``, ``fresh_redis("redis-6.2", "--maxmemory", "1mb")``."""
    servers: list[RedisServer] = []

    def start(server_id: str = "valkey-9.1", *extra_args: str) -> RedisServer:
        directory = tmp_path / f"{server_id}-{len(servers)}"
        servers.append(RedisServer(redis_binary(server_id), directory=directory, extra_args=extra_args))
        return servers[-1].start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL that all tests share."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a new, empty database.  A server that the last test froze or killed is mended first."""
    name = f"t_{next(_database_numbers)}"
    _administer(postgres, f"CREATE DATABASE {name}")
    yield postgres.url.removesuffix("postgres") + name
    _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def shared_database(postgres: PostgresServer) -> str:
    """The URL of a database that all tests share, its tables without rows."""
    return emptied_database(postgres.start().url)


@pytest.fixture(scope="session")
def mariadb() -> Iterator["MariaServer"]:
    """Debian's MariaDB; only for tests that carry the marker ``system``."""
    from tests.mariadb import MariaServer

    with MariaServer() as server:
        yield server


@pytest.fixture
def mariadb_url(mariadb: "MariaServer") -> str:
    """The URL of an empty database."""
    return mariadb.empty().url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path}/sessions.sqlite3"


def _administer(postgres: PostgresServer, statement: str) -> None:
    with psycopg.connect(postgres.start().url, autocommit=True) as connection:
        connection.execute(statement.encode())
