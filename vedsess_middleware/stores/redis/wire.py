"""The way to Redis: one retry, the script by its SHA-1, and errors in our words."""

import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from vedsess_middleware.concurrency import Maybe, PerLoop, in_time, settle
from vedsess_middleware.errors import EpochMissing, StoreUnavailable
from vedsess_middleware.stores.redis.client import Client, is_asyncio, is_cluster
from vedsess_middleware.stores.redis.errors import translate
from vedsess_middleware.stores.redis.lines import Lines, Words, lines_of
from vedsess_middleware.stores.redis.scripts import Script

__all__ = ["Argument", "Call", "Command", "Wire"]

T = TypeVar("T")

_PAGE = 500

Argument = str | int | float


class Call(NamedTuple):
    """Calls a script."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument] = ()


Command = Call | tuple[Any, ...]
"""What is sent: the call of a script, or the name of a command with its arguments."""


class _Way(NamedTuple):
    client: Client
    lines: Lines
    is_cluster: bool


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
        self.is_async = callable(client) or is_asyncio(client)
        self._timeout, self._clock, self._on_missing_script = timeout, clock, on_missing_script
        self._per_loop = PerLoop(lambda: self._way_of(client())) if callable(client) else None
        self._only = None if callable(client) else self._way_of(client)

    # -- on the request path ---------------------------------------------------------------------------------------

    async def exchange(self, *commands: Command) -> list[Any]:
        """Send commands in one round trip and return their replies, as they come from Redis.

        The first reply that is an error is raised.  All may be sent twice.
        """
        if not commands:
            return []
        by_sha, attempts, started_at = True, 1, self._clock()
        while True:
            try:
                return await self._tried([_words(command, by_sha) for command in commands], attempts)
            except _ScriptMissing as error:
                if self.strict:
                    raise EpochMissing from error
                self._on_missing_script()
                by_sha, attempts, started_at = False, 1, self._clock()
            except StoreUnavailable as error:
                # Once more at once: a connection may have died with an earlier Redis.
                if attempts == 2 or not self._fits_again(error, started_at):
                    raise
                attempts = 2

    async def _tried(self, commands: Sequence[Words], attempts: int) -> list[Any]:
        try:
            asked: Any = self._way.lines.exchange(commands)
            replies: list[Any] = await asked if self.is_async else asked
        except (RedisError, RedisClusterException, OSError) as error:
            raise translate(error, attempts=attempts) from error
        for reply in replies:
            if isinstance(reply, RedisError):
                wrong = _ScriptMissing() if isinstance(reply, NoScriptError) else translate(reply, attempts=attempts)
                raise wrong from reply
        return replies

    # -- everything else, through the client -----------------------------------------------------------------------

    async def execute(self, *words: Any) -> Any:
        """Send one command and return its reply as redis-py has it."""
        return await self.run(lambda client: client.execute_command(*words))

    async def run(self, work: Callable[[Client], Maybe[T]]) -> T:
        """Let the client do something that may be repeated: try, and once more at once."""
        started_at = self._clock()
        try:
            return await self.once(work)
        except StoreUnavailable as error:
            if not self._fits_again(error, started_at):
                raise
        return await self.once(work, attempts=2)

    async def once(self, work: Callable[[Client], Maybe[T]], *, attempts: int = 1) -> T:
        """Let the client do something.  `attempts` says which try this is."""
        try:
            return await in_time(work(self._way.client), self._timeout if self.is_async else None)
        except NoScriptError as error:
            raise _ScriptMissing from error
        except (RedisError, RedisClusterException, OSError) as error:
            raise translate(error, attempts=attempts) from error

    async def install(self, script: Script) -> None:
        """Install a script in every process that holds data by running it there, on no key.

        Once: a try whose answer is lost is not repeated.

        Raises:
            EpochMissing: the script names other processes.
        """
        # Never SCRIPT LOAD: it survives a promotion on 6.2, and a restart would go unnoticed.
        try:
            await self.once(partial(_everywhere, words=("EVAL", script.text, 0)))
        except _ScriptMissing as error:
            raise EpochMissing from error

    async def ping(self, script: Script) -> None:
        """Run a script in every process that holds data, on no key.

        Raises:
            EpochMissing: one of them does not know it.
        """
        try:
            await self.run(partial(_everywhere, words=("EVALSHA", script.sha, 0)))
        except _ScriptMissing as error:
            raise EpochMissing from error

    async def scan(self, prefix: str, *, kind: str) -> AsyncGenerator[list[str]]:
        """Give the names of all keys of a type that begin so, page by page; one may come twice.

        Those that come into being meanwhile may be missing.
        """
        words = "MATCH", re.sub(r"[\\*?\[\]]", r"\\\g<0>", prefix) + "*", "COUNT", _PAGE, "TYPE", kind
        servers: list[Any] = await self.run(_servers)
        for server in servers:
            cursor: int | None = None
            while cursor != 0:
                page: _Page = await self.run(partial(_page, server=server, words=("SCAN", cursor or 0, *words)))
                cursor = page.cursor
                yield [name.decode() for name in page.names]

    async def facts(self, section: str) -> list[dict[str, Any]]:
        """What INFO says, of each process that holds data."""
        return await self.run(partial(_facts, section=section))

    def as_strict(self) -> "Wire":
        """The same way, which installs no script by itself."""
        strict = copy(self)
        strict.strict = True
        return strict

    async def close(self) -> None:
        """Give the connections back."""
        way = self._per_loop.pop() if self._per_loop else self._only
        if way is not None:
            await settle(way.client.aclose() if self.is_async else way.client.close())

    @property
    def is_cluster(self) -> bool:
        """Whether keys lie on several servers."""
        return self._way.is_cluster

    @property
    def _way(self) -> _Way:
        if self._per_loop is not None:
            return self._per_loop.get()
        assert self._only is not None
        return self._only

    def _way_of(self, client: Client) -> _Way:
        lines = lines_of(client, is_async=self.is_async, timeout=self._timeout)
        return _Way(client, lines, is_cluster(client))

    def _fits_again(self, error: StoreUnavailable, started_at: float) -> bool:
        return error.reason in ("unreachable", "timeout") and self._clock() - started_at < self._timeout * 1.25


class _ScriptMissing(Exception):
    """NOSCRIPT: the process behind the connection has not seen our scripts."""


def _words(command: Command, by_sha: bool) -> Words:
    if not isinstance(command, Call):
        return command
    script, keys, arguments = command
    name, text = ("EVALSHA", script.sha) if by_sha else ("EVAL", script.text)
    return (name, text, len(keys), *keys, *arguments)


def _everywhere(client: Client, *, words: Words) -> Maybe[Any]:
    if is_cluster(client):
        return client.execute_command(*words, target_nodes=client.PRIMARIES)
    return client.execute_command(*words)


async def _servers(client: Client) -> list[Any]:
    """The processes that hold data, where a Cluster has to be told which one to ask."""
    if not is_cluster(client):
        return [None]
    if is_asyncio(client):
        await client.initialize()
    return list(client.get_primaries())


class _Page(NamedTuple):
    cursor: int
    names: list[bytes]


async def _page(client: Client, *, server: Any, words: Words) -> _Page:
    if server is None:
        return _Page(*await settle(client.execute_command(*words)))
    cursors, names = await settle(client.execute_command(*words, target_nodes=server))
    [cursor] = cursors.values()
    return _Page(cursor, names)


async def _facts(client: Client, *, section: str) -> list[dict[str, Any]]:
    if is_cluster(client):
        each: dict[str, Any] = await settle(client.info(section, target_nodes=client.PRIMARIES))
        return list(each.values()) if all(isinstance(facts, dict) for facts in each.values()) else [each]
    return [await settle(client.info(section))]
