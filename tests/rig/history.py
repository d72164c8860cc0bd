"""What the browsers did and saw, and what follows from it: who wrote what, and which ids belong to one session.

Everything here is a pure function of the list of operations, in linear time but for sorting.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any, Literal

__all__ = ["ID_CHANGES", "OBSERVING", "WRITING", "History", "IdLife", "Op", "Outcome", "Violation", "Write"]

Kind = Literal["read", "write", "blind", "delete", "login", "logout", "regenerate", "plain"]
Outcome = Literal["ok", "fail", "info"]

WRITING = frozenset({"write", "blind", "delete"})
OBSERVING = frozenset({"read", "write", "delete", "login", "regenerate"})
ID_CHANGES = frozenset({"login", "regenerate"})


@dataclass(slots=True, kw_only=True)
class Op:
    """One request, as its browser saw it.  Instants are monotonic seconds.

    Attributes:
        client: the browser, or a name that begins with `replay`.
        seq: its number, within that client.
        kind: what was asked for.
        worker: who was asked.
        start: when it was sent.
        end: when it was answered, or given up.
        outcome: `ok`; `fail`: surely not applied; `info`: may or may not be applied, now or later.
        status: of HTTP; 0 if there was no answer.
        error: why there was no answer: `refused`, `cut` or `timeout`.
        user: who logs in.
        name: of the field that is written or deleted.
        value: that is written, unlike any other.
        sent: the cookie that was sent, or "".
        got: the cookie that the answer set; "": it removed it; None: neither.
        seen_user: who was logged in before the request changed anything; None for nobody.
        seen: the values before that; None where the answer did not say.
        seen_new: the session did not exist before.
        store: which store served.
        stale: the session said that it may lack writes.
        final: made when all had come to rest.
    """

    client: str
    seq: int
    kind: Kind
    worker: str = ""
    start: float
    end: float
    outcome: Outcome = "ok"
    status: int = 200
    error: str = ""
    user: str = ""
    name: str = ""
    value: str | None = None
    sent: str = ""
    got: str | None = None
    seen_user: str | None = None
    seen: dict[str, Any] | None = None
    seen_new: bool = False
    store: str = ""
    stale: bool = False
    final: bool = False

    @property
    def sent_id(self) -> str:
        """The session id that was sent."""
        return self.sent.partition(".")[0]

    @property
    def got_id(self) -> str:
        """The session id that was set."""
        return (self.got or "").partition(".")[0]

    @property
    def observes(self) -> bool:
        """Whether the answer says what was in the session."""
        return self.outcome == "ok" and self.seen is not None

    @property
    def anonymous(self) -> bool:
        """Whether the answer says that nobody is logged in."""
        return self.seen_user is None

    def __str__(self) -> str:
        what = f"{self.kind} {self.name}={self.value}" if self.name else self.kind
        by = f" by {self.store}{' (stale)' if self.stale else ''}" if self.store else ""
        times = f"[{self.start:.3f}, {self.end:.3f}]"
        return f"{self.client}#{self.seq} {what} at {self.worker}{by} {times} {self.outcome}"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept.

    Attributes:
        check: which, such as `lost ack`.
        subject: the same words are one violation, however often it was seen.
        op: that showed it first, if one did.
        detail: for whoever looks into it.
    """

    check: str
    subject: str
    op: Op | None = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.check}: {self.subject}: {self.detail}{f' <- {self.op}' if self.op else ''}"


@dataclass(frozen=True, slots=True)
class Write:
    """A value, or a deletion, of one field of one session.

    Attributes:
        op: that wrote it.
        acknowledged: it has to be there from then on.
    """

    op: Op
    acknowledged: bool

    @property
    def start(self) -> float:
        return self.op.start

    @property
    def end(self) -> float:
        """After that it was done; never, if nobody knows."""
        return self.op.end if self.acknowledged else inf

    def before(self, other: "Write") -> bool:
        """Whether it was surely done before the other one began."""
        return self.end < other.start


@dataclass(slots=True)
class IdLife:
    """What was done to end one session id.

    Attributes:
        session: the session that it belongs to.
        attempt_at: begin of the first attempt to end or change it.
        logout_at: end of the first acknowledged logout.
        change_at: end of the first acknowledged change of id.
        maybe_logout: somebody tried to log out, and never learned whether it worked.
    """

    session: int
    attempt_at: float = inf
    logout_at: float = inf
    change_at: float = inf
    maybe_logout: bool = False


@dataclass
class Series:
    """All writes of one field of one session, and what they say of a value that was read."""

    writes: list[Write] = field(default_factory=list)

    @cached_property
    def by_value(self) -> dict[str | None, Write]:
        """The write of each value."""
        return {write.op.value: write for write in self.writes if write.op.kind != "delete"}

    @cached_property
    def deletions(self) -> list[Write]:
        return sorted((write for write in self.writes if write.op.kind == "delete"), key=lambda write: write.start)

    @cached_property
    def _acknowledged(self) -> tuple[list[float], list[float]]:
        """Starts in order, and for each the earliest end from there on."""
        done = sorted((write.start, write.end) for write in self.writes if write.acknowledged)
        ends, earliest = [inf] * len(done), inf
        for place in range(len(done) - 1, -1, -1):
            earliest = ends[place] = min(earliest, done[place][1])
        return [start for start, _ in done], ends

    def overwritten_at(self, end: float) -> float:
        """When a write that began after `end` was first acknowledged."""
        starts, ends = self._acknowledged
        place = bisect_right(starts, end)
        return ends[place] if place < len(starts) else inf

    def absence_from(self, read_end: float) -> float:
        """Until when a deletion explains that there is no value: the last end of one that began before the read ended.

        -inf where nothing was ever deleted: then the field may only be missing as long as nobody has written it.
        """
        ends = [write.end for write in self.deletions if write.start < read_end]
        return max(ends, default=-inf)


class History:
    """The operations in order, with their sessions and writes."""

    def __init__(self, ops: Iterable[Op]) -> None:
        self.ops: Sequence[Op] = sorted(ops, key=lambda op: op.end)
        self.ids: dict[str, IdLife] = {}
        self._users: dict[int, set[str]] = defaultdict(set)
        for op in self.ops:
            self._follow(op)
        self.series: dict[tuple[int, str], Series] = defaultdict(Series)
        for op in self.ops:
            self._note_write(op)

    def session_of(self, op: Op) -> int | None:
        """The session whose cookie was sent."""
        life = self.ids.get(op.sent_id)
        return life.session if life else None

    def users_of(self, session: int) -> set[str]:
        """Everybody who logged in to it, or may have."""
        return self._users[session]

    def _follow(self, op: Op) -> None:
        """Learn which ids there are, and what became of them."""
        life = self.ids.get(op.sent_id)
        if life and op.outcome != "fail":
            self._note_end(op, life)
        if op.got_id and op.got_id not in self.ids:
            goes_on = life is not None and op.kind in ID_CHANGES and not op.seen_new
            self.ids[op.got_id] = IdLife(life.session if life and goes_on else len(self.ids))
        holder = self.ids.get(op.got_id) or life
        if op.kind == "login" and holder:
            self._users[holder.session].add(op.user)

    def _note_end(self, op: Op, life: IdLife) -> None:
        done = op.outcome == "ok"
        if op.kind == "logout":
            life.attempt_at = min(life.attempt_at, op.start)
            life.logout_at = min(life.logout_at, op.end if done else inf)
            life.maybe_logout |= not done
        elif op.kind in ID_CHANGES and not (done and op.seen_new):
            life.attempt_at = min(life.attempt_at, op.start)
            life.change_at = min(life.change_at, op.end if done and op.got_id else inf)

    def _note_write(self, op: Op) -> None:
        life = self.ids.get(op.sent_id)
        if op.kind not in WRITING or op.outcome == "fail" or life is None:
            return
        if op.outcome == "ok" and op.got_id not in ("", op.sent_id):
            life = self.ids[op.got_id]  # the old one was over: this is a new session
        elif op.observes and op.anonymous and op.kind != "blind":
            return  # such a request writes nothing
        # What a session is told while its id changes, or later under the old one, may be lost.
        acknowledged = op.outcome == "ok" and op.end < life.attempt_at
        self.series[life.session, op.name].writes.append(Write(op, acknowledged))
