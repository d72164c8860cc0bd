"""Every way in which Redis fails, by servers that do fail so, told apart: it cannot serve, or it refuses."""

import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import redis
from redis import exceptions
from redis._parsers import BaseParser

from tests.servers import RedisFactory, RedisServer, RedisServers, eventually, free_port, redis_ids
from tests.stores import IDLE, Subject, a_delta, a_record, key, now, quiet, running
from vedsess_middleware.errors import (
    CorruptRecord,
    EpochMissing,
    Reason,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
)
from vedsess_middleware.stores.record import Version
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.redis.errors import translate

KEY, OTHER = key("one"), key("other")
SECRET = "wXa4-kP9_sLq"
EPOCH = "0f1e2d3c4b5a6978"


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    """Servers of this module, whose settings it may spoil as long as it mends them."""
    servers = RedisServers(tmp_path_factory.mktemp("redis"))
    yield servers
    for server in servers.values():
        server.kill()


@pytest.fixture(params=redis_ids())
def server(request: pytest.FixtureRequest, own_servers: RedisServers) -> RedisServer:
    return own_servers[request.param].empty()


@pytest.fixture(params=["blocking", "asyncio"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "asyncio")


@contextmanager
def store_at(url: str, *, is_async: bool, timeout: float = 2.0) -> Iterator[Subject]:
    with running(RedisStore.from_url(url, is_async=is_async, timeout=timeout, on_event=quiet)) as store:
        yield store


@contextmanager
def admin_of(server: RedisServer) -> Iterator[Callable[..., Any]]:
    """Commands on a connection that stays: what spoils the server does not shut it out."""
    options: dict[str, Any] = {"single_connection_client": True, "socket_timeout": 10.0, "decode_responses": True}
    with redis.Redis.from_url(server.url, **options) as client:
        yield client.execute_command


async def used(store: Subject, at: float) -> None:
    """Read, and record the use after the response."""
    await store.load(KEY, at=at + 100.0, refresh=60.0)
    await store.after_response()


def failure(store: Subject, call: str = "update") -> StoreError:
    """What one call raises; it quotes no key."""
    at = now()
    calls: dict[str, Callable[[], Any]] = {
        "load": lambda: store.load(KEY, at=at, refresh=60.0),
        "use": partial(used, store, at),
        "create": lambda: store.create(OTHER, a_record(at, user_id="ada")),
        "update": lambda: store.update(KEY, a_delta(at, base=Version(0, 1), put={"a": "2"})),
        "end": lambda: store.end([KEY], at=at, until=at + IDLE),
        "records_of": lambda: store.records_of("ada", at=at),
        "probe": store.probe,
        "find": lambda: store.find(OTHER, at=at, refresh=60.0),
        "fill": lambda: store.fill(KEY, a_record(at).born(Version(2, 0))),
        "install": store.install,
        "ping": store.ping,
        "peek": lambda: store.peek(KEY),
        "unconfirmed": lambda: store.unconfirmed(limit=5),
    }
    with pytest.raises(StoreError) as raised:
        store.run(calls[call]())
    text = str(raised.value)
    assert not any(word in text for word in (KEY, OTHER, SECRET, "vedsess:", "127.0.0.1"))
    return raised.value


def reason_of(error: StoreError) -> Reason:
    assert isinstance(error, StoreUnavailable)
    return error.reason


# -- settings that make a server refuse writes -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trouble:
    """How to bring a server into it and out again, and what a write is to raise."""

    begin: tuple[str, ...]
    end: tuple[str, ...]
    reason: Reason


TROUBLES = {
    "no memory": Trouble(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "full"),
    "a replica": Trouble(("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read-only"),
    "no replicas": Trouble(
        ("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0"), "full"
    ),
}


@pytest.mark.parametrize("call", ["create", "update", "use"])
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_server_that_takes_no_writes_cannot_serve(server: RedisServer, trouble: Trouble, call: str) -> None:
    with store_at(server.url, is_async=False) as store, admin_of(server) as admin:
        store.run(store.create(KEY, a_record(now())))
        admin(*trouble.begin)
        try:
            assert reason_of(failure(store, call)) == trouble.reason
        finally:
            admin(*trouble.end)


def test_a_server_without_memory_still_ends_sessions(server: RedisServer) -> None:
    at = now()
    with store_at(server.url, is_async=False) as store, admin_of(server) as admin:
        store.run(store.create(KEY, a_record(at)))
        admin("CONFIG", "SET", "maxmemory", "1")
        try:
            assert store.run(store.end([KEY], at=at, until=at + IDLE)) == [KEY]
            assert store.run(store.load(KEY, at=at, refresh=60.0)).gone
        finally:
            admin("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_server_that_takes_no_writes_still_answers_a_read(server: RedisServer, trouble: Trouble) -> None:
    at = now()
    with store_at(server.url, is_async=False) as store, admin_of(server) as admin:
        store.run(store.create(KEY, a_record(at)))
        admin(*trouble.begin)
        try:
            assert store.run(store.load(KEY, at=at + 100.0, refresh=60.0)).values == {"a": "1"}
        finally:
            admin(*trouble.end)


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_probe_notices_a_server_that_takes_no_writes(server: RedisServer, is_async: bool, trouble: Trouble) -> None:
    url = server.url
    store = RedisStore.from_url(url, is_async=is_async, probe_timeout=4.0)
    with running(store) as subject, admin_of(server) as admin:
        subject.run(subject.probe())
        admin(*trouble.begin)
        try:
            assert reason_of(failure(subject, "probe")) == trouble.reason
        finally:
            admin(*trouble.end)


def under(store: Subject, epoch: str = EPOCH) -> Subject:
    """The same store under an epoch."""
    return Subject(store.raw.under(epoch), store.run)


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_under_an_epoch_a_server_that_takes_no_writes_serves_hits_and_nothing_else(
    server: RedisServer, trouble: Trouble
) -> None:
    at = now()
    with store_at(server.url, is_async=False) as store, admin_of(server) as admin:
        view = under(store)
        view.run(view.install())
        view.run(view.create(KEY, a_record(at)))
        admin(*trouble.begin)
        try:
            assert view.run(view.find(KEY, at=at, refresh=60.0)).hit
            view.run(view.ping())
            for call in ("find", "fill", "update", "create", "install"):
                assert reason_of(failure(view, call)) == trouble.reason, call
        finally:
            admin(*trouble.end)


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_server_that_takes_no_writes_and_lacks_the_epoch_cannot_serve(server: RedisServer, trouble: Trouble) -> None:
    at = now()
    with store_at(server.url, is_async=False) as store, admin_of(server) as admin:
        store.run(store.create(KEY, a_record(at)))
        admin(*trouble.begin)
        try:
            for call in ("ping", "find", "update"):
                error = failure(under(store), call)
                assert isinstance(error, EpochMissing), call
                assert error.reason == "restarted"
        finally:
            admin(*trouble.end)


def test_a_server_that_cannot_save_is_full(server: RedisServer) -> None:
    with store_at(server.url, is_async=False) as store, admin_of(server) as admin:
        store.run(store.create(KEY, a_record(now())))
        admin("CONFIG", "SET", "save", "3600 1")
        shutil.rmtree(server.directory / "data")
        admin("BGSAVE")
        eventually(lambda: admin("INFO", "persistence")["rdb_last_bgsave_status"] == "err")
        try:
            assert reason_of(failure(store)) == "full"
        finally:
            admin("CONFIG", "SET", "save", "")


def test_a_server_without_room_for_clients_is_busy(server: RedisServer, is_async: bool) -> None:
    with store_at(server.url, is_async=is_async) as store, admin_of(server) as admin:
        before = admin("CONFIG", "GET", "maxclients")["maxclients"]
        admin("CONFIG", "SET", "maxclients", "1")
        try:
            # Who asks before the refusal is there may only see that the server hangs up.
            assert reason_of(failure(store)) in ("busy", "unreachable")
        finally:
            admin("CONFIG", "SET", "maxclients", before)


def test_a_server_that_runs_somebodys_long_script_is_busy(server: RedisServer) -> None:
    with store_at(server.url, is_async=False) as store, admin_of(server) as admin:
        admin("CONFIG", "SET", "lua-time-limit", "1")
        with admin_of(server) as other:
            thread = threading.Thread(target=_until_killed, args=(other,))
            thread.start()
            try:
                eventually(lambda: _refuses(admin))
                assert reason_of(failure(store)) == "busy"
            finally:
                admin("SCRIPT", "KILL")
                thread.join()


def _until_killed(command: Callable[..., Any]) -> None:
    with suppress(redis.ResponseError):
        command("EVAL", "while true do end", 0)


def _refuses(command: Callable[..., Any]) -> bool:
    try:
        command("PING")
    except redis.ResponseError:
        return True
    return False


# -- servers that are away ---------------------------------------------------------------------------------------------


def test_nobody_at_the_port_is_unreachable(is_async: bool) -> None:
    with store_at(f"redis://127.0.0.1:{free_port()}/0", is_async=is_async) as store:
        error = failure(store)
    assert isinstance(error, StoreUnavailable)
    assert (error.reason, error.attempts) == ("unreachable", 2)


@pytest.mark.parametrize("call", ["find", "fill", "update", "ping", "peek", "unconfirmed"])
def test_under_an_epoch_nobody_at_the_port_is_unreachable_and_no_epoch_is_missing(is_async: bool, call: str) -> None:
    with store_at(f"redis://127.0.0.1:{free_port()}/0", is_async=is_async) as store:
        error = failure(under(store), call)
    assert isinstance(error, StoreUnavailable)
    assert not isinstance(error, EpochMissing)
    assert (error.reason, error.attempts) == ("unreachable", 2)


def test_an_installation_is_tried_once(is_async: bool) -> None:
    with store_at(f"redis://127.0.0.1:{free_port()}/0", is_async=is_async) as store:
        error = failure(under(store), "install")
    assert isinstance(error, StoreUnavailable)
    assert (error.reason, error.attempts) == ("unreachable", 2)  # what may be repeated is asked first


def test_an_unknown_host_is_unreachable(is_async: bool) -> None:
    with store_at("redis://no-such-host.invalid/0", is_async=is_async) as store:
        assert reason_of(failure(store)) == "unreachable"


def test_a_missing_socket_file_is_unreachable(is_async: bool) -> None:
    with store_at("unix:///nowhere/redis.sock", is_async=is_async) as store:
        assert reason_of(failure(store)) == "unreachable"


def test_a_frozen_server_is_a_timeout(server: RedisServer, is_async: bool) -> None:
    with store_at(server.url, is_async=is_async, timeout=0.02) as store:
        server.freeze()
        try:
            assert reason_of(failure(store)) == "timeout"
        finally:
            server.thaw()


def test_a_killed_server_is_unreachable_for_a_connection_that_was_open(
    fresh_redis: RedisFactory, is_async: bool
) -> None:
    server = fresh_redis()
    with store_at(server.url, is_async=is_async) as store:
        store.run(store.create(KEY, a_record(now())))
        server.kill()
        assert reason_of(failure(store)) == "unreachable"


def test_a_loading_server_says_so(fresh_redis: RedisFactory, is_async: bool) -> None:
    server = fresh_redis("valkey-9.1", "--enable-debug-command", "yes")
    with admin_of(server) as admin, admin_of(server) as other, store_at(server.url, is_async=is_async) as store:
        store.run(store.create(KEY, a_record(now())))
        for number in range(200):
            admin("SET", f"filler {number}", "x" * 2000)
        admin("CONFIG", "SET", "key-load-delay", "5000", "loading-process-events-interval-bytes", "1024")
        thread = threading.Thread(target=other, args=("DEBUG", "RELOAD"))
        thread.start()
        try:
            eventually(lambda: "loading:1" in _info(admin))
            assert reason_of(failure(store)) == "loading"
        finally:
            admin("CONFIG", "SET", "key-load-delay", "0")
            thread.join()


def _info(command: Callable[..., Any]) -> str:
    return f"loading:{command('INFO', 'persistence')['loading']}"


def test_a_replica_that_lost_its_master_is_unreachable(server: RedisServer) -> None:
    with store_at(server.url, is_async=False) as store, admin_of(server) as admin:
        store.run(store.create(KEY, a_record(now())))
        admin("CONFIG", "SET", "replica-serve-stale-data", "no")
        admin("REPLICAOF", "127.0.0.1", "1")
        try:
            for call in ("load", "update", "records_of"):
                assert reason_of(failure(store, call)) == "unreachable", call
        finally:
            admin("REPLICAOF", "NO", "ONE")
            admin("CONFIG", "SET", "replica-serve-stale-data", "yes")


@pytest.mark.parametrize("server_id", redis_ids())
def test_a_cluster_that_is_down_is_unreachable(fresh_redis: RedisFactory, server_id: str) -> None:
    server = fresh_redis(server_id, "--cluster-enabled", "yes")
    with store_at(server.url, is_async=False) as store:
        for call in ("load", "create", "probe"):
            assert reason_of(failure(store, call)) == "unreachable", call
        for call in ("find", "ping", "peek", "install"):
            assert reason_of(failure(under(store), call)) in ("unreachable", "restarted"), call


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credentials", ["", f":wrong-{SECRET}@", f"ada:{SECRET}@"])
def test_a_wrong_password_is_a_refusal_that_names_the_setting(
    server: RedisServer, is_async: bool, credentials: str
) -> None:
    with admin_of(server) as admin:
        admin("CONFIG", "SET", "requirepass", "other")
        try:
            with store_at(server.url.replace("redis://", f"redis://{credentials}"), is_async=is_async) as store:
                error = failure(store)
        finally:
            admin("CONFIG", "SET", "requirepass", "")
    assert isinstance(error, StoreMisconfigured)
    assert "REDIS_PASSWORD" in str(error)
    assert not error.one_key


RIGHTS = {
    "no scripts": ("~*", "+@all", "-@scripting"),
    "no writes in a script": ("~*", "+@all", "-@write"),
    "no keys of ours": ("~app:*", "+@all"),
}


@pytest.mark.parametrize("rights", RIGHTS.values(), ids=RIGHTS)
def test_a_missing_permission_is_a_refusal_that_says_so(server: RedisServer, rights: tuple[str, ...]) -> None:
    with admin_of(server) as admin:
        admin("ACL", "SETUSER", "ada", "reset", "on", f">{SECRET}", *rights)
        try:
            with store_at(server.url, is_async=False) as store:
                store.run(store.create(KEY, a_record(now())))
            with store_at(server.url.replace("redis://", f"redis://ada:{SECRET}@"), is_async=False) as store:
                error = failure(store)
        finally:
            admin("ACL", "DELUSER", "ada")
    assert isinstance(error, StoreMisconfigured)
    assert "commands and the key prefix" in str(error)
    assert not error.one_key


def test_an_unpermitted_info_leaves_the_rest_of_the_stats(server: RedisServer) -> None:
    with admin_of(server) as admin:
        admin("ACL", "SETUSER", "ada", "reset", "on", f">{SECRET}", "~vedsess:*", "+@all", "-info")
        try:
            with store_at(server.url.replace("redis://", f"redis://ada:{SECRET}@"), is_async=False) as store:
                store.run(store.create(KEY, a_record(now())))
                stats = store.run(store.stats(at=now()))
        finally:
            admin("ACL", "DELUSER", "ada")
    assert (stats.active, dict(stats.details)) == (1, {})


def test_a_plain_server_behind_a_tls_url_is_no_session_lost(server: RedisServer, is_async: bool) -> None:
    with store_at(server.url.replace("redis://", "rediss://"), is_async=is_async, timeout=0.05) as store:
        assert reason_of(failure(store)) in ("timeout", "unreachable")


# -- what no server here can be brought to say -------------------------------------------------------------------------


def parsed(reply: str) -> Any:
    """What redis-py makes of a reply."""
    parse: Callable[[str], Any] = BaseParser.parse_error
    return parse(reply)


REPLIES: dict[str, Reason] = {
    "LOADING Redis is loading the dataset in memory": "loading",
    "READONLY You can't write against a read only replica.": "read-only",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "unreachable",
    "CLUSTERDOWN The cluster is down": "unreachable",
    "CLUSTERDOWN Hash slot not served": "unreachable",
    "TRYAGAIN Multiple keys request during rehashing of slot": "busy",
    "OOM command not allowed when used memory > 'maxmemory'.": "full",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.": "full",
    "NOREPLICAS Not enough good replicas to write.": "full",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "busy",
    "ERR max number of clients reached": "busy",
}


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_that_says_the_server_cannot_serve_is_understood(reply: str) -> None:
    for text in (reply, f"ERR Error running script (call to f_0): @user_script:7: @user_script: 7: -{reply}"):
        assert reason_of(translate(parsed(text), attempts=1)) == REPLIES[reply]


@pytest.mark.parametrize(
    "reply",
    [
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOAUTH Authentication required.",
        "NOPERM this user has no permissions to run the 'evalsha' command",
        "ERR unknown command 'EVALSHA', with args beginning with: ",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "MOVED 3999 127.0.0.1:6381",
    ],
)
def test_a_reply_that_refuses_is_a_refusal(reply: str) -> None:
    error = translate(parsed(reply), attempts=1)
    assert isinstance(error, StoreMisconfigured)
    assert error.one_key is reply.startswith("WRONGTYPE")


CLIENT_ERRORS: dict[str, tuple[Exception, Reason]] = {
    "timeout": (exceptions.TimeoutError("Timeout reading from socket"), "timeout"),
    "builtin timeout": (TimeoutError(), "timeout"),
    "closed by server": (exceptions.ConnectionError("Connection closed by server."), "unreachable"),
    "reset": (ConnectionResetError(104, "Connection reset by peer"), "unreachable"),
    "no slots": (exceptions.RedisClusterException("Redis Cluster cannot be connected."), "unreachable"),
    "sentinel": (exceptions.ConnectionError("No master found for 'mymaster'"), "unreachable"),
    "pool": (exceptions.MaxConnectionsError("Too many connections"), "saturated"),
    "blocking pool": (exceptions.ConnectionError("No connection available."), "saturated"),
}


@pytest.mark.parametrize(("error", "reason"), CLIENT_ERRORS.values(), ids=CLIENT_ERRORS)
def test_what_the_client_itself_raises_is_understood(error: Any, reason: Reason) -> None:
    translated = translate(error, attempts=2)
    assert isinstance(translated, StoreUnavailable)
    assert (translated.reason, translated.attempts) == (reason, 2)


def test_a_certificate_that_is_not_accepted_is_a_refusal() -> None:
    words = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:992)"
    for error in (exceptions.ConnectionError(f"Error 1 connecting to h:6380. {words}."), ssl.SSLError(1, words)):
        translated = translate(error, attempts=1)
        assert isinstance(translated, StoreMisconfigured)
        assert "certificate" in str(translated)


def test_a_script_that_meets_nonsense_reports_a_corrupt_record() -> None:
    text = f"ERR user_script:9: attempt to compare nil with number script: f_0, on @user_script:9. {KEY}"
    error = translate(parsed(text), attempts=1)
    assert isinstance(error, CorruptRecord)
    assert KEY not in str(error)
