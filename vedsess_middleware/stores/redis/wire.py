"""The way to Redis: clients with short waits, one retry, the script by its SHA-1, and errors in our words."""

import hashlib
import time
from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache, partial
from importlib import resources
from typing import Any, NamedTuple, TypeVar, cast

import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError
from redis.retry import Retry

from vedsess_middleware.concurrency import Maybe, PerLoop, settle
from vedsess_middleware.errors import EpochMissing, StoreUnavailable
from vedsess_middleware.stores.redis.errors import translate

__all__ = ["Argument", "Client", "Command", "Script", "Wire", "redis_client", "session_script"]

T = TypeVar("T")

Client = Any
"""A redis-py client: the blocking and the asyncio ones, plain or Cluster, share no type."""

Argument = str | int | float

_COMMANDS = ("ping", "renew", "load", "create", "update", "finish", "merge", "confirm")

Command = tuple[Any, ...]
"""What `execute_command` takes; a `Script` in the first place stands for calling it."""


class Script(NamedTuple):
    """A script and the name that Redis gives it."""

    text: str
    sha: str


@lru_cache(maxsize=8)
def session_script(epoch: str = "") -> Script:
    """The one script, made of the files in `lua/`, each a function of it.

    One, so that a Redis which does not know it is noticed, and taught, once.  The epoch is a part of its text, and so
    of its name; after a full stop it names the processes that may run it.
    """
    folder = resources.files(__package__) / "lua"
    bodies = [f"function commands.{name}(ARGV)\n{(folder / f'{name}.lua').read_text()}end\n" for name in _COMMANDS]
    _, _, processes = epoch.partition(".")
    parts = [
        f"local epoch, processes = '{epoch}', '{processes}'\n",
        (folder / "common.lua").read_text(),
        "local commands = {}\n",
        *bodies,
    ]
    text = "".join(parts) + "local name = table.remove(ARGV)\nreturn commands[name](ARGV)\n"
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def redis_client(url: str, *, is_async: bool, timeout: float) -> Client:
    """A client with the waits that a request path can bear: redis-py's own defaults hang for up to a minute.

    Args:
        url: `redis://`, `rediss://` (certificates are verified) or `unix://`; options of redis-py in its query.
        is_async: for an event loop, or blocking.
        timeout: seconds for connecting, and for each answer.
    """
    module = redis.asyncio if is_async else redis
    # Over TLS 1.3 the server's session tickets arrive after the handshake.  Unless a command is answered while the
    # connection is made, the pool takes them for a reply that nobody read, and gives the connection up.
    unanswered = url.startswith("rediss://") and "@" not in url
    pool = module.BlockingConnectionPool.from_url(
        url,
        timeout=timeout,
        max_connections=64,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        protocol=2,
        driver_info=None,
        client_name="vedsess" if unanswered else None,
    )
    return module.Redis.from_pool(pool)


class Wire:
    """Sends commands to one Redis.

    Every method raises `StoreUnavailable` or `StoreMisconfigured` when Redis does not serve.

    Args:
        client: a redis-py client; or a callable that makes an asyncio client, called once for each event loop.
        timeout: seconds of one try.  A second one follows at once if both fit into twice this time.
        clock: monotonic seconds.
        on_missing_script: called before a script is installed.
        strict: a script that is missing is an `EpochMissing`, and not installed.
    """

    def __init__(
        self,
        client: Client | Callable[[], Client],
        *,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        on_missing_script: Callable[[], None] = lambda: None,
        strict: bool = False,
    ) -> None:
        self.strict = strict
        self.is_async = callable(client) or isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster)
        self._per_loop = PerLoop(client) if callable(client) else None
        self._client = client
        self._timeout, self._clock, self._on_missing_script = timeout, clock, on_missing_script

    async def run(self, work: Callable[[Client], Maybe[T]]) -> T:
        """Try, and once more at once: a pooled connection may have died with an earlier Redis."""
        started_at = self._clock()
        try:
            return await self.once(work)
        except StoreUnavailable as error:
            fits = self._clock() - started_at < self._timeout * 1.25
            if error.reason not in ("unreachable", "timeout") or not fits:
                raise
        return await self.once(work, attempts=2)

    async def once(self, work: Callable[[Client], Maybe[T]], *, attempts: int = 1) -> T:
        """Try.  `attempts` says which try this is."""
        client = self._per_loop.get() if self._per_loop else self._client
        try:
            return await settle(work(client))
        except NoScriptError as error:
            raise _ScriptMissing from error
        except (RedisError, RedisClusterException, OSError) as error:
            raise translate(error, attempts=attempts) from error

    async def execute(self, *command: Any) -> Any:
        """Send one command and return its reply."""
        try:
            return await self.run(partial(_command, command=command, by_sha=True))
        except _ScriptMissing as error:
            self._missing(error)
            return await self.run(partial(_command, command=command, by_sha=False))

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands in one round trip.  The first reply that is an error is raised."""
        if not commands:
            return []
        try:
            return await self.run(partial(_pipeline, commands=commands, by_sha=True))
        except _ScriptMissing as error:
            self._missing(error)
            return await self.run(partial(_pipeline, commands=commands, by_sha=False))

    async def install(self, script: Script, *arguments: Argument) -> None:
        """Install a script in every process that holds data by running it there, on no key.

        Once: a try whose answer is lost is not repeated.

        Raises:
            EpochMissing: the script names other processes.
        """
        try:
            await self.once(partial(_everywhere, words=("EVAL", script.text, 0, *arguments)))
        except _ScriptMissing as error:
            raise EpochMissing from error

    async def ping(self, script: Script, *arguments: Argument) -> None:
        """Run a script in every process that holds data, on no key.

        Raises:
            EpochMissing: one of them does not know it.
        """
        try:
            await self.run(partial(_everywhere, words=("EVALSHA", script.sha, 0, *arguments)))
        except _ScriptMissing as error:
            raise EpochMissing from error

    async def facts(self, section: str) -> list[dict[str, Any]]:
        """What INFO says, of each process that holds data."""
        return await self.run(partial(_facts, section=section))

    def as_strict(self) -> "Wire":
        """The same way, which installs no script by itself."""
        strict = copy(self)
        strict.strict = True
        return strict

    def _missing(self, error: Exception) -> None:
        if self.strict:
            raise EpochMissing from error
        self._on_missing_script()

    async def close(self) -> None:
        """Give the connections back."""
        client: Client = self._per_loop.pop() if self._per_loop else self._client
        if client is not None:
            await settle(client.aclose() if self.is_async else client.close())


class _ScriptMissing(Exception):
    """NOSCRIPT: the process behind the connection has not seen our scripts."""


def _words(command: Command, by_sha: bool) -> Command:
    first, *rest = command
    if not isinstance(first, Script):
        return command
    # Never SCRIPT LOAD: it survives a promotion on 6.2, and a restart would go unnoticed.
    return ("EVALSHA", first.sha, 1, *rest) if by_sha else ("EVAL", first.text, 1, *rest)


def _command(client: Client, *, command: Command, by_sha: bool) -> Maybe[Any]:
    return client.execute_command(*_words(command, by_sha))


def _everywhere(client: Client, *, words: Command) -> Maybe[Any]:
    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        return client.execute_command(*words, target_nodes=client.PRIMARIES)
    return client.execute_command(*words)


async def _facts(client: Client, *, section: str) -> list[dict[str, Any]]:
    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        each: dict[str, Any] = await settle(client.info(section, target_nodes=client.PRIMARIES))
        return list(each.values()) if all(isinstance(facts, dict) for facts in each.values()) else [each]
    return [await settle(client.info(section))]


async def _pipeline(client: Client, *, commands: Sequence[Command], by_sha: bool) -> list[Any]:
    pipe = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*_words(command, by_sha))
    replies = cast(list[Any], await settle(pipe.execute(raise_on_error=False)))
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
