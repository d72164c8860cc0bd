"""Faults of SQL, and of both stores at once."""

import sqlite3
from contextlib import closing

import psycopg

from tests.rig.faults import Steps, Trouble, fault
from tests.servers import PostgresServer

SERVERS = ("postgres",)


@fault("F21", "PostgreSQL is killed", stores=SERVERS)
def killed(trouble: Trouble) -> Steps:
    server = _postgres(trouble)
    server.kill()
    yield
    server.start()


@fault("F22", "one backend of PostgreSQL is frozen", stores=SERVERS)
def one_backend_frozen(trouble: Trouble) -> Steps:
    server = _postgres(trouble)
    with psycopg.connect(server.url) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid"
        ).fetchall()
    pid = trouble.random.choice(found)[0]
    server.freeze_backend(pid)
    yield
    server.thaw_backend(pid)


@fault("F22p", "PostgreSQL takes no new connection and answers nobody", stores=SERVERS)
def sql_swallowed(trouble: Trouble) -> Steps:
    links = [worker.sql for worker in trouble.rig.workers if worker.sql]
    for link in links:
        link.swallow()
    yield
    for link in links:
        link.restore()


@fault("F22w", "one worker hears nothing of PostgreSQL", stores=SERVERS)
def one_cut_off_from_sql(trouble: Trouble) -> Steps:
    link = trouble.one_worker().sql
    assert link
    link.swallow()
    yield
    link.restore()


@fault("F23", "the SQLite file is locked by another process", stores=("sqlite",))
def file_locked(trouble: Trouble) -> Steps:
    path = trouble.rig.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30.0)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@fault("F24", "both stores are away", unavailable=True, stores=SERVERS)
def both_away(trouble: Trouble) -> Steps:
    server = _postgres(trouble)
    trouble.rig.redis.freeze()
    server.kill()
    yield
    server.start()
    trouble.rig.redis.thaw()


@fault("F24r", "both stores are away, and Redis is back first", unavailable=True, stores=SERVERS, quick=False)
def both_away_in_turn(trouble: Trouble) -> Steps:
    server = _postgres(trouble)
    server.kill()
    trouble.rig.redis.freeze()
    yield
    trouble.rig.redis.thaw()
    trouble.live(0.5)
    server.start()


def _postgres(trouble: Trouble) -> PostgresServer:
    assert trouble.rig.postgres
    return trouble.rig.postgres
