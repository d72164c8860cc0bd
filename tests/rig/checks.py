"""The oracle: promises, held against a history.  Every check is a pure function and returns what was broken.

The known exceptions of the protocol are not flagged: of two parallel responses of one jar the browser keeps the last
cookie, and knows nothing of the other; where one field is written on both sides of a partition, either value wins.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf

from tests.rig.history import ID_CHANGES, WRITING, History, Op, Violation, Write

__all__ = ["Limits", "Window", "check_all", "latencies", "staleness"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long what may take.  Seconds.

    Attributes:
        staleness: how old what a foreign jar reads may be.
        grace: how long an old id lets in requests that were under way.
        id_change: how long an old id may still be alive beyond that, while a store is away.
        budget: how long after the begin of a fault a request may still fail.
        recovery: the same after the end of one that took both stores.
    """

    staleness: float = 1.5
    grace: float = 1.0
    id_change: float = 2.5
    budget: float = 1.5
    recovery: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A fault, from its begin until all had come to rest.

    Attributes:
        name: of the fault.
        start: its begin.
        heal: when it was mended.
        end: when it was over.
        unavailable: no store can serve: 503 is the right answer until it is mended.
        workers: that are killed or frozen themselves: they need not answer.
        double: two failures at once, so that until its end a read may lack writes that are still on their way.
    """

    name: str
    start: float
    heal: float
    end: float
    unavailable: bool = False
    workers: frozenset[str] = frozenset()
    double: bool = False

    def holds(self, op: Op) -> bool:
        """Whether the operation began in it."""
        return self.start <= op.start <= self.end


def check_all(ops: Sequence[Op], windows: Sequence[Window] = (), limits: Limits = Limits()) -> list[Violation]:
    """Everything that can be said of a history, each subject once."""
    history = History(ops)
    found = chain(
        _owed(lost_acks(history, limits), windows),
        _owed(own_reads(history), windows),
        phantoms(history),
        resurrections(history, windows, limits),
        lost_logins(history),
        unavailability(history, windows, limits),
    )
    first: dict[tuple[str, str], Violation] = {}
    for violation in found:
        first.setdefault((violation.check, violation.subject), violation)
    return list(first.values())


def _owed(violations: Iterator[Violation], windows: Sequence[Window]) -> Iterator[Violation]:
    """Those that no double failure excuses."""
    for violation in violations:
        op = violation.op
        if op is None or op.final or not any(window.double and window.holds(op) for window in windows):
            yield violation


# -- 1 and 9: what is written is there, for everybody, soon ------------------------------------------------------------


def lost_acks(history: History, limits: Limits = Limits()) -> Iterator[Violation]:
    """A write that is still not there after the time that foreign jars may lag; for good, if all had come to rest."""
    for op, name, age in _ages(history):
        if age > limits.staleness:
            check = "1 lost ack" if op.final else "9 stale for long"
            value = (op.seen or {}).get(name)
            detail = f"{name}={value} was overwritten {age:.2f} s before it was read"
            yield Violation(check, f"{op.sent_id[:8]} {name} {value}", op, detail)


def staleness(history: History) -> float:
    """The oldest that any read was, in seconds."""
    return max((age for _, _, age in _ages(history)), default=0.0)


def _ages(history: History) -> Iterator[tuple[Op, str, float]]:
    """Each field of each read with how long before its begin it had been overwritten, if it had."""
    for op, session in _observations(history):
        for name in _names(history, session):
            series = history.series[session, name]
            value = (op.seen or {}).get(name)
            if value is None:
                since = series.overwritten_at(series.absence_from(op.end))
            elif (write := series.by_value.get(value)) is None:
                continue  # a phantom
            else:
                since = series.overwritten_at(write.end)
            if since < op.start:
                yield op, name, op.start - since


def _observations(history: History) -> Iterator[tuple[Op, int]]:
    """Every look into a session that was alive."""
    for op in history.ops:
        session = history.session_of(op)
        if op.observes and not op.anonymous and session is not None:
            yield op, session


def _names(history: History, session: int) -> list[str]:
    return [name for name in ("f0", "f1", "f2", "f3", "f4") if (session, name) in history.series]


# -- 2: a jar sees its own writes, and never goes back -----------------------------------------------------------------

_Known = dict[str, Write]


def own_reads(history: History) -> Iterator[Violation]:
    """A cookie stands for all that its browser was answered with: no read that sends it may show less."""
    known: dict[str, _Known] = {}
    wanted: dict[int, _Known] = {}
    moments = [(op.start, 0, op) for op in history.ops] + [(op.end, 1, op) for op in history.ops]
    for _, is_end, op in sorted(moments, key=lambda moment: moment[:2]):
        if not is_end:
            wanted[id(op)] = dict(known.get(op.sent, ()))
            continue
        before = wanted.pop(id(op))
        session = history.session_of(op)
        if session is None or op.outcome != "ok":
            continue
        if op.observes and not op.anonymous:
            yield from _lacking(history, session, op, before)
        if op.got_id and op.got_id != op.sent_id and op.seen_new:
            continue
        cookie = op.got or op.sent
        known[cookie] = _newest(known.get(cookie, {}), before, _learned(history, session, op))


def _lacking(history: History, session: int, op: Op, wanted: _Known) -> Iterator[Violation]:
    for name, write in wanted.items():
        series = history.series[session, name]
        value = (op.seen or {}).get(name)
        if value is None:
            fine = not series.absence_from(op.end) < write.start
        else:
            found = series.by_value.get(value)
            fine = found is None or not found.before(write)
        if not fine:
            detail = f"{name} is {value}, and this browser had been told of {write.op}"
            yield Violation("2 own reads", f"{op.sent_id[:8]} {write.op.client}#{write.op.seq}", op, detail)


def _learned(history: History, session: int, op: Op) -> _Known:
    """What the answer of an operation told its browser."""
    learned: _Known = {}
    for name, value in (op.seen or {}).items():
        write = history.series[session, name].by_value.get(value) if (session, name) in history.series else None
        if write is not None:
            learned[name] = write
    own = [write for write in history.series[session, op.name].writes if write.op is op] if op.kind in WRITING else []
    if own and own[0].acknowledged:
        learned[op.name] = own[0]
    return learned


def _newest(*known: _Known) -> _Known:
    newest: _Known = {}
    for each in known:
        for name, write in each.items():
            if name not in newest or write.start > newest[name].start:
                newest[name] = write
    return newest


# -- 3: nothing from nowhere -------------------------------------------------------------------------------------------


def phantoms(history: History) -> Iterator[Violation]:
    """A value that this session was never told, or a user who never logged in to it."""
    for op, session in _observations(history):
        users = history.users_of(session)
        if users and op.seen_user not in users:
            yield Violation("3 mixing", f"{op.sent_id[:8]} {op.seen_user}", op, f"the user was {users}")
        for name, value in (op.seen or {}).items():
            series = history.series.get((session, name))
            if series is None or value not in series.by_value:
                yield Violation("3 phantom", f"{op.sent_id[:8]} {name} {value}", op, "nobody wrote that here")


# -- 4 and 5: who is logged out, and who is not ------------------------------------------------------------------------


def resurrections(history: History, windows: Sequence[Window] = (), limits: Limits = Limits()) -> Iterator[Violation]:
    """A session that is alive after its end; or after it was once seen dead, where nobody knows when it ended."""
    dead_since: dict[str, float] = {}
    for op in history.ops:
        life = history.ids.get(op.sent_id)
        if life is None or not op.observes:
            continue
        if op.anonymous:
            dead_since[op.sent_id] = min(dead_since.get(op.sent_id, inf), op.end)
            continue
        changed = life.change_at + limits.grace + (limits.id_change if _degraded(life.change_at, windows) else 0.0)
        seen_dead = dead_since.get(op.sent_id, inf) + (0.0 if life.maybe_logout else limits.id_change)
        for what, since in (("logout", life.logout_at), ("id change", changed), ("being seen dead", seen_dead)):
            if since < op.start:
                detail = f"alive {op.start - since:.2f} s after {what}"
                yield Violation("4 resurrection", f"{op.sent_id[:8]} {what}", op, detail)


def _degraded(at: float, windows: Sequence[Window]) -> bool:
    return any(window.start <= at <= window.end for window in windows)


def lost_logins(history: History) -> Iterator[Violation]:
    """Somebody who did not ask for it is logged out, loses the cookie, or gets another id."""
    for op in history.ops:
        life = history.ids.get(op.sent_id)
        if life is None or op.outcome != "ok" or not history.users_of(life.session):
            continue
        if op.end >= life.attempt_at != op.start:
            continue  # somebody was ending it
        if op.observes and op.anonymous:
            yield Violation("5 logged out", op.sent_id[:8], op, "nobody had asked for it")
        elif op.kind == "logout":
            continue
        elif op.got == "":
            yield Violation("5 cookie removed", op.sent_id[:8], op, "nobody had asked for it")
        elif op.got_id not in ("", op.sent_id) and op.kind not in ID_CHANGES:
            yield Violation("5 id changed", op.sent_id[:8], op, "nobody had asked for it")


# -- 6: somebody always answers ----------------------------------------------------------------------------------------


def unavailability(history: History, windows: Sequence[Window] = (), limits: Limits = Limits()) -> Iterator[Violation]:
    """An answer of 5xx, or none, while a store could have served; 500 never has an excuse."""
    for op in history.ops:
        broken = op.status == 500
        if not broken and (op.outcome == "ok" or _excused(op, windows, limits)):
            continue
        if op.status < 500 and op.status != 0:
            continue
        window = next((window.name for window in windows if window.start <= op.end and op.start <= window.end), "calm")
        subject = f"{op.status or op.error} during {window}"
        yield Violation("6 unavailable", subject, op, f"after {op.end - op.start:.2f} s")


def _excused(op: Op, windows: Sequence[Window], limits: Limits) -> bool:
    for window in windows:
        if op.worker in window.workers and op.status == 0 and op.end >= window.start and op.start <= window.end:
            return True
        until = window.heal + limits.recovery if window.unavailable else window.start + limits.budget
        if op.end >= window.start and op.start <= until:
            return True
    return False


def latencies(ops: Sequence[Op], *, keep: Callable[[Op], bool] = lambda op: True) -> dict[str, float]:
    """Median, 99th percentile and maximum of the answered ones, in seconds."""
    seconds = sorted(op.end - op.start for op in ops if op.status and keep(op))
    if not seconds:
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    return {"p50": seconds[len(seconds) // 2], "p99": seconds[int(0.99 * (len(seconds) - 1))], "max": seconds[-1]}
