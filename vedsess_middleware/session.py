"""What an app sees: a dict that knows when it was looked at, and what is to become of it.

Methods such as `login` only record an intent; the manager acts on it at commit.
"""

from typing import Any

from vedsess_middleware.contents import Contents
from vedsess_middleware.errors import ConfigurationError
from vedsess_middleware.helpers import CSRF_FIELD
from vedsess_middleware.locks import SessionLock
from vedsess_middleware.oidc import session_name
from vedsess_middleware.state import IdChange, State
from vedsess_middleware.stores.record import Origin, Record, Version

__all__ = ["Session", "state_of", "user_text"]


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
        if self._state.intent is not None and self._state.intent.is_login:
            return self._state.intent.user_id
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
    def authenticated_at(self) -> float | None:
        """When its user last logged in, in epoch seconds; None: nobody is logged in."""
        record = self._stored()
        if record is None or record.user_id is None:
            return None
        return Origin.parse(record.origin).authenticated_at or record.created_at

    def fresh_within(self, seconds: float) -> bool:
        """Whether its user logged in so lately: ask for the password again where not (ASVS 7.5.1)."""
        if self._state.intent is not None and self._state.intent.reason == "login":
            return True
        at = self.authenticated_at
        return at is not None and self._state.opener.now - at <= seconds

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

    def login(
        self,
        user_id: str | int,
        *,
        remember: bool = False,
        idle_timeout: float | None = None,
        absolute_timeout: float | None = None,
        oidc: tuple[str, str] | None = None,
    ) -> None:
        """Bind the session to a user at commit: a new id (ASVS 7.2.4), an index entry, the values kept.

        The values of another user are not: a login in the session of one begins an empty one.

        Also for a user who proves again who they are: from then on, `fresh_within` counts.  Nobody gets in any more
        with the id of before, which somebody else may have planted.

        Args:
            user_id: who.
            remember: the cookie outlives the browser, and the session lives for `remember_timeout`.
            idle_timeout: in seconds, for this session; by default as the settings have it.
            absolute_timeout: the same.
            oidc: issuer and `sid` of the session at an OpenID provider, for its back-channel logout.

        Raises:
            TypeError: the user id is neither text nor a number: a forgotten look-up must not log in "None".
            ValueError: it is empty, longer than 255 characters, or has characters that no store can keep; or a timeout
                is not more than 0, or longer than the settings allow.
        """
        text = user_text(user_id)
        longest = self._state.opener.longest_timeout
        for seconds in (idle_timeout, absolute_timeout):
            if seconds is not None and not 0 < seconds <= longest:
                raise ValueError("a timeout is more than 0 s, and no longer than absolute_timeout or remember_timeout")
        self.pop(CSRF_FIELD, None)  # whoever knew it before must not know it now
        if self.user_id not in (None, text):
            self._keep_only_written()  # what another user left is none of this one's business
        self._state.intent = IdChange(
            reason="login",
            user_id=text,
            sid=session_name(*oidc) if oidc else None,
            remember=remember,
            idle_timeout=idle_timeout,
            absolute_timeout=absolute_timeout,
            sealed=True,
        )

    def regenerate_id(self, *, grace: bool = True) -> None:
        """Go on under a new id from the commit on.

        Args:
            grace: requests with the old id that are under way go on for `rotation_grace`.  False after a change of
                privilege: then whoever knows the old id is out at once.
        """
        self._read()
        if self._state.intent is None and self._state.record is not None:
            self._state.intent = IdChange(reason="regenerate", sealed=not grace)

    def invalidate(self) -> None:
        """End the session at commit, on every store, and empty it.

        What the same request writes next starts a new, anonymous session: flash messages need that.
        """
        state = self._state
        keys = [ticket.key for ticket in ([state.ticket] if state.ticket else state.tickets)]
        state.ended = [*state.ended, *(key for key in keys if key not in state.ended)]
        state.written = state.written or bool(keys)
        state.forget()
        state.intent, state.loaded, state.failure = None, True, None
        dict.clear(self)

    logout = invalidate

    def put_secret(self, name: str, value: Any, *, ttl: float) -> None:
        """Set a value that is encrypted at rest, and gone after so many seconds, whatever the session does.

        For what should not be there at all, such as a one-time code.  Setting the name in any other way ends that.

        Raises:
            ConfigurationError: there is no `encryption_key`.
            ValueError: the time is not more than 0.
        """
        state = self._state
        if not state.opener.seals:
            raise ConfigurationError("encryption_key is missing: a secret is never stored in plain text")
        if not ttl > 0:
            raise ValueError("a secret lives for more than 0 s")
        self[name] = value
        state.lifetimes = {**state.lifetimes, name: (value, state.opener.now + ttl)}

    # -- together with other requests ------------------------------------------------------------------------------

    def expect_unchanged(self, *names: str) -> None:
        """Let the commit be refused if another request has written one of these fields since this one loaded it.

        Raises, at commit:
            WriteConflict: nothing was written; `refresh` shows what is there.  The middleware answers with 409.
        """
        self._read()
        state = self._state
        fields = state.record.fields if state.record else {}
        stamps = {name: fields[name].stamp if name in fields else Version() for name in names}
        state.expected = {**stamps, **state.expected}

    def lock(self, *, wait: float = 5.0, hold: float = 10.0) -> SessionLock:
        """Let no other request that asks for the lock of this session in meanwhile; `with` or `async with`.

        Inside, the session is what is stored at that moment; it is committed at the end.  Requests that do not ask for
        the lock go on as ever.

        Args:
            wait: seconds to wait for it.
            hold: seconds after which another request may have it, whatever this one does: then its commit is refused.

        Raises:
            WriteConflict: another request held it all the time, or this one did for too long, or the store that gave it
                out is away.
        """
        return SessionLock(self, self._state, wait=wait, hold=hold)

    async def refresh(self) -> None:
        """Forget what this request changed, and load again what is stored.

        Raises:
            StoreUnavailable: no store can say.
        """
        await self.forget_changes()
        self._read()

    async def forget_changes(self) -> None:
        """The same, for a session that may not be needed any more: where no store can say, it raises when it is."""
        self._state.begin_anew()
        self._empty()
        await self._state.opener.load(self._state)

    async def save(self) -> None:
        """Commit now instead of at the end: for websockets and long streams.  Awaitable on an event loop.

        Raises:
            StoreUnavailable: no store took it.
            SerializationError: a value cannot be stored.
            CommitRefused: another request was quicker, or the user has too many sessions.
        """
        state = self._state
        state.saving = True
        try:
            await (state.save() if state.save else state.opener.save(self))
        finally:
            state.saving = False

    def _stored(self) -> Record | None:
        self._read()
        return self._state.record


def user_text(user_id: object) -> str:
    """A user id as stores keep it.

    Raises:
        TypeError: it is neither text nor a number.
        ValueError: it is empty, longer than 255 characters, or has characters that no store can keep.
    """
    if isinstance(user_id, bool) or not isinstance(user_id, str | int):
        raise TypeError(f"a user id is text or a whole number, not {type(user_id).__name__}")
    text = str(user_id)
    if not 0 < len(text) <= 255:
        raise ValueError("a user id has 1 to 255 characters")
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("a user id has neither NUL nor lone surrogates")
    return text


def state_of(session: Session) -> State:
    """What the manager knows of a session."""
    return session._state
