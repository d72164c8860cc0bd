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
    """

    level: ClassVar[int] = logging.DEBUG


EventHook = Callable[[Event], None]
"""Called with every event, in the thread or task that caused it."""
