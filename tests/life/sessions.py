"""What the model knows: the rules of a site, a session, its ids, and what a request has to find."""

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Alive", "Found", "Id", "Life", "Rules"]

Alive = Literal["yes", "no", "perhaps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a site has set; see `Settings`."""

    idle: float = 600.0
    absolute: float = 3600.0
    remember: float = 7200.0
    grace: float = 10.0
    renewal: float | None = None
    limit: int | None = None
    deny: bool = False
    ends_on_replay: bool = False

    @property
    def refresh(self) -> float:
        """A use is recorded if the last one is older than this."""
        return self.idle / 10

    @property
    def options(self) -> dict[str, Any]:
        """The same as `Settings` call it."""
        return {
            "idle_timeout": self.idle,
            "absolute_timeout": self.absolute,
            "remember_timeout": self.remember,
            "rotation_grace": self.grace,
            "renewal_timeout": self.renewal,
            "max_sessions_per_user": self.limit,
            "session_limit_policy": "deny" if self.deny else "end-oldest",
            "old_id_policy": "end" if self.ends_on_replay else "report",
        }


@dataclass(eq=False, slots=True, kw_only=True)
class Life:
    """One session, from its birth or its login on, through all its ids.

    Attributes:
        user: whose.
        values: what is in it.
        ends: when values end that have an end of their own, by name.
        created_at: when it began; no two begin at once.
        idle: its idle timeout.
        deadline: when it ends, used or not.
        surely_until: it lives until then if nobody ends it.
        perhaps_until: it is over from then on.
        over: it has ended.
        unsure: somebody tried to end it, and was told that not all went well.
        handle: what `SessionManager.sessions` calls it, once that was asked.
    """

    user: str | None
    values: dict[str, Any]
    ends: dict[str, float]
    created_at: float
    idle: float
    deadline: float
    surely_until: float = 0.0
    perhaps_until: float = 0.0
    over: bool = False
    unsure: bool = False
    handle: str = ""

    def alive(self, now: float) -> Alive:
        """Whether it is."""
        if self.over or now >= self.perhaps_until:
            return "no"
        return "perhaps" if self.unsure or now >= self.surely_until else "yes"

    def begin(self, now: float) -> None:
        """It is used under a new id, and that is recorded."""
        self.surely_until = self.perhaps_until = min(now + self.idle, self.deadline)

    def use(self, now: float, *, refresh: float, recorded: bool) -> None:
        """It is used; `recorded`: the stores are well, so that was recorded, or an earlier use not long ago."""
        self.perhaps_until = max(self.perhaps_until, min(now + self.idle, self.deadline))
        if recorded:
            self.surely_until = max(self.surely_until, min(now - refresh + self.idle, self.deadline))

    def seen(self, now: float) -> dict[str, Any]:
        """The values that have not ended."""
        return {name: value for name, value in self.values.items() if now < self.ends.get(name, now + 1)}


@dataclass(eq=False, slots=True, kw_only=True)
class Id:
    """One id of a session.

    Attributes:
        text: the id itself.
        life: whose.
        issued_at: when it was given out.
        ended_at: when another one took its place, or the session was ended.
        heir: the other one.
        sealed: whoever holds this one gets in nowhere.
        buried_at: somebody logged out with it when it was over: that may have been taken for its end.
    """

    text: str
    life: Life
    issued_at: float
    ended_at: float | None = None
    heir: "Id | None" = None
    sealed: bool = False
    buried_at: float | None = None

    def lately(self, now: float, seconds: float) -> Alive:
        """Whether it ended so many seconds ago at most."""
        if self.ended_at is not None and now - self.ended_at < seconds:
            return "yes"
        return "perhaps" if self.buried_at is not None and now - self.buried_at < seconds else "no"


@dataclass(eq=False, slots=True, kw_only=True)
class Found:
    """What a request has to find.

    Attributes:
        id: that the browser sent; None: none that was ever given out.
        target: the id that the session goes by.
        life: the session; None: there is none.
        alive: whether there is.
        values: what was in it then.
        ends: the same.
        lately: whether the session of that id was ended a moment ago.
    """

    id: Id | None
    target: Id | None = None
    life: Life | None = None
    alive: Alive = "no"
    values: dict[str, Any] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    lately: Alive = "no"

    @property
    def moved(self) -> bool:
        """Whether the browser is about to have another cookie."""
        return self.target is not self.id
