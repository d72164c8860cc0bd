"""What browsers must see, in the fewest words, whatever the stores go through meanwhile.

The model knows neither stores nor versions.  Of time it knows no more than is promised: a use is recorded if the last
one was long enough ago, so a session that is left alone ends within an interval.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from tests.life.acts import Act, Look
from tests.life.sessions import Found, Id, Life, Rules

__all__ = ["Effect", "Model"]

_RACING = 10.0
_LOGOUTS = ("logout", "log out and write")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a request has to be answered with.

    Attributes:
        cookie: none; none or a newer one of the same id; one of a new id; its removal.
        optional: instead of a new id or a removal, there may be a newer cookie of the same id, or none.
        life: what the new id is of.
        instead: the id that it takes the place of.
        sealed: whoever holds that one is out.
    """

    cookie: Literal["none", "same", "new", "removal"] = "none"
    optional: bool = False
    life: Life | None = None
    instead: Id | None = None
    sealed: bool = False


@dataclass(eq=False, slots=True)
class Model:
    """All sessions there ever were.

    Attributes:
        rules: of the site.
        lives: all sessions.
        ids: all ids that were ever given out.
    """

    rules: Rules
    lives: list[Life] = field(default_factory=list)
    ids: dict[str, Id] = field(default_factory=dict)

    # -- looking ---------------------------------------------------------------------------------------------------

    def find(self, sent: str | None, now: float) -> Found:
        """What a request with this id finds."""
        known = self.ids.get(sent) if sent else None
        target = self._reached(known, now) if known else None
        if known is None or target is None or target.life.alive(now) == "no":
            return Found(id=known, lately=known.lately(now, _RACING) if known else "no")
        life = target.life
        return Found(
            id=known,
            target=target,
            life=life,
            alive=life.alive(now),
            values=life.seen(now),
            ends=dict(life.ends),
            lately="perhaps" if life.unsure else "no",
        )

    def replay(self, found: Found, now: float, *, may_fail: bool) -> None:
        """An id that was given up longer ago than the grace lasts is used by somebody, who is let in nowhere."""
        known, rules = found.id, self.rules
        if known is None or known.ended_at is None or known.heir is None:
            return
        if not rules.ends_on_replay or now - known.ended_at <= rules.grace:
            return
        here = self._followed(known)
        if here is not None and here.life.alive(now) != "no":
            # How long a store remembers an id beyond the idle timeout is its own business.
            if not may_fail and now < known.ended_at + known.life.idle and here.life.alive(now) == "yes":
                self.end(here.life, now)
            else:
                here.life.unsure = True

    def check(self, found: Found, look: Look, now: float, *, recorded: bool) -> None:
        """Hold what the app saw against it, and believe it where both were possible."""
        if found.alive == "perhaps":
            self._believe(found, look, now)
        life = found.life
        assert look.is_new == (life is None), f"{'no' if look.is_new else 'a'} session, and there is {life}"
        assert look.values == found.values
        assert look.user == (life.user if life else None)
        assert look.created_at == (life.created_at if life else None)
        assert look.authenticated_at == (life.created_at if life and life.user is not None else None)
        if life is not None:
            life.use(now, refresh=self.rules.refresh, recorded=recorded)
            assert look.expires_at is not None
            assert now < look.expires_at <= life.perhaps_until

    def _believe(self, found: Found, look: Look, now: float) -> None:
        life = found.life
        assert life is not None
        if look.is_new:
            if life.unsure and found.target is not None:
                found.target.buried_at = now
            self.end(life, now, at_once=False)
            found.life, found.target, found.values, found.ends = None, None, {}, {}
        else:
            life.unsure = False

    def _reached(self, known: Id, now: float) -> Id | None:
        """The id that a session goes by, for somebody who holds this one now."""
        if known.ended_at is None:
            return known
        return self._followed(known) if now - known.ended_at <= self.rules.grace else None

    def _followed(self, known: Id) -> Id | None:
        here: Id | None = known
        while here is not None and here.ended_at is not None:
            here = None if here.sealed else here.heir
        return here

    # -- acting ----------------------------------------------------------------------------------------------------

    def act(self, found: Found, act: Act, now: float, *, recorded: bool) -> Effect:
        """What comes of the act of a request that had found this."""
        if found.life is not None and found.target is not None and found.target.ended_at is None:
            found.life.use(now, refresh=self.rules.refresh, recorded=recorded)
        if act.kind == "nothing" or (act.fails and act.kind not in _LOGOUTS):
            return Effect()
        if found.life is None or found.target is None:
            return self._begin(found, act, now)
        current = self.current(found, now)
        if act.kind in _LOGOUTS:
            return self._log_out(current, act, now)
        if act.kind == "login" or (act.kind == "regenerate" and not (found.moved and act.grace)):
            return self._change_id(found, current, act, now, recorded=recorded)
        return self._renew_or_write(found, current, act, now, recorded=recorded)

    def current(self, found: Found, now: float) -> Id | None:
        """The id that a session goes by now, if another request was quicker than the one that found it."""
        here = self._followed(found.target) if found.target is not None else None
        return None if here is None or here.life.alive(now) == "no" else here

    def _begin(self, found: Found, act: Act, now: float) -> Effect:
        """There is no session, and perhaps one begins."""
        if act.kind == "logout" and act.blind and found.id is not None:
            found.id.buried_at = now
            return Effect(cookie="removal", optional=True)
        values = act.changed({})
        if act.kind == "login":
            return Effect(cookie="new", life=self._born(act, now, values, {}))
        if not values or act.fails or found.lately == "yes":
            return Effect()
        life = self._born(act, now, values, act.ends({}, now=now))
        return Effect(cookie="new", life=life, optional=found.lately == "perhaps")

    def _log_out(self, target: Id | None, act: Act, now: float) -> Effect:
        if target is not None:
            self.end(target.life, now)
        if act.kind == "logout" or act.fails:
            return Effect(cookie="removal")
        return Effect(cookie="new", life=self._born(act, now, act.changed({}), {}))

    def _renew_or_write(self, found: Found, current: Id | None, act: Act, now: float, *, recorded: bool) -> Effect:
        target, renewal = found.target, self.rules.renewal
        assert target is not None
        if renewal is not None and not found.moved and now - target.issued_at >= renewal:
            return self._change_id(found, current, act, now, recorded=recorded)
        changes = act.changed(found.values) != found.values or act.ends(found.ends, now=now) != found.ends
        if changes and current is None:
            return Effect()
        if changes and current is not None:
            self._apply(current.life, act, now, recorded=recorded)
        return Effect(cookie="none" if found.moved or (changes and current is not target) else "same")

    def _change_id(self, found: Found, current: Id | None, act: Act, now: float, *, recorded: bool) -> Effect:
        login = act.kind == "login"
        sealed = login or (act.kind == "regenerate" and not act.grace)
        if current is None and not login:
            return Effect()
        if current is not None and current is not found.target and not sealed:
            self._apply(current.life, act, now, recorded=recorded)
            return Effect()
        # What others wrote meanwhile comes along, unless it is another user's.
        known = found.life is not None and found.life.user in (None, act.user)
        values, ends = found.values, found.ends
        if current is not None and (not login or known or current is not found.target):
            values, ends = current.life.seen(now), current.life.ends
        if login and found.life is not None and found.life.user not in (None, act.user):
            values, ends = {}, {}  # what another user left
        values, ends = act.changed(values), act.ends(ends, now=now)
        if login:
            if current is not None:
                current.life.over = True
            life = self._born(act, now, values, ends)
        else:
            assert current is not None
            life = current.life
            life.values, life.ends = values, ends
            if not act.blind:  # otherwise it may have been written without a look, and the id stays
                life.begin(now)
        return Effect(cookie="new", life=life, instead=current, sealed=sealed, optional=act.blind)

    def _apply(self, life: Life, act: Act, now: float, *, recorded: bool) -> None:
        life.use(now, refresh=self.rules.refresh, recorded=recorded)
        life.values, life.ends = act.changed(life.seen(now)), act.ends(life.ends, now=now)

    def _born(self, act: Act, now: float, values: dict[str, object], ends: dict[str, float]) -> Life:
        idle, absolute = self.rules.idle, self.rules.absolute
        if act.remember:
            idle = absolute = self.rules.remember
        absolute = act.absolute or absolute
        idle = min(act.idle or idle, absolute)
        user = act.user if act.kind == "login" else None
        life = Life(user=user, values=values, ends=ends, created_at=now, idle=idle, deadline=now + absolute)
        life.begin(now)
        return life

    def issue(self, text: str, effect: Effect, now: float) -> None:
        """A browser was given a new id."""
        assert effect.life is not None
        assert text not in self.ids, "an id was given out twice"
        self.ids[text] = new = Id(text=text, life=effect.life, issued_at=now)
        if effect.life not in self.lives:
            self.lives.append(effect.life)
        if effect.instead is not None:
            effect.instead.ended_at, effect.instead.heir, effect.instead.sealed = now, new, effect.sealed

    # -- users -----------------------------------------------------------------------------------------------------

    def of(self, user: str, now: float) -> list[Life]:
        """The sessions of a user that may be alive."""
        return [life for life in self.lives if life.user == user and life.alive(now) != "no"]

    def end(self, life: Life, now: float, *, at_once: bool = True) -> None:
        """A session ends now; or has ended by itself."""
        life.over = True
        for each in self.ids.values():
            if at_once and each.life is life and each.ended_at is None:
                each.ended_at = now

    def end_all(self, lives: Iterable[Life], now: float, *, surely: bool = True) -> None:
        """Somebody ended these; `surely`: and was told that all went well."""
        for life in lives:
            if surely:
                self.end(life, now)
            else:
                life.unsure = True

    def bury(self, user: str, now: float) -> None:
        """Whatever has ended of a user may be taken to have ended now: an index may still name it."""
        for each in self.ids.values():
            if each.life.user == user:
                each.buried_at = now
