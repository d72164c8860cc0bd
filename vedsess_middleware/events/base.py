"""What every event has, and what a hook is."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["Event", "EventHook"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        level: how loud the log is about it, as in `logging`.
        audit: what the OWASP Logging Vocabulary calls it; empty where it has no fitting name.
    """

    level: ClassVar[int] = logging.DEBUG
    audit: ClassVar[str] = ""

    @property
    def audit_names(self) -> tuple[str, ...]:
        """Every name that the vocabulary has for this very event: none, one, or more."""
        return (self.audit,) if self.audit else ()


EventHook = Callable[[Event], None]
"""Called with every event, in the thread or task that caused it."""
