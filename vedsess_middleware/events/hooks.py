"""The hooks: the default one, which logs, and the one that the stores and the manager of a site share."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from vedsess_middleware.events.audit import log_audit
from vedsess_middleware.events.base import Event, EventHook
from vedsess_middleware.events.names import SessionNames

__all__ = ["EventCounts", "log_event"]


class EventCounts:
    """A hook that counts what it hands on, and names the sessions in it.

    Args:
        on_event: the hook to hand on to.
        secret_keys: of the site, newest first, see `SessionNames`.  Default none: events are handed on as they are.

    Attributes:
        counts: how many of each kind there were since this process began, by the name of the class.
    """

    def __init__(self, on_event: EventHook, secret_keys: Sequence[str] = ()) -> None:
        self._on_event = on_event
        self._names = SessionNames(secret_keys) if secret_keys else None
        self.counts: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        self.counts[type(event).__name__] += 1
        self._on_event(self._names.put_into(event) if self._names else event)

    @classmethod
    def around(cls, on_event: EventHook, secret_keys: Sequence[str]) -> "EventCounts":
        """This hook if it counts and names already, so that none is wrapped twice; otherwise one around it."""
        if isinstance(on_event, EventCounts) and on_event._names:
            return on_event
        return cls(on_event, secret_keys)


_logger = logging.getLogger("vedsess_middleware")


def log_event(event: Event) -> None:
    """The default hook: one log record per event on the logger `vedsess_middleware`, and all that `log_audit` logs."""
    if _logger.isEnabledFor(event.level):
        name = type(event).__name__
        facts = " ".join(f"{fact}={value!r}" for fact, value in asdict(event).items())
        _logger.log(event.level, "%s %s", name, facts, extra={"event": name})
    log_audit(event)
