"""What every step in the life of a session needs, and how a first record is made."""

import secrets
from collections.abc import Callable, Mapping

from vedsess_middleware.codec import Codec
from vedsess_middleware.cookies import CookieJar, Ticket
from vedsess_middleware.errors import StoreError, StoreMisconfigured
from vedsess_middleware.events import EventHook, SessionUnavailable, StoreRefused
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.settings import Settings
from vedsess_middleware.state import Changes, State
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.record import Delta, Field, Record, Version

__all__ = ["Parts"]

_LABEL = 64


class Parts:
    """The parts of a manager, shared by its steps.

    Args:
        store: where sessions are kept.
        settings: everything that is a value.
        jar: reads and signs cookies.
        codec: of values.
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
        clock: Callable[[], float],
        on_event: EventHook,
    ) -> None:
        self.store, self.settings, self.jar, self.codec, self.clock = store, settings, jar, codec, clock
        self.on_event = on_event
        self.refresh = min(60.0, settings.idle_timeout / 10)
        self._renewed_after = settings.idle_timeout / 2

    @property
    def now(self) -> float:
        """Epoch seconds, to the millisecond, as exact as a record holds them."""
        return round(self.clock() * 1000) / 1000

    @property
    def until(self) -> float:
        """When no copy of a session that is ended now can still be alive."""
        return self.now + self.settings.idle_timeout

    def renews(self, ticket: Ticket, version: Version, *, stale: bool) -> bool:
        """Whether the browser has to know something new, or the cookie that it has is getting old.

        What is lost, and said to be, is not looked for again: then the cookie tells what there is.
        """
        known = version == ticket.token or (not stale and ticket.token.covers(version))
        return not (known and ticket.newest_key and self.clock() - ticket.issued_at <= self._renewed_after)

    def first_record(self, values: Mapping[str, str], info: RequestInfo, *, at: float, user_id: str | None) -> Record:
        """A record of these encoded values, used now for the first time."""
        settings = self.settings
        record = Record.new(at=at, idle_timeout=settings.idle_timeout, deadline_at=at + settings.absolute_timeout)
        return record.replace(
            fields={name: Field(Version(), text) for name, text in values.items()},
            user_id=user_id,
            user_agent=_label(info.user_agent),
            ip_address=_label(info.ip_address),
        )

    def delta(self, changes: Changes, base: Version, loaded: Record | None) -> Delta:
        """The changes as a store takes them."""
        return Delta(
            put=changes.put,
            drop=changes.drop,
            forget=changes.forget,
            at=self.now,
            base=base,
            loaded=loaded,
            refresh=self.refresh,
            commit_id=secrets.token_hex(4),
        )

    def note_failure(self, state: State, error: StoreError) -> None:
        """Let the session remember that no store could serve it."""
        state.failure = error
        if isinstance(error, StoreMisconfigured):
            self.on_event(StoreRefused(store=self.store.name, reason=str(error)))
        else:
            self.on_event(SessionUnavailable(reason=str(error)))


def _label(text: str | None) -> str | None:
    """At most 64 printable ASCII characters: a longer value doubles the memory of a small hash."""
    if not text:
        return None
    text = text[:_LABEL]
    return text if text.isascii() and text.isprintable() else "".join(c if " " <= c <= "~" else "?" for c in text)
