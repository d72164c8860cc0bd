"""What an app does with its session in one request, and what that makes of the values."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

from vedsess_middleware import Session

__all__ = ["Act", "Kind", "Look"]

Kind = Literal[
    "nothing", "read", "write", "drop", "append", "secret", "login", "logout", "log out and write", "regenerate"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the app sees of a session."""

    values: dict[str, Any]
    user: str | None
    is_new: bool
    created_at: float | None
    authenticated_at: float | None
    expires_at: float | None

    @classmethod
    def at(cls, session: Session) -> "Look":
        """All of it, as it is now."""
        return cls(
            values=deepcopy(dict(session)),
            user=session.user_id,
            is_new=session.is_new,
            created_at=session.created_at,
            authenticated_at=session.authenticated_at,
            expires_at=session.expires_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What the app does.

    Attributes:
        kind: what; a login also writes.
        name: of the field.
        value: for it; no two acts write the same.
        user: who logs in.
        remember: see `Session.login`.
        idle: the same; None: as the settings have it.
        absolute: the same.
        grace: see `Session.regenerate_id`.
        ttl: of a secret.
        status: of the answer; changes are dropped with a 500.
        blind: the app does not look first.
    """

    kind: Kind
    name: str = ""
    value: int = 0
    user: str = ""
    remember: bool = False
    idle: float | None = None
    absolute: float | None = None
    grace: bool = True
    ttl: float = 0.0
    status: int = 200
    blind: bool = False

    @property
    def fails(self) -> bool:
        """Whether only a logout counts."""
        return self.status >= 500

    def looking(self) -> "Act":
        """The same of an app that looks first."""
        return replace(self, blind=False)

    def blindly(self) -> "Act":
        """The same of an app that does not."""
        return replace(self, blind=True)

    def do(self, session: Session) -> None:
        """Do it."""
        match self.kind:
            case "write":
                session[self.name] = self.value
            case "drop":
                session.pop(self.name, None)
            case "append":
                session.setdefault(self.name, []).append(self.value)
            case "secret":
                session.put_secret(self.name, self.value, ttl=self.ttl)
            case "login":
                session[self.name] = self.value
                session.login(self.user, remember=self.remember, idle_timeout=self.idle, absolute_timeout=self.absolute)
            case "logout":
                session.logout()
            case "log out and write":
                session.logout()
                session[self.name] = self.value
            case "regenerate":
                session.regenerate_id(grace=self.grace)

    def changed(self, values: dict[str, Any]) -> dict[str, Any]:
        """What it makes of these values."""
        match self.kind:
            case "write" | "secret" | "login" | "log out and write":
                return {**values, self.name: self.value}
            case "drop":
                return {name: value for name, value in values.items() if name != self.name}
            case "append":
                return {**values, self.name: [*values.get(self.name, ()), self.value]}
        return values

    def ends(self, ends: dict[str, float], *, now: float) -> dict[str, float]:
        """What it makes of the instants at which values end."""
        if self.kind == "secret":
            return {**ends, self.name: now + self.ttl}
        if self.kind in ("write", "drop", "login"):
            return {name: at for name, at in ends.items() if name != self.name}
        return ends
