"""TCP proxies whose misbehaviour can be switched while they run: one link for each worker and store."""

import asyncio
from typing import cast

from tests.rig.loops import LoopThread
from tests.servers import free_port


class Link:
    """One proxy before a local server.  Every switch has taken effect when it returns.

    Attributes:
        port: where the worker connects.
        target_port: where the next connection leads.
        connections: how many were opened.
    """

    def __init__(self, thread: LoopThread, target_port: int) -> None:
        self.port, self.target_port = free_port(), target_port
        self.connections = 0
        self.black_hole, self.delay = False, 0.0
        self._drop_every = self._cut_every = self._requests = 0
        self._thread, self._server = thread, cast(asyncio.Server | None, None)
        self._open: set[_Client] = set()
        thread.run(self._listen())

    # -- switches --------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Pass everything again.  Connections that have swallowed something are cut: they make no sense any more."""
        self._thread.run(self._restore())

    def refuse(self) -> None:
        """Cut all connections, and refuse new ones."""
        self._thread.run(self._refuse())

    def swallow(self) -> None:
        """Accept connections and answer nothing, in neither direction: a black hole."""
        self._thread.call(lambda: setattr(self, "black_hole", True))

    def slow(self, seconds: float) -> None:
        """Hold every request back for so long."""
        self._thread.call(lambda: setattr(self, "delay", seconds))

    def drop_replies(self, *, every: int) -> None:
        """Of every so many requests, let the server apply one, then cut the connection instead of its reply."""
        self._thread.call(lambda: setattr(self, "_drop_every", every))

    def cut_requests(self, *, every: int) -> None:
        """Of every so many requests, let three quarters of one through, then cut the connection."""
        self._thread.call(lambda: setattr(self, "_cut_every", every))

    def reset(self) -> None:
        """Cut all connections now; new ones are taken."""
        self._thread.call(self._reset)

    def repoint(self, target_port: int) -> None:
        """Cut all connections; new ones lead to another server."""
        self.target_port = target_port
        self.reset()

    def close(self) -> None:
        """Cut everything for good."""
        self.refuse()

    # -- on the loop -----------------------------------------------------------------------------------------------

    def opened(self, client: "_Client") -> None:
        self.connections += 1
        self._open.add(client)

    def lost(self, client: "_Client") -> None:
        self._open.discard(client)

    def verdict(self) -> str:
        """What is to become of the next request: `drop`, `cut`, or nothing."""
        self._requests += 1
        if self._drop_every and self._requests % self._drop_every == 0:
            return "drop"
        return "cut" if self._cut_every and self._requests % self._cut_every == 0 else ""

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", self.port, reuse_address=True)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset()

    async def _restore(self) -> None:
        self.black_hole, self.delay, self._drop_every, self._cut_every = False, 0.0, 0, 0
        for client in [client for client in self._open if client.swallowed]:
            client.abort()
        if self._server is None:
            await self._listen()

    def _reset(self) -> None:
        for client in tuple(self._open):
            client.abort()


class _Client(asyncio.Protocol):
    """The worker's end of one connection."""

    def __init__(self, link: Link) -> None:
        self._link, self._loop = link, asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._upstream: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._asking, self._verdict, self._free_at = False, "", 0.0
        self._connecting: asyncio.Task[None] | None = None
        self.swallowed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._link.opened(self)
        self._connecting = self._loop.create_task(self._connect(self._link.target_port))

    async def _connect(self, port: int) -> None:
        try:
            upstream, _ = await self._loop.create_connection(lambda: _Upstream(self), "127.0.0.1", port)
        except OSError:
            self.abort()
            return
        if self._transport is None or self._transport.is_closing():
            upstream.abort()
            return
        self._upstream = upstream
        for data in self._early:
            upstream.write(data)

    def data_received(self, data: bytes) -> None:
        if self._link.black_hole:
            self.swallowed = True
            return
        if not self._asking:
            self._asking, self._verdict = True, self._link.verdict()
        now = self._loop.time()
        self._free_at = max(now + self._link.delay, self._free_at)
        if self._free_at > now:
            self._loop.call_at(self._free_at, self._send, data)
        else:
            self._send(data)

    def _send(self, data: bytes) -> None:
        cutting = self._verdict == "cut"
        data = data[: len(data) * 3 // 4] if cutting else data
        if self._upstream is None:
            self._early.append(data)
        elif not self._upstream.is_closing():
            self._upstream.write(data)
        if cutting and self._transport is not None:
            self._transport.abort()

    def replied(self, data: bytes) -> None:
        """The server has answered."""
        if self._link.black_hole:
            self.swallowed = True
        elif self._verdict == "drop":
            self.abort()
        elif self._transport is not None and not self._transport.is_closing():
            self._asking = False
            self._transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._link.lost(self)
        if self._upstream is not None:
            self._upstream.close()

    def upstream_lost(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset both ends."""
        for transport in (self._transport, self._upstream):
            if transport is not None:
                transport.abort()


class _Upstream(asyncio.Protocol):
    """The server's end of one connection."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.replied(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.upstream_lost()
