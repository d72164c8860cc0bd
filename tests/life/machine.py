"""The machine that draws lives: what browsers, thieves, apps, users and stores do, in any order."""

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.clients import OTHER_KEY, Clock, Site
from tests.life.acts import Act, Kind
from tests.life.sessions import Found, Rules
from tests.life.visits import TICK, Visits
from tests.life.worlds import World
from vedsess_middleware import Session, StoreUnavailable
from vedsess_middleware.stores.failover import FailoverStore

__all__ = ["Lives"]

USERS = ("ada", "bob", "cyd")
NAMES = ("a", "b", "c")

_browsers = st.integers(0, 2)
_workers = st.integers(0, 1)
_users = st.sampled_from(["ada", "ada", "bob", "cyd"])
_names = st.sampled_from(NAMES)
_often = st.sampled_from([True, True, True, False])
_seldom = st.sampled_from([False, False, False, True])
_statuses = st.sampled_from([200] * 9 + [500])


_overlap: dict[str, Any] = {
    "browser": _browsers,
    "worker": _workers,
    "other": _workers,
    "second": st.sampled_from(["read", "write", "regenerate", "logout", "login"]),
    "graces": st.tuples(st.booleans(), st.booleans()),
    "users": st.tuples(_users, _users),
}


def _field_of(kind: Kind) -> str:
    """The field that an act is about where nothing is drawn."""
    return "list" if kind == "append" else "c"


class Lives(RuleBasedStateMachine):
    """Any order of what can happen to sessions.

    Attributes:
        world: the stores.
        faults: they go away.
        encrypted: values are, at rest.
        policy: the rules that are not drawn.
    """

    world: World
    faults = encrypted = False
    policy: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def lived_in(cls, world: World, **facts: Any) -> type[Self]:
        """The machine of a world."""
        return type("Lives", (cls,), {"world": world, **facts})

    def __init__(self) -> None:
        super().__init__()
        self.values = itertools.count(1)

    @initialize(
        renewal=st.sampled_from([None, 30.0]),
        ends_on_replay=st.booleans(),
        mirror=st.sampled_from(["after-response", "before-response"]),
    )
    def open_sites(self, mirror: str, **rules: Any) -> None:
        self.clock, agreed = Clock(), Rules(**rules, **self.policy)
        # Where stores go away, what one process knows is what is promised to its browsers.
        workers = 1 if self.faults else 2
        self.place = self.world.place(self.clock, workers=workers, mirror=mirror)
        options = {**agreed.options, **({"encryption_key": OTHER_KEY} if self.encrypted else {})}
        runner, protocol, numbers = self.world.runner, self.world.protocol, itertools.count(1)
        self.sites = [Site(protocol, store, runner, clock=self.clock, **options) for store in self.place.workers]
        for site in self.sites:  # the same in every run, so that a failure can be repeated
            site.manager._parts.jar.new_id = lambda: f"{next(numbers):043}"
        self.visits = Visits(self.sites, self.place, self.clock, agreed)

    def act_of(self, act: Act, *, browser: int, worker: int) -> None:
        worker %= len(self.sites)
        asking = self.visits.browsers[browser][worker]
        self.visits.visit(asking, self.sites[worker], asking.jar.value() or None, act)

    # -- browsers --------------------------------------------------------------------------------------------------

    @rule(browser=_browsers, worker=_workers, kind=st.sampled_from(["read", "read", "nothing"]))
    def look(self, browser: int, worker: int, kind: Any) -> None:
        self.act_of(Act(kind=kind), browser=browser, worker=worker)

    @rule(browser=_browsers, worker=_workers, name=_names, blind=st.booleans(), status=_statuses)
    def write(self, browser: int, worker: int, name: str, blind: bool, status: int) -> None:
        act = Act(kind="write", name=name, value=next(self.values), blind=blind, status=status)
        self.act_of(act, browser=browser, worker=worker)

    @rule(browser=_browsers, worker=_workers, name=st.sampled_from([*NAMES, "code", "list"]))
    def drop(self, browser: int, worker: int, name: str) -> None:
        self.act_of(Act(kind="drop", name=name), browser=browser, worker=worker)

    @rule(browser=_browsers, worker=_workers)
    def edit_inside(self, browser: int, worker: int) -> None:
        self.act_of(Act(kind="append", name="list", value=next(self.values)), browser=browser, worker=worker)

    @precondition(lambda self: self.encrypted)
    @rule(browser=_browsers, worker=_workers, ttl=st.sampled_from([5.0, 100.0, 5000.0]))
    def put_secret(self, browser: int, worker: int, ttl: float) -> None:
        act = Act(kind="secret", name="code", value=next(self.values), ttl=ttl)
        self.act_of(act, browser=browser, worker=worker)

    @rule(
        browser=_browsers,
        worker=_workers,
        user=_users,
        remember=_seldom,
        idle=st.sampled_from([None, None, 120.0, 3000.0]),
        absolute=st.sampled_from([None, None, 300.0, 5000.0]),
        status=_statuses,
    )
    def log_in(self, browser: int, worker: int, **how: Any) -> None:
        act = Act(kind="login", name="a", value=next(self.values), **how)
        self.act_of(act, browser=browser, worker=worker)

    @rule(browser=_browsers, worker=_workers, blind=st.booleans(), again=st.booleans(), status=_statuses)
    def log_out(self, browser: int, worker: int, blind: bool, again: bool, status: int) -> None:
        if again:
            act = Act(kind="log out and write", name="b", value=next(self.values), status=status)
        else:
            act = Act(kind="logout", blind=blind, status=status)
        self.act_of(act, browser=browser, worker=worker)

    @rule(browser=_browsers, worker=_workers, grace=st.booleans())
    def change_id(self, browser: int, worker: int, grace: bool) -> None:
        self.act_of(Act(kind="regenerate", grace=grace), browser=browser, worker=worker)

    @rule(worker=_workers, user=_users, remember=_seldom)
    def log_in_on_another_device(self, worker: int, user: str, remember: bool) -> None:
        worker %= len(self.sites)
        act = Act(kind="login", name="a", value=next(self.values), user=user, remember=remember)
        self.visits.visit(self.visits.strangers[worker], self.sites[worker], None, act)

    # -- others with a cookie --------------------------------------------------------------------------------------

    @precondition(lambda self: self.visits.cookies)
    @rule(
        back=st.integers(0, 11),
        worker=_workers,
        kind=st.sampled_from(["read", "read", "read", "write", "append", "regenerate", "logout", "login"]),
        user=_users,
        grace=st.booleans(),
        blind=_seldom,
    )
    def somebody_comes_with_an_old_cookie(
        self, back: int, worker: int, kind: Any, user: str, grace: bool, blind: bool
    ) -> None:
        worker %= len(self.sites)
        cookie = self.visits.cookies[-1 - back % len(self.visits.cookies)]
        act = Act(kind=kind, name=_field_of(kind), value=next(self.values), user=user, grace=grace)
        if blind and kind in ("write", "logout"):
            act = act.blindly()
        self.visits.visit(self.visits.strangers[worker], self.sites[worker], cookie, act)

    @rule(first=st.sampled_from(["write", "append", "login"]), **_overlap)
    def another_request_writes_meanwhile(self, **how: Any) -> None:
        self.two_overlap(**how)

    @rule(first=st.just("regenerate"), **_overlap)
    def another_request_changes_the_id_meanwhile(self, **how: Any) -> None:
        self.two_overlap(**how)

    @rule(first=st.sampled_from(["logout", "revoke"]), **_overlap)
    def another_request_ends_the_session_meanwhile(self, **how: Any) -> None:
        self.two_overlap(**how)

    def two_overlap(
        self, browser: int, worker: int, other: int, first: Any, second: Any, graces: Any, users: Any
    ) -> None:
        """The second one has looked before the first one comes, and acts after that has been answered."""
        worker, other = worker % len(self.sites), other % len(self.sites)
        asking = self.visits.browsers[browser][worker]
        cookie = asking.jar.value() or None
        acts = [
            Act(kind=kind, name=_field_of(kind), value=next(self.values), grace=grace, user=user)
            for kind, grace, user in zip((first, second), graces, users, strict=True)
        ]

        def meanwhile(session: Session, found: Found) -> None:
            if first == "revoke":
                self.revoke_all(users[0], other)
            else:
                self.visits.visit(self.visits.browsers[browser][other].twin(), self.sites[other], cookie, acts[0])

        self.visits.visit(asking, self.sites[worker], cookie, acts[1], meanwhile=meanwhile)

    # -- users -----------------------------------------------------------------------------------------------------

    @rule(user=_users, worker=_workers)
    def list_sessions(self, user: str, worker: int) -> None:
        self.visits.listed(self.sites[worker % len(self.sites)], user)

    @rule(user=_users, worker=_workers)
    def revoke_all(self, user: str, worker: int) -> None:
        site = self.sites[worker % len(self.sites)]
        self.clock.advance(TICK)
        lives = self.visits.model.of(user, self.clock.now)
        self.visits.end_many(user, lambda: site.run(site.manager.revoke(user)), lives)

    @rule(user=_users, worker=_workers)
    def cut_off(self, user: str, worker: int) -> None:
        site = self.sites[worker % len(self.sites)]
        self.clock.advance(TICK)
        lives = self.visits.model.of(user, self.clock.now)
        self.visits.end_many(user, lambda: site.run(site.manager.cut_off(user)), lives)

    @rule(user=_users, which=st.integers(0, 3), worker=_workers)
    def revoke_one(self, user: str, which: int, worker: int) -> None:
        site = self.sites[worker % len(self.sites)]
        self.clock.advance(TICK)
        lives = self.visits.listed(site, user)
        if lives:
            life = lives[which % len(lives)]
            self.visits.end_many(user, lambda: site.run(site.manager.revoke(user, handle=life.handle)), [life])

    @rule(browser=_browsers, worker=_workers)
    def revoke_all_others(self, browser: int, worker: int) -> None:
        """From the page that shows a user's sessions."""
        worker %= len(self.sites)
        site, visits, asking = self.sites[worker], self.visits, self.visits.browsers[browser][worker]

        def revoke(session: Session, found: Found) -> None:
            user = session.user_id
            if user is None:
                return
            listed = visits.listed(site, user, session)
            assert listed is None or found.life in listed or self.place.doubly
            others = [life for life in visits.model.of(user, self.clock.now) if life is not found.life]
            visits.end_many(user, lambda: site.run(site.manager.revoke(user, keep=session)), others)

        visits.visit(asking, site, asking.jar.value() or None, Act(kind="read"), meanwhile=revoke)

    # -- time and stores -------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 1.0, 5.0, 9.5, 10.5, 31.0, 70.0, 250.0, 550.0, 610.0, 2000.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.faults)
    @rule(which=st.sampled_from(["primary", "primary", "secondary"]))
    def a_store_goes_away(self, which: str) -> None:
        self.place.shut(which)

    @precondition(lambda self: self.faults and self.place.away)
    @rule(which=st.sampled_from(["primary", "secondary"]), breathe=st.booleans())
    def a_store_comes_back(self, which: str, breathe: bool) -> None:
        self.place.open(which)
        if breathe:
            self.clock.advance(2.5)
            self.after_response()

    @precondition(lambda self: self.faults)
    @rule()
    def after_response(self) -> None:
        for site in self.sites:
            site.run(site.manager.after_response())

    @rule()
    def clean_up(self) -> None:
        well = self.place.well
        try:
            self.sites[0].run(self.sites[0].manager.cleanup())
        except StoreUnavailable:
            assert not well

    # -- the end ---------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """All stores are back.  Nobody gets in with anything that is over, in whichever store it is looked up."""
        if not hasattr(self, "visits"):
            return
        self.place.away.clear()
        self._recover()
        for user in USERS:
            self.visits.listed(self.sites[0], user)
        for number, cookie in enumerate(reversed(self.visits.cookies)):
            worker = number % len(self.sites)
            self.visits.visit(self.visits.strangers[worker], self.sites[worker], cookie, Act(kind="read"))
        self._recover()
        self.visits.check_stores()

    def _recover(self) -> None:
        for number in range(40):
            if self.place.well and number >= 3:  # what a session that was met leaves behind is found by a poll
                return
            self.clock.advance(2.5)
            self.after_response()
        pairs = [store.health for store in self.place.workers if isinstance(store, FailoverStore)]
        raise AssertionError(f"the stores do not come to rest: {pairs}")
