"""Users whose sessions are over, also those that no index names: what a process knows of them, without I/O."""

import threading
from collections.abc import Mapping

from vedsess_middleware.stores.record import Record

__all__ = ["CutOffs"]


class CutOffs:
    """When users were cut off, as the secondary says.

    Args:
        longest_life: of a session, in seconds: what began before an older cut-off is over anyway.

    Attributes:
        known: how many there ever were, as `News.cut_offs` counts them, when they were asked for last.
    """

    def __init__(self, longest_life: float) -> None:
        self._longest_life = longest_life
        self._lock = threading.Lock()
        self._at: dict[str, float] = {}
        self._met: dict[str, Record] = {}
        self.known = 0

    def __repr__(self) -> str:
        return f"<CutOffs {len(self._at)} users>"

    @property
    def pending(self) -> bool:
        """Whether sessions were met that are to be ended for good."""
        return bool(self._met)

    def note(self, user_id: str, at: float) -> None:
        """This process has cut a user off."""
        self.learn(self.known, {user_id: at})

    def learn(self, known: int, cut_offs: Mapping[str, float]) -> None:
        """Take what the secondary says, and forget what is of no use any more."""
        with self._lock:
            later = {user: max(at, self._at.get(user, at)) for user, at in cut_offs.items()}
            everyone = {**self._at, **later}
            oldest = max(everyone.values(), default=0.0) - self._longest_life
            self._at = {user: at for user, at in everyone.items() if at > oldest}
            self.known = known

    def over(self, record: Record) -> bool:
        """Whether a session is over, whatever its record says.

        Not one that began in the same millisecond: to log in anew is what comes right after a cut-off.
        """
        if not self._at or record.user_id is None:
            return False
        at = self._at.get(record.user_id)
        return at is not None and record.created_at < at

    def end(self, key: str, record: Record, at: float) -> Record:
        """The tombstone of a session that is over, which is `taken` to be stored after the response."""
        ended_at = self._at.get(record.user_id or "", at)
        tombstone = Record.tombstone(version=record.version, at=ended_at, until=record.ends_at(at))
        with self._lock:
            self._met[key] = tombstone
        return tombstone

    def taken(self) -> dict[str, Record]:
        """The tombstones that are to be stored, by key."""
        with self._lock:
            taken, self._met = self._met, {}
            return taken
