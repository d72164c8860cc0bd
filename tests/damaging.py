"""A site over a store that is damaged: it happens to ada's session, and bob's must neither be seen nor suffer."""

import asyncio
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from tests.clients import Answer, Browser, Clock, Handler, Site
from tests.damage import Broken, Case, Held, Shelf
from tests.sites import add, log_in, put
from vedsess_middleware import Session, events
from vedsess_middleware.cookies import CookieJar, Ticket
from vedsess_middleware.errors import StoreMisconfigured, StoreUnavailable
from vedsess_middleware.events import Event

ENCRYPTION_KEY = "wq3Jm0vJ8eK5yT1nB7dXcP2sL9fRaZ4uHg6iVkOoEtQ"
ADAS: dict[str, Any] = {"canary": "ada's own", "n": 3, "cart": {"a": [1, 2]}, "long": "x" * 200, "code": "42"}
BOBS: dict[str, Any] = {"canary": "bob's own", "n": 4, "cart": {"b": [5]}, "long": "y" * 200, "code": "43"}
OVER = events.RecordRejected, events.UnknownSession, events.SessionExpired, events.OldIdUsed

E = TypeVar("E", bound=Event)


def opened(session: Session) -> tuple[str | None, dict[str, Any]]:
    """The values first: with one that cannot be read, the session is over."""
    values = dict(session)
    return session.user_id, values


def change_id(session: Session) -> None:
    session.regenerate_id()


WORKS: tuple[Handler, ...] = (put(new=1), add("new", 1), change_id, log_in("ada"))


class Bench:
    """Where records are damaged.

    Args:
        shelf: kind of store.
        path: folder for its file.
        runner: of the event loop.
        encrypted: values are.
        moved: what is damaged is the tombstone of an id that was changed.

    Attributes:
        outcomes: what a request saw, counted.
        worked: on how many cases more was done than to look.
        held: what is stored under `key`, undamaged.
    """

    def __init__(self, shelf: type[Shelf], path: Path, runner: asyncio.Runner, *, encrypted: bool, moved: bool) -> None:
        clock, self.encrypted = Clock(), encrypted
        self.shelf: Shelf = shelf(path, clock)
        options: dict[str, Any] = {"encryption_key": ENCRYPTION_KEY} if encrypted else {}
        self.site = Site("wsgi", self.shelf.store, runner, clock=clock, compress_above=100, **options)
        self._jar = CookieJar(self.site.manager.settings)
        ada, self.cookies, self.key = self._logged_in("ada", ADAS)
        self.bob, _, self.bobs_key = self._logged_in("bob", BOBS)
        if moved:
            ada(change_id)
        self.truth = "ada", ADAS
        self.outcomes, self.worked = Counter[str](), 0
        self.shelf.keep()
        self.held: Held = self.shelf.held(self.key)
        assert self.visit().result == self.truth

    def _logged_in(self, user: str, values: dict[str, Any]) -> tuple[Browser, str, str]:
        browser = self.site.browser()
        browser(log_in(user, **values))
        if self.encrypted:
            browser(lambda session: session.put_secret("code", values["code"], ttl=600))
        session_id = (browser.jar.value() or "").partition(".")[0]
        return browser, browser.jar.header("/", scheme="http"), sha256(session_id.encode()).hexdigest()

    def close(self) -> None:
        """Give back what it holds."""
        self.shelf.close()
        self.site.manager.close()

    def told(self, *kinds: type[Event]) -> bool:
        """Whether one of these was told since the last visit began."""
        return any(isinstance(event, kinds) for event in self.site.events)

    def visit(self, handler: Handler = opened) -> Answer:
        """Ada comes with the cookie that she has had from the beginning."""
        self.site.events.clear()
        return self.site.browser()(handler, cookies=self.cookies)

    # -- looking ---------------------------------------------------------------------------------------------------

    def look_at(self, case: Case) -> None:
        """A request reads everything."""
        self.shelf.put(self.key, case.held)
        answer = self.visit()
        self._check_cookie(answer, case)
        self.outcomes[self._outcome(answer, case)] += 1

    def _outcome(self, answer: Answer, case: Case) -> str:
        where = case[:2]
        if answer.status == 503:
            return self._refused(answer, case)
        assert answer.status == 200, where
        user, values = answer.result
        if (user, values) == (None, {}):
            assert self.told(*OVER), where
            return "ended"
        assert user == "ada" or (case.place == "user_id" and user != "bob" and isinstance(user, str | None)), where
        if values == ADAS:
            return "true"
        self._check_values(values, case)
        return "another value"

    def _refused(self, answer: Answer, case: Case) -> str:
        assert answer.cookie is None
        if any(isinstance(value, Broken) for value in case.held.values()):
            return "not text"
        assert self.told(events.StoreRefused), case[:2]
        return "refused"

    def _check_values(self, values: dict[str, Any], case: Case) -> None:
        where, canaries = case[:2], repr(BOBS["canary"])
        assert canaries not in repr(values), where
        suffered = {name for name in ADAS if name not in values or values[name] != ADAS[name]}
        added = values.keys() - ADAS.keys()
        if self.encrypted:
            assert not added, where
            assert all(name not in values for name in suffered), where
        if case.place == "fields":
            assert len(suffered) <= 1, where
            assert len(added) <= 1, where
        else:
            assert suffered == {case.place.removeprefix("d:")}, where
            assert not added, where

    def _check_cookie(self, answer: Answer, case: Case) -> None:
        """Nobody wrote, so the cookie stays; at most it tells another version of the same session."""
        if answer.cookie is not None:
            [ticket] = self._jar.read(answer.cookie.partition(";")[0])
            assert isinstance(ticket, Ticket), case[:2]
            assert ticket.key == self.key, case[:2]
            assert "Max-Age=0" not in answer.cookie, case[:2]

    # -- working ---------------------------------------------------------------------------------------------------

    def work_on(self, case: Case) -> None:
        """Requests write and change the id, and ada's sessions are listed and ended."""
        self.worked += 1
        for work in WORKS:
            self._damage(case)
            browser = self.site.browser()
            answer = browser(work, cookies=self.cookies)
            assert answer.status in (200, 503), case[:2]
            assert answer.status == 200 or answer.cookie is None, case[:2]
            assert "Max-Age=0" not in (answer.cookie or ""), case[:2]
            assert BOBS["canary"] not in repr(browser(opened).result), case[:2]
        manager = self.site.manager
        for call in (manager.sessions, manager.export, manager.revoke):
            self._damage(case)
            with suppress(StoreUnavailable, StoreMisconfigured):
                assert BOBS["canary"] not in repr(self.site.run(call("ada"))), case[:2]
        self._damage(case)
        assert self.site.browser()(Session.logout, cookies=self.cookies).status in (200, 503), case[:2]
        assert self.bob(opened).result == ("bob", BOBS), case[:2]
        self.shelf.restore()

    def _damage(self, case: Case) -> None:
        self.shelf.restore()
        self.shelf.put(self.key, case.held)
