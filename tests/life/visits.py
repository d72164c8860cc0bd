"""One visit: a browser sends a cookie, the app acts, and both have to see what the model says."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256

from tests.clients import Answer, Browser, Clock, Site
from tests.life.acts import Act, Look
from tests.life.model import Effect, Model
from tests.life.sessions import Found, Life, Rules
from tests.life.worlds import Place
from vedsess_middleware import Session, StoreUnavailable, events
from vedsess_middleware.manager import SessionInfo
from vedsess_middleware.stores.contract import RESERVED_FOR

__all__ = ["TICK", "Visits"]

TICK = 0.125
"""Seconds from one visit to the next: no two sessions begin at once."""

Meanwhile = Callable[[Session, Found], None]

_NEVER = (events.RecordRejected, events.CookieRejected, events.WritesLost, events.StoreRefused)


class Visits:
    """Visits to the sites of some processes over the same stores.

    Args:
        sites: one for each process.
        place: their stores.
        clock: which they share.
        rules: of all of them.
    """

    def __init__(self, sites: Sequence[Site], place: Place, clock: Clock, rules: Rules) -> None:
        self.sites, self.place, self.clock, self.model = sites, place, clock, Model(rules)
        self.browsers = [[site.browser() for site in sites] for _ in range(3)]
        """The same three at each process: each has one jar."""
        for same in self.browsers:
            for other in same[1:]:
                other.jar = same[0].jar
        self.strangers = [site.browser() for site in sites]
        self.cookies: list[str] = []
        """All that were ever given out."""
        self.kept: list[tuple[str, float]] = []
        """Places that may be kept for logins that came to nothing: whose, and until when."""
        self.unlimited: set[str] = set()
        """Users who have logged in while their sessions could not be counted exactly."""

    @property
    def now(self) -> float:
        return self.clock.now

    # -- requests --------------------------------------------------------------------------------------------------

    def visit(
        self, browser: Browser, site: Site, sent: str | None, act: Act, *, meanwhile: Meanwhile | None = None
    ) -> None:
        """One request with this cookie, or none; `meanwhile`: what happens between the look and the act."""
        self.clock.advance(TICK)
        self.place.look()
        model, recorded, may_fail = self.model, self.place.well, self.place.may_fail
        found = model.find(sent and sent[:43], self.now)
        if act.kind != "nothing" or site.protocol == "asgi":
            model.replay(found, self.now, may_fail=may_fail)
        if found.alive == "perhaps" or meanwhile is not None:
            act = act.looking()
        before: list[Life] | None = None

        def handler(session: Session) -> None:
            nonlocal act, before
            if not act.blind and act.kind != "nothing":
                model.check(found, Look.at(session), self.now, recorded=recorded)
            if meanwhile is not None:
                meanwhile(session, found)
                self.clock.advance(TICK)
                if found.life is not None and found.life.unsure:
                    act = Act(kind="read")
            if act.kind == "login":
                before = self.listed(site, act.user)
            act.do(session)

        answer = browser(handler, cookies=f"vedsess={sent}" if sent else "", status=act.status)
        may_fail = may_fail or self.place.may_fail
        if answer.status == 503:
            assert may_fail
            assert answer.cookie is None
            self._failed(found, act)
        elif act.fails and answer.cookie is None and may_fail:  # the app's own failure is what the browser hears of
            self._failed(found, act)
        elif answer.status == 409:
            assert answer.cookie is None
            self._denied(found, act, before, exact=recorded)
        else:
            assert answer.status == act.status
            effect = model.act(found, act, self.now, recorded=recorded and self.place.well)
            if found.life is not None and found.life.unsure:
                effect = replace(effect, optional=True)
            self._check_cookie(answer, effect, sent)
            if act.kind == "login" and not act.fails:
                self._check_places(site, effect, act.user, before, exact=recorded)
        self.check_events()

    def _check_cookie(self, answer: Answer, effect: Effect, sent: str | None) -> None:
        """What was set is what had to be, and a new id is new."""
        header = answer.cookie
        value = header.partition(";")[0].partition("=")[2] if header is not None else None
        if effect.cookie == "removal":
            assert value == "" or (value is None and effect.optional), f"{value=}"
            return
        changed = value is not None and (sent is None or value[:43] != sent[:43])
        if effect.cookie == "new" and (changed or not effect.optional):
            assert changed, "no new id"
            assert value
            self.model.issue(value[:43], effect, self.now)
        elif effect.cookie == "none":
            assert value is None, "a cookie was set"
        else:
            assert not changed, "a cookie of another id was set"
        if value:
            self.cookies.append(value)

    def _failed(self, found: Found, act: Act) -> None:
        """No store took it.  What it would have ended may have ended all the same, and a place may be kept for it."""
        if act.kind in ("logout", "log out and write") and found.life is not None:
            found.life.unsure = True
        if act.kind == "login" and self.model.rules.limit is not None:
            self.kept.append((act.user, self.now + RESERVED_FOR))
            self.model.end_all(self.model.of(act.user, self.now), self.now, surely=False)

    # -- users -----------------------------------------------------------------------------------------------------

    def _denied(self, found: Found, act: Act, before: list[Life] | None, *, exact: bool) -> None:
        """A login that was refused: nothing has changed.  A store that has just come back may count what is over."""
        limit = self.model.rules.limit
        assert act.kind == "login"
        assert limit is not None
        assert self.model.rules.deny
        if before is not None and exact:
            going = self.model.current(found, self.now)
            others = [life for life in before if going is None or life is not going.life]
            assert len(others) + self._kept(act.user) >= limit, "there was a place"

    def _check_places(self, site: Site, effect: Effect, user: str, before: list[Life] | None, *, exact: bool) -> None:
        """After a login: the user has as many sessions as are allowed, and those are gone that had to go."""
        limit = self.model.rules.limit
        if limit is not None and not exact:
            self.unlimited.add(user)
            others = [life for life in self.model.of(user, self.now) if life is not effect.life]
            self.model.end_all(others, self.now, surely=False)
        after = self._named(site, user)
        if after is None:
            return
        assert effect.life in after
        if limit is not None and before is not None and exact:
            replaced = effect.instead.life if effect.instead else None
            others = [life for life in before if life is not replaced]
            lost = [life for life in others if life not in after]
            too_many = max(0, len(others) - (limit - 1))
            assert not (self.model.rules.deny and too_many), "there was no place"
            assert too_many <= len(lost) <= too_many + self._kept(user)
            stayed = [life for life in others if life in after]
            assert all(x.surely_until <= y.perhaps_until for x in lost for y in stayed), "not who would end first"
            self.model.end_all(lost, self.now)
        self._compare(user, after)

    def _kept(self, user: str) -> int:
        """How many places may be kept for logins that failed."""
        return sum(each == user and until > self.now for each, until in self.kept)

    def listed(self, site: Site, user: str, current: Session | None = None) -> list[Life] | None:
        """The sessions of a user, which are those that the model knows; None: no store can say."""
        found = self._named(site, user, current)
        if found is not None:
            self._compare(user, found)
        return found

    def _compare(self, user: str, found: Sequence[Life]) -> None:
        limit, complete = self.model.rules.limit, not (self.place.may_fail or self.place.doubly)
        for life in self.model.of(user, self.now) if complete else ():
            if life.alive(self.now) == "yes":
                assert life in found, f"not listed: {life}"
            elif life not in found and not life.unsure:
                self.model.end(life, self.now, at_once=False)
        assert limit is None or len(found) <= limit or user in self.unlimited, "too many sessions"

    def _named(self, site: Site, user: str, current: Session | None = None) -> list[Life] | None:
        try:
            infos = site.run(site.manager.sessions(user, current=current))
        except StoreUnavailable:
            assert self.place.may_fail
            return None
        assert len({info.handle for info in infos}) == len(infos)
        lives = [self._known(user, info) for info in infos]
        return [life for life in lives if life.alive(self.now) != "no"]

    def _known(self, user: str, info: SessionInfo) -> Life:
        """The session that is shown so."""
        [life] = [each for each in self.model.lives if each.created_at == info.created_at]
        assert life.user == user, "a session of another user"
        assert life.handle in ("", info.handle), "another handle"
        life.handle = info.handle
        assert info.authenticated_at == life.created_at
        if not self.place.doubly:
            assert life.alive(self.now) != "no", f"listed: {life}"
            assert self.now < info.expires_at <= life.perhaps_until
        return life

    def end_many(self, user: str, ending: Callable[[], int], lives: Sequence[Life]) -> None:
        """End sessions of a user from outside."""
        self.model.bury(user, self.now)
        may_fail = self.place.may_fail
        sure = [life for life in lives if life.alive(self.now) == "yes"]
        try:
            ended = ending()
        except StoreUnavailable:
            assert may_fail or self.place.may_fail
            self.model.end_all(lives, self.now, surely=False)
            return
        self.model.end_all(lives, self.now, surely=not self.place.doubly)
        assert len(sure) <= ended or self.place.doubly

    # -- what holds at any time ------------------------------------------------------------------------------------

    def check_events(self) -> None:
        """Nothing was told of that must never happen."""
        for site in self.sites:
            assert not [event for event in site.events if isinstance(event, _NEVER)]
            site.events.clear()

    def check_stores(self) -> None:
        """No store holds a session that is over, or one under an id that was given up."""
        site = self.sites[0]
        for known in self.model.ids.values():
            key = sha256(known.text.encode()).hexdigest()
            for name, record in site.run(self.place.held(key)).items():
                if record is None or record.gone:
                    continue
                if self.now < min(record.expires_at, record.deadline_at):
                    assert known.ended_at is None, f"{name} holds an id that was given up"
                    assert known.life.alive(self.now) != "no", f"{name} holds a session that is over"
                    assert record.user_id == known.life.user
                    assert record.deadline_at == known.life.deadline
