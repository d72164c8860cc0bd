"""What every step in the life of a session needs."""

from collections.abc import Callable, Mapping

from vedsess_middleware.clients import fingerprint, matches
from vedsess_middleware.codec import Codec
from vedsess_middleware.cookies import CookieJar, Ticket
from vedsess_middleware.errors import StoreError, StoreMisconfigured
from vedsess_middleware.events import EventHook, SessionUnavailable, StoreRefused
from vedsess_middleware.manager.births import fingerprint_parts
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.sealing import Sealer, check_sizes
from vedsess_middleware.settings import Settings
from vedsess_middleware.state import Changes, State
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.record import Origin, Record, Version

__all__ = ["Parts"]


class Parts:
    """The parts of a manager, shared by its steps.

    Args:
        store: where sessions are kept.
        settings: everything that is a value.
        jar: reads and signs cookies.
        codec: of values.
        sealer: of values at rest.
        clock: epoch seconds.
        on_event: told what happens.

    Attributes:
        refresh: seconds after which a use is recorded again: exact enough for the timeout, seldom enough to cost
            nothing.
    """

    def __init__(
        self,
        *,
        store: Store,
        settings: Settings,
        jar: CookieJar,
        codec: Codec,
        sealer: Sealer,
        clock: Callable[[], float],
        on_event: EventHook,
    ) -> None:
        self.store, self.settings, self.jar, self.codec, self.clock = store, settings, jar, codec, clock
        self.sealer, self.on_event = sealer, on_event
        self.refresh = min(60.0, settings.idle_timeout / 10)
        self.watches_clients = settings.fingerprint_policy != "off"
        self._secrets = [key.encode() for key in settings.secret_keys]

    @property
    def now(self) -> float:
        """Epoch seconds, to the millisecond, as exact as a record holds them."""
        return round(self.clock() * 1000) / 1000

    @property
    def until(self) -> float:
        """How long a tombstone is kept at least; where a store knows the session, it knows better."""
        return self.now + self.settings.idle_timeout

    # -- what has come to its time ---------------------------------------------------------------------------------

    def refresh_of(self, record: Record | None) -> float:
        """The refresh interval of a session, which may have a shorter life than most."""
        return self.refresh if record is None else min(self.refresh, record.idle_timeout / 10)

    def notes_use(self, record: Record, *, at: float) -> bool:
        """Whether a use is to be recorded so soon after the last one."""
        refresh = self.refresh_of(record)
        return refresh < self.refresh and record.last_activity + refresh < at

    def renews(self, ticket: Ticket, version: Version, *, stale: bool) -> bool:
        """Whether the browser has to know something new, or the cookie that it has is getting old.

        What is lost, and said to be, is not looked for again: then the cookie tells what there is.
        """
        known = version == ticket.token or (not stale and ticket.token.covers(version))
        lifetime = ticket.lifetime or self.settings.idle_timeout
        return not (known and ticket.newest_key and self.clock() - ticket.issued_at <= lifetime / 2)

    def renews_id(self, record: Record) -> bool:
        """Whether the id has been in use for so long that it is changed.

        A stale record keeps its id: under another one, what was lost for now could not come back.
        """
        timeout = self.settings.renewal_timeout
        if timeout is None or record.stale:
            return False
        issued_at = Origin.parse(record.origin).issued_at or record.created_at
        return self.clock() - issued_at >= timeout

    # -- the client ------------------------------------------------------------------------------------------------

    def fingerprint(self, info: RequestInfo) -> str | None:
        """What a client looks like, keyed; None: nobody wants to know."""
        if not self.watches_clients:
            return None
        return fingerprint(fingerprint_parts(self.settings, info), secret=self._secrets[0])

    def is_client(self, record: Record, info: RequestInfo) -> bool:
        """Whether a session began on a client that looks like this one; one that was never looked at did."""
        stored = record.session_fingerprint
        return not stored or matches(stored, fingerprint_parts(self.settings, info), secrets=self._secrets)

    # -- values at rest --------------------------------------------------------------------------------------------

    def sealed(self, key: str, changes: Changes, kept: Mapping[str, str], *, limited: bool = True) -> dict[str, str]:
        """What is put, as it is to be at rest under this key.

        Args:
            key: of the session.
            changes: what is put, and what goes.
            kept: what is there beside it.
            limited: the app has written; what it has not may have been larger before than it may be now.

        Raises:
            SessionTooLarge: a value is too large, or all of them are.
        """
        seal, until = self.sealer.seal, changes.until
        sealed = {name: seal(key, name, text, until=until.get(name)) for name, text in changes.put.items()}
        if limited and self._may_be_too_large(sealed, kept):
            check_sizes(
                {**{name: text for name, text in kept.items() if name not in changes.drop}, **sealed},
                max_field_bytes=self.settings.max_field_bytes,
                max_session_bytes=self.settings.max_session_bytes,
            )
        return sealed

    def _may_be_too_large(self, *fields: Mapping[str, str]) -> bool:
        """Whether the sizes have to be looked at: a character has four bytes at most."""
        settings = self.settings
        if settings.max_field_bytes is not None:
            return True
        most = settings.max_session_bytes
        return (
            most is not None and 4 * sum(sum(map(len, each)) + sum(map(len, each.values())) for each in fields) > most
        )

    def note_failure(self, state: State, error: StoreError) -> None:
        """Let the session remember that no store could serve it."""
        state.failure = error
        if isinstance(error, StoreMisconfigured):
            self.on_event(StoreRefused(store=self.store.name, reason=str(error)))
        else:
            self.on_event(SessionUnavailable(reason=str(error)))
