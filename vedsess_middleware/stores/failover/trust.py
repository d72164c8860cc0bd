"""Whether this process may answer from the primary: decided without I/O, from what polls of the secondary say.

A process that cannot reach the primary writes to the secondary, and every other one has to hear of it.  So trust is a
lease of seconds, which a poll renews: it brings the dirty keys, and the epoch that copies have to be of.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from vedsess_middleware.stores.contract import News

__all__ = ["POLL_EVERY", "TRUST_LASTS", "Begun", "Missing", "Trust"]

POLL_EVERY = 1.0
TRUST_LASTS = 2.0
_PATIENCE = 2.5
_LONGEST_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Begun:
    """A poll that is under way: it may renew no trust that is lost meanwhile."""

    at: float
    losses: int


@dataclass(slots=True, kw_only=True)
class Missing:
    """An epoch that the primary does not know.

    Attributes:
        epoch: which.
        since: when that was found, in monotonic seconds.
        worked: this process has had answers under it: then the primary was restarted, or is another one.  Otherwise
            somebody else has yet to install it.
        mine: a new epoch that this process is to install, once ...
        installs_at: ... when nobody can trust the missing one any more.
    """

    epoch: str
    since: float
    worked: bool
    mine: str = ""
    installs_at: float = math.inf


class Trust:
    """The lease on the primary.

    Args:
        clock: monotonic seconds.

    Attributes:
        epoch: the one that copies have to be of; empty before the first poll.
        denied: keys that were dirty at the last poll: for them, nothing but a tombstone counts.
        missing: the epoch that the primary does not know; None: all is well.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.epoch = ""
        self.denied: frozenset[str] = frozenset()
        self.missing: Missing | None = None
        self._until = self._polled_at = self._bumped_at = -math.inf
        self._void, self._losses = True, 0
        self._worked, self._patience = False, _PATIENCE

    def __repr__(self) -> str:
        return f"<Trust {'held' if self.held else 'lost'}>"

    @property
    def held(self) -> bool:
        """Whether the primary may be answered from, now."""
        return self._clock() < self._until and self.missing is None

    @property
    def poll_due(self) -> bool:
        """Whether it is time to poll."""
        return self._void or self._clock() >= self._polled_at + POLL_EVERY

    def begin_poll(self) -> Begun:
        """A poll begins: the trust that it gives counts from now."""
        return Begun(self._clock(), self._losses)

    def polled(self, begun: Begun, news: News) -> None:
        """Take what the poll says.  It renews no trust that was lost since it began: it may have read too early."""
        with self._lock:
            if news.epoch != self.epoch:
                self.epoch, self._worked = news.epoch, False
            self.denied, self._polled_at = news.dirty, begun.at
            if begun.losses != self._losses:
                return
            self._void = False
            self._until = begun.at + TRUST_LASTS if news.complete else -math.inf

    def remember(self, epoch: str) -> None:
        """What the primary says of its epoch, while nobody else can say."""
        with self._lock:
            self.epoch, self._worked = epoch, False

    def distrust(self) -> None:
        """This process wrote past the primary, or could not ask it: poll before it is trusted again."""
        with self._lock:
            self._until, self._void = -math.inf, True
            self._losses += 1

    # -- the epoch -------------------------------------------------------------------------------------------------

    def answered(self, epoch: str) -> None:
        """The primary answered under this epoch."""
        if not self._worked and epoch == self.epoch:
            self._worked = True

    def miss(self, epoch: str) -> bool:
        """The primary does not know this epoch: it is not asked again before that is mended.  Whether that is news."""
        self.distrust()
        with self._lock:
            if self.missing is not None or epoch != self.epoch:
                return False
            self.missing = Missing(epoch=epoch, since=self._clock(), worked=self._worked)
            return True

    def may_bump(self, missing: Missing) -> bool:
        """Whether a new epoch may be made; where another process seems to be about it, it is given time."""
        now = self._clock()
        return (missing.worked and now - self._bumped_at > self._patience) or now - missing.since > self._patience

    def bumped(self, missing: Missing, epoch: str) -> None:
        """The secondary has taken a new epoch: it is installed when no process can trust the old one any more."""
        now = self._clock()
        # Two primaries, each with processes of its own, must not chase each other.
        calm = now - self._bumped_at > 2 * _LONGEST_PATIENCE
        self._patience = _PATIENCE if calm else min(2 * self._patience, _LONGEST_PATIENCE)
        self._bumped_at = now
        missing.mine, missing.installs_at = epoch, now + TRUST_LASTS

    def installing(self, missing: Missing) -> str:
        """The epoch to install now; empty while there is none.  Given out once: any doubt asks for a new one."""
        epoch = missing.mine
        with self._lock:
            if self.missing is not missing or not epoch or self._clock() < missing.installs_at:
                return ""
            self.missing = Missing(epoch=epoch, since=self._clock(), worked=False)
            return epoch

    def renamed(self, epoch: str) -> None:
        """Another process has made this epoch: it is what is missing now, until it answers."""
        self.missing = Missing(epoch=epoch, since=self._clock(), worked=False)

    def mended(self) -> None:
        """The primary knows the epoch."""
        self.missing = None
