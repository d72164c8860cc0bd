"""What an app sees: a dict that knows when it was looked at, and what is to become of it.

Methods such as `login` only record an intent; the manager acts on it at commit.
"""

from vedsess_middleware.contents import Contents
from vedsess_middleware.state import State
from vedsess_middleware.stores.record import Record

__all__ = ["Session", "state_of"]


class Session(Contents):
    """A session as a dict: of any values that the codec knows, nested edits included.

    Encoders that read the memory of a dict directly, such as msgspec's, need `dict(session)`.  Reading raises
    `StoreUnavailable` when no store can say what is in it; the middleware answers such a request with 503.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """Never loads, and never shows a value or the id."""
        state = self._state
        if not state.loaded:
            return "<Session not loaded>"
        kind = "new" if state.record is None else str(state.record.version)
        return f"<Session {kind}, {self._length()} values>"

    __str__ = __repr__

    # -- beyond the mapping ----------------------------------------------------------------------------------------

    @property
    def id(self) -> str | None:
        """The session id, a secret; None for a session that has not been stored yet."""
        self._read()
        return self._state.ticket.session_id if self._state.ticket else None

    @property
    def is_new(self) -> bool:
        """Whether nothing is stored of it yet."""
        self._read()
        return self._state.is_new

    @property
    def accessed(self) -> bool:
        """Whether the app has read from it in this request."""
        return self._state.accessed

    @property
    def modified(self) -> bool:
        """Whether a commit would change what is stored; found by comparing encoded values."""
        return bool(self._state.ended or self._state.intent or self.changes())

    @property
    def user_id(self) -> str | None:
        """Who is logged in.  Set by `login` only: `session["user_id"]` is a value of the app's own."""
        self._read()
        if self._state.intent == "login":
            return self._state.user_id
        return self._state.record.user_id if self._state.record else None

    @property
    def created_at(self) -> float | None:
        """When it began, in epoch seconds; None for a new one."""
        record = self._stored()
        return record.created_at if record else None

    @property
    def last_activity(self) -> float | None:
        """When its last use was recorded, in epoch seconds; None for a new one."""
        record = self._stored()
        return record.last_activity if record else None

    @property
    def expires_at(self) -> float | None:
        """When it ends if it is not used again, in epoch seconds; None for a new one."""
        record = self._stored()
        return record.expires_at if record else None

    @property
    def store(self) -> str:
        """Which store served it, such as `redis` or `sql`; empty for a new one."""
        record = self._stored()
        return record.served_by if record else ""

    @property
    def stale(self) -> bool:
        """Whether it may lack writes that this browser has been answered with, for nothing newer could be had."""
        record = self._stored()
        return record.stale if record else False

    def login(self, user_id: str | int) -> None:
        """Bind the session to a user at commit: a new id (ASVS 7.2.4), an index entry, the values kept.

        Raises:
            TypeError: the user id is neither text nor a number: a forgotten look-up must not log in "None".
            ValueError: it is empty, longer than 255 characters, or has characters that no store can keep.
        """
        if isinstance(user_id, bool) or not isinstance(user_id, str | int):
            raise TypeError(f"a user id is text or a whole number, not {type(user_id).__name__}")
        text = str(user_id)
        if not 0 < len(text) <= 255:
            raise ValueError("a user id has 1 to 255 characters")
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError("a user id has neither NUL nor lone surrogates")
        self._read()
        self._state.intent, self._state.user_id = "login", text

    def regenerate_id(self) -> None:
        """Go on under a new id from the commit on; the old one ends."""
        self._read()
        if self._state.intent is None and self._state.record is not None:
            self._state.intent = "regenerate"

    def invalidate(self) -> None:
        """End the session at commit, on every store, and empty it.

        What the same request writes next starts a new, anonymous session: flash messages need that.
        """
        state = self._state
        keys = [ticket.key for ticket in ([state.ticket] if state.ticket else state.tickets)]
        state.ended = [*state.ended, *(key for key in keys if key not in state.ended)]
        state.written = state.written or bool(keys)
        state.forget()
        state.intent, state.user_id, state.loaded, state.failure = None, None, True, None
        dict.clear(self)

    logout = invalidate

    async def save(self) -> None:
        """Commit now instead of at the end: for websockets and long streams.  Awaitable on an event loop.

        Raises:
            StoreUnavailable: no store took it.
            SerializationError: a value cannot be stored.
        """
        state = self._state
        await (state.save() if state.save else state.opener.save(self))

    def _stored(self) -> Record | None:
        self._read()
        return self._state.record


def state_of(session: Session) -> State:
    """What the manager knows of a session."""
    return session._state
