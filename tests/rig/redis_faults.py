"""Faults of Redis itself: its process, its data, its settings."""

import shutil
import threading
from pathlib import Path

import redis

from tests.rig.faults import Steps, Trouble, fault
from tests.rig.rig import Rig
from tests.servers import RedisServer, eventually

# Redis 6.2 answers every two megabytes only: while it loads little, it says nothing.
_ANSWERS_WHILE_LOADING = {"redis-6.2": (), "valkey-9.1": ("--loading-process-events-interval-bytes", "1024")}
PASSWORD = "kXo2vTq8-Rz5mW1c"


# -- it dies -----------------------------------------------------------------------------------------------------------


@fault("F1", "killed, comes back empty", loses=True)
def killed_empty(trouble: Trouble) -> Steps:
    trouble.rig.redis.kill()
    yield
    trouble.rig.redis.restart()


@fault("F1q", "killed and back at once, empty", loses=True)
def restarted_empty(trouble: Trouble) -> Steps:
    trouble.rig.redis.kill()
    trouble.rig.redis.restart()
    yield


@fault("F2", "killed, comes back with an older dump", loses=True)
def killed_rewound(trouble: Trouble) -> Steps:
    trouble.rig.redis.cli("SAVE")
    trouble.live(1.0)
    trouble.rig.redis.kill()
    yield
    trouble.rig.redis.start()


@fault("F2q", "killed and back at once with an older dump", loses=True)
def restarted_rewound(trouble: Trouble) -> Steps:
    trouble.rig.redis.cli("SAVE")
    trouble.live(1.0)
    trouble.rig.redis.kill()
    trouble.rig.redis.start()
    yield


@fault("F2r", "killed and back at once with an older dump, which it saved when it had had a replica", loses=True)
def restarted_rewound_master(trouble: Trouble) -> Steps:
    replica = _replica(trouble.rig)
    trouble.rig.redis.cli("SAVE")
    trouble.live(1.0)
    trouble.rig.redis.kill()
    trouble.rig.redis.start()
    replica.kill()
    yield


@fault("F3", "killed, comes back with its append-only file")
def killed_with_log(trouble: Trouble) -> Steps:
    server, arguments = trouble.rig.redis, trouble.rig.redis.extra_args
    server.cli("CONFIG", "SET", "appendonly", "yes")
    eventually(lambda: _is_logging(server))
    trouble.live(0.5)
    server.kill()
    yield
    server.extra_args = (*arguments, "--appendonly", "yes")
    server.start()
    server.cli("CONFIG", "SET", "appendonly", "no")
    server.extra_args = arguments


def _is_logging(server: RedisServer) -> bool:
    facts = server.cli("INFO", "persistence")
    return not facts["aof_rewrite_in_progress"] and not facts.get("aof_rewrite_scheduled")


@fault("F4", "frozen")
def frozen(trouble: Trouble) -> Steps:
    trouble.rig.redis.freeze()
    yield
    trouble.rig.redis.thaw()


@fault("F4s", "frozen for a tenth of a second, again and again")
def stuttering(trouble: Trouble) -> Steps:
    for _ in range(max(1, int(trouble.seconds / 0.4))):
        trouble.rig.redis.freeze()
        trouble.live(0.1)
        trouble.rig.redis.thaw()
        trouble.live(0.3)
    yield


# -- another takes its place -------------------------------------------------------------------------------------------


@fault("F11", "dies, and a replica that lacks the last writes is promoted", loses=True)
def failed_over(trouble: Trouble) -> Steps:
    rig = trouble.rig
    replica = _replica(rig)
    replica.freeze()
    trouble.live(0.7)
    rig.redis.kill()
    replica.thaw()
    replica.cli("REPLICAOF", "NO", "ONE")
    _move_to(rig, replica)
    yield


@fault("F12", "a replica is promoted, and one worker stays with the old master", loses=True)
def split(trouble: Trouble) -> Steps:
    rig, old = trouble.rig, trouble.rig.redis
    replica, lone = _replica(rig), trouble.one_worker()
    replica.cli("REPLICAOF", "NO", "ONE")
    rig.redis = replica
    for worker in rig.workers:
        if worker is not lone:
            worker.redis.repoint(replica.port)
    yield
    old.kill()
    lone.redis.repoint(replica.port)


def _replica(rig: Rig) -> RedisServer:
    replica = rig.new_redis()
    rig.redis.cli("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    replica.cli("REPLICAOF", "127.0.0.1", rig.redis.port)
    eventually(lambda: replica.cli("INFO", "replication").get("master_link_status") == "up")
    return replica


def _move_to(rig: Rig, server: RedisServer) -> None:
    rig.redis = server
    for worker in rig.workers:
        worker.redis.repoint(server.port)


# -- it loses or refuses -----------------------------------------------------------------------------------------------


@fault("F13", "flushed", loses=True)
def flushed(trouble: Trouble) -> Steps:
    trouble.rig.redis.cli("FLUSHALL")
    yield


@fault("F14", "full")
def full(trouble: Trouble) -> Steps:
    trouble.rig.redis.cli("CONFIG", "SET", "maxmemory", "1mb")
    yield
    trouble.rig.redis.cli("CONFIG", "SET", "maxmemory", "0")


@fault("F14e", "evicts what it holds", loses=True)
def evicting(trouble: Trouble) -> Steps:
    server = trouble.rig.redis
    server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    limit = int(server.cli("INFO", "memory")["used_memory"]) + 20_000
    server.cli("CONFIG", "SET", "maxmemory", limit)
    yield
    server.cli("CONFIG", "SET", "maxmemory", "0")
    server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")


@fault("F15", "wants replicas, and has none", quick=False)
def without_replicas(trouble: Trouble) -> Steps:
    trouble.rig.redis.cli("CONFIG", "SET", "min-replicas-to-write", "1")
    yield
    trouble.rig.redis.cli("CONFIG", "SET", "min-replicas-to-write", "0")


@fault("F15r", "read-only")
def read_only(trouble: Trouble) -> Steps:
    trouble.rig.redis.cli("REPLICAOF", "127.0.0.1", "1")
    yield
    trouble.rig.redis.cli("REPLICAOF", "NO", "ONE")


@fault("F16", "loads for long")
def loading(trouble: Trouble) -> Steps:
    server, arguments = trouble.rig.redis, trouble.rig.redis.extra_args
    server.cli("SAVE")
    delay = int(1e6 * trouble.seconds / (1 + server.cli("DBSIZE")))
    server.kill()
    server.extra_args = (
        *arguments,
        "--key-load-delay",
        str(delay),
        *_ANSWERS_WHILE_LOADING[trouble.rig.plan.server_id],
    )
    starting = threading.Thread(target=server.start)
    starting.start()
    yield
    starting.join()
    server.cli("CONFIG", "SET", "key-load-delay", "0")
    server.extra_args = arguments


@fault("F17", "takes no connection")
def crowded(trouble: Trouble) -> Steps:
    server = trouble.rig.redis
    with redis.Redis.from_url(server.url, single_connection_client=True) as client:
        most = client.config_get("maxclients")["maxclients"]
        client.config_set("maxclients", 1)
        for worker in trouble.rig.workers:
            worker.redis.reset()
        yield
        client.config_set("maxclients", most)


@fault("F18", "cannot save, and refuses writes")
def unsaved(trouble: Trouble) -> Steps:
    server = trouble.rig.redis
    place = server.directory / "data" / "dump.rdb"
    _clear(place)
    place.mkdir()
    server.cli("CONFIG", "SET", "save", "3600 1000000")
    server.cli("BGSAVE")
    eventually(lambda: server.cli("INFO", "persistence")["rdb_last_bgsave_status"] == "err")
    yield
    server.cli("CONFIG", "SET", "save", "")
    place.rmdir()


def _clear(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)


@fault("F19", "asks for a password", event="StoreRefused")
def locked(trouble: Trouble) -> Steps:
    url = trouble.rig.redis.url
    _set_password(url, PASSWORD)
    yield
    _set_password(url, "", old=PASSWORD)


def _set_password(url: str, new: str, *, old: str = "") -> None:
    """Change it, and hang up on everybody who gave another one or none."""
    with redis.Redis.from_url(url, password=old or None, single_connection_client=True) as client:
        client.config_set("requirepass", new)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")


@fault("F20", "forgets its scripts")
def scripts_flushed(trouble: Trouble) -> Steps:
    trouble.rig.redis.cli("SCRIPT", "FLUSH")
    yield
