"""`vedsess demo --check`: what is promised, tried on the running demo and judged step by step."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from vedsess_middleware import JsonCodec, Settings, run_blocking
from vedsess_middleware.console.check_redis import wire_of
from vedsess_middleware.console.demo.browser import Browser, Seen
from vedsess_middleware.console.demo.rig import DemoFailed, Rig
from vedsess_middleware.stores.sql import SQLStore

__all__ = ["Drive", "Row"]

_USER = "alice"
_BOTH = ("wsgi", "asgi")
_RECOVERY = 10.0
_COPY = 5.0
_POLL = 0.05
_FROZEN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the report.

    Attributes:
        step: what was done.
        app: which app answered; empty: none was asked.
        status: of HTTP; None likewise.
        store: that served the session.
        seconds: that it took.
        flaw: what was seen instead of what was promised; empty: the step held.
    """

    step: str
    app: str = ""
    status: int | None = None
    store: str = ""
    seconds: float
    flaw: str = ""


class _Stopped(Exception):
    """A step did not hold: the others would prove nothing."""


class Drive:
    """Tries all steps, up to the first that does not hold.

    Args:
        rig: the running demo.

    Attributes:
        rows: what was tried, in order.
    """

    def __init__(self, rig: Rig) -> None:
        self.rows: list[Row] = []
        self._rig = rig
        self._values: dict[str, str] = {}
        self._sql_seconds = dict.fromkeys(_BOTH, 0.0)

    def run(self) -> bool:
        """Whether every step held."""
        started_at = time.perf_counter()
        try:
            with Browser(self._rig.urls) as self._browser:
                self._healthy()
                self._killed()
                self._back()
                self._frozen()
                self._rewound()
                self._logged_out()
        except _Stopped:
            return False
        except (httpx.HTTPError, DemoFailed) as error:
            flaw = f"{type(error).__name__}: {error}  {self._rig.dead()}".rstrip()
            self.rows.append(Row(step="(interrupted)", seconds=time.perf_counter() - started_at, flaw=flaw))
            return False
        return True

    # -- the story -------------------------------------------------------------------------------------------------

    def _healthy(self) -> None:
        for app in _BOTH:  # the first answer of a process waits for its imports
            self._judge("open the page", self._browser.look(app), user=None)
        self._note("log in", self._browser.send("wsgi", "login", name=_USER))
        self._look("read", "asgi", store="redis")
        forms = {app: {"field": app, "value": f"written on {app}"} for app in _BOTH}
        for seen in self._browser.send_at_once("write", forms):
            self._note("write at once", seen)
        self._values |= {form["field"]: form["value"] for form in forms.values()}
        for app in _BOTH:
            self._look("both writes are there", app, store="redis")
        self._wait("SQL has a copy", self._is_copied, _COPY)

    def _killed(self) -> None:
        self._order("kill Redis (SIGKILL)", "kill")
        for app in _BOTH:
            self._look("still logged in", app, store="sql")
        for app, other in (_BOTH, _BOTH[::-1]):
            self._write("write without Redis", app)
            self._look("read it on the other app", other, store="sql")
        for app in _BOTH:
            self._sql_seconds[app] = self._look("read again", app, store="sql").seconds

    def _back(self) -> None:
        self._order("start Redis again", "start")
        self._wait("Redis is empty", self._is_empty, 0.0)
        for app in _BOTH:
            self._look("still logged in", app)
        for app in _BOTH:
            self._recover(app)

    def _frozen(self) -> None:
        self._order("freeze Redis (SIGSTOP)", "freeze")
        for app in _BOTH:
            self._look("served in time", app, store="sql", within=_FROZEN + self._sql_seconds[app])
        self._order("thaw Redis", "thaw")
        for app in _BOTH:
            self._recover(app)

    def _rewound(self) -> None:
        self._save()
        for app in _BOTH:
            self._write("write after the dump", app, "after the dump")
        self._order("kill Redis (SIGKILL)", "kill")
        self._order("start it from the dump", "start")
        self._wait("Redis holds the old data", lambda: not self._is_empty(), 0.0)
        for app in _BOTH:
            self._look("the newest is there", app)
        for app in _BOTH:
            self._recover(app)

    def _logged_out(self) -> None:
        old = self._browser.cookie
        self._save()
        self._note("log out", self._browser.send("asgi", "logout"))
        self._values = {}
        for app in _BOTH:
            self._judge("nobody is logged in", self._browser.look(app), user=None)
        self._order("kill Redis (SIGKILL)", "kill")
        self._order("start it from the dump", "start")
        for app in _BOTH:
            self._judge("nobody is logged in", self._browser.look(app), user=None)
        for app in _BOTH:
            self._judge("the old cookie is worthless", self._browser.look(app, cookie=old), user=None)

    # -- doing -----------------------------------------------------------------------------------------------------

    def _look(self, step: str, app: str, *, store: str = "", within: float | None = None) -> Seen:
        return self._judge(step, self._browser.look(app), user=_USER, store=store, within=within)

    def _write(self, step: str, app: str, value: str = "without Redis") -> None:
        name = f"{app} alone"
        self._note(step, self._browser.send(app, "write", field=name, value=value))
        self._values[name] = value

    def _order(self, step: str, order: str) -> None:
        started_at = time.perf_counter()
        self._rig.ask(order)
        self.rows.append(Row(step=step, seconds=time.perf_counter() - started_at))

    def _recover(self, app: str) -> None:
        """The apps notice on their own requests, so ask until one is served by Redis; each has to be right."""
        started_at = time.perf_counter()
        while True:
            seen = self._browser.look(app)
            waited = time.perf_counter() - started_at
            if seen.store == "redis" or waited > _RECOVERY or self._flaw(seen, _USER):
                break
            time.sleep(_POLL)
        shown = Seen(seen.app, seen.status, seen.store, waited, seen.facts)
        self._judge("Redis serves again", shown, user=_USER, store="redis")

    def _wait(self, step: str, condition: Callable[[], bool], patience: float) -> None:
        started_at = time.perf_counter()
        while not (held := condition()) and time.perf_counter() - started_at < patience:
            time.sleep(_POLL)
        self._add(Row(step=step, seconds=time.perf_counter() - started_at, flaw="" if held else "it is not so"))

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judge(self, step: str, seen: Seen, *, user: str | None, store: str = "", within: float | None = None) -> Seen:
        flaw = self._flaw(seen, user)
        if not flaw and store and seen.store != store:
            flaw = f"served by {seen.store or 'no store'} instead of {store}"
        if not flaw and within is not None and seen.seconds > within:
            flaw = f"took longer than {within * 1000:.0f} ms"
        self._add(_row(step, seen, flaw))
        return seen

    def _flaw(self, seen: Seen, user: str | None) -> str:
        if seen.status != httpx.codes.OK:
            return f"status {seen.status} instead of 200"
        if seen.facts["user"] != user:
            return "somebody is logged in" if user is None else "the user is not logged in any more"
        if seen.facts["values"] != self._values:
            return f"{len(seen.facts['values'])} values instead of the {len(self._values)} that were written"
        return ""

    def _note(self, step: str, seen: Seen) -> None:
        flaw = "" if seen.status == httpx.codes.SEE_OTHER else f"status {seen.status} instead of 303"
        self._add(_row(step, seen, flaw))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        if row.flaw:
            raise _Stopped

    # -- looking behind the apps -----------------------------------------------------------------------------------

    def _is_copied(self) -> bool:
        codec, store = JsonCodec(), SQLStore.from_url(self._rig.environ["VEDSESS_DATABASE_URL"], is_async=False)
        wanted = {name: codec.encode(name, value) for name, value in self._values.items()}.items()
        try:
            records = run_blocking(store.records_of(_USER, at=time.time()))
        finally:
            run_blocking(store.close())
        return any(wanted <= record.values.items() for record in records.values())

    def _is_empty(self) -> bool:
        return bool(self._told_redis("DBSIZE") == 0)

    def _save(self) -> None:
        started_at = time.perf_counter()
        self._told_redis("SAVE")
        self.rows.append(Row(step="keep a dump of Redis", seconds=time.perf_counter() - started_at))

    def _told_redis(self, command: str) -> object:
        wire = wire_of(Settings.from_env(self._rig.environ), is_async=False)
        try:
            return run_blocking(wire.execute(command))
        finally:
            run_blocking(wire.close())


def _row(step: str, seen: Seen, flaw: str) -> Row:
    return Row(step=step, app=seen.app, status=seen.status, store=seen.store, seconds=seen.seconds, flaw=flaw)
