"""An open websocket outlives the request that it began with, and must not outlive its session.

It asks the stores every few seconds, and is closed with 1008 (RFC 6455: policy violation) where the session is over,
whichever process ended it (ASVS 7.4.1).  This needs a task: the one receive that an app waits for goes on meanwhile.
"""

import time
from collections.abc import Callable
from contextlib import suppress

from starlette.types import Message, Receive, Send

from vedsess_middleware.concurrency import Resumed
from vedsess_middleware.manager import SessionManager
from vedsess_middleware.session import Session

__all__ = ["POLICY_VIOLATION", "SessionOver", "Socket"]

POLICY_VIOLATION = 1008


class SessionOver(ConnectionAbortedError):
    """What an app meets that sends to a websocket whose session is over: an OSError, as where the browser has left.

    Frameworks know it as that (ASGI 2.4), and it is no failure of the app.
    """


class Socket:
    """What an app receives and sends on a websocket, as long as its session lives.

    Args:
        manager: of the session.
        session: which.
        receive: of the server.
        send: of the server.
        clock: monotonic seconds.

    Attributes:
        left: the browser has gone, as a message or a failure to send one has told.
    """

    def __init__(
        self,
        manager: SessionManager,
        session: Session,
        receive: Receive,
        send: Send,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager, self._session, self._send, self._clock = manager, session, send, clock
        self._every = manager.settings.websocket_check
        self._next = Resumed(receive)
        self._due_at = clock() + self._every
        self._open = self._over = self._used = False
        self.left = False

    async def receive(self) -> Message:
        """The next message; a disconnect where the session is over."""
        while not self._over:
            left = self._due_at - self._clock() if self._open else None
            if left is not None and left <= 0:
                await self._look()
                continue
            message = await self._next.within(left)
            if message is not None:
                self._used = True
                self.left = self.left or message["type"] == "websocket.disconnect"
                return message
        return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}

    async def send(self, message: Message) -> None:
        """Send, unless the session is over.

        Raises:
            SessionOver: it is; an app that receives nothing would go on for ever.
        """
        if self._open and self._clock() >= self._due_at:
            await self._look()
        kind = message["type"]
        if self._over:
            if kind == "websocket.close":
                return
            raise SessionOver("the session of this websocket is over, and it was closed")
        if kind == "websocket.accept":
            self._open, self._due_at = True, self._clock() + self._every
        elif kind == "websocket.close":
            self._open = False
        try:
            await self._send(message)
        except OSError:
            self.left = True
            raise

    def stop(self) -> None:
        """Wait for no message any more."""
        self._next.stop()

    async def _look(self) -> None:
        self._due_at = self._clock() + self._every  # first: the app may receive and send at the same time
        used, self._used = self._used, False
        ended = await self._manager.ended(self._session, used=used)
        if ended and self._open:
            self._open, self._over = False, True
            with suppress(OSError):  # nobody is there any more
                await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": f"session {ended}"})
        if self._manager.pending:
            await self._manager.after_response()
