"""A tap on the wire between a client and a server."""

import asyncio
import threading
from contextlib import suppress
from typing import Self


class CountingProxy:
    """A TCP proxy on a port of its own, that counts round trips and bytes.

    A round trip is what a client sends after the server has had its say.
    """

    def __init__(self, port: int) -> None:
        self._target, self._loop, self._ready = port, asyncio.new_event_loop(), threading.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._serving: list[asyncio.Task[None]] = []
        self.port = 0
        self.trips = self.sent = self.received = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    def _run(self) -> None:
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _end(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        task = asyncio.current_task()
        assert task
        self._serving.append(task)
        self._writers += [writer, back]
        speaking = ["server"]
        await asyncio.gather(
            self._pump(reader, back, speaking, "client"), self._pump(there, writer, speaking, "server")
        )

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, speaking: list[str], who: str
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if who == "client":
                    self.trips += speaking[0] == "server"
                    self.sent += len(data)
                else:
                    self.received += len(data)
                speaking[0] = who
                sink.write(data)
                await sink.drain()
        sink.close()
