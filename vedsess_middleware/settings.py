"""The settings: one frozen object, checked when it is built."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, cast

import msgspec

from . import environment
from .environment import Mirror, SameSite, Storage
from .errors import ConfigurationError

__all__ = ["Settings", "mask_url", "settings_from"]

_SHORTEST_KEY = 32
_FILLER_WORDS = """
    abc able admin an and app application asdfghjkl at bar baz be change changed changeme character characters chars
    code cookie default demo dev development django do dummy enter env example fill fixme flask foo foobar for
    generate goes hello here in insecure insert is it key keys least letmein local long make me min minimum must my
    new none not null of or own pass passphrase passwd password phrase placeholder please prod production put pwd
    qwerty qwertyuiop random real replace safe sample secret secure session set should signing some something
    starlette string super temp test testing that the this to todo token undefined unsafe use value vedsess very web
    with word world xxx you your zxcvbnm
"""
_FILLER = re.compile("|".join(sorted(_FILLER_WORDS.split(), key=len, reverse=True)) + "|[-_ .<>]")
_DOMAIN = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_DATABASES = ("sqlite", "postgresql", "mysql", "mariadb")
_SECURE_MEND = "set cookie_secure=True (VEDSESS_COOKIE_SECURE=true)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, valid from the moment it exists.  Durations are seconds.

    Attributes:
        secret_key: signs the cookie; a text, or a list with the newest first (it signs, all verify).  At least 32
            bytes each.  No default: `vedsess keygen` makes one.  Kept as a tuple, see `secret_keys`.
        redis_url: `redis://`, `rediss://` (TLS) or `unix://`.  Default None: SQL only.
        database_url: SQLAlchemy URL of SQLite, PostgreSQL, MySQL or MariaDB.  Default None: a SQLite file.
        storage: "redis" demands a `redis_url`, "database" means SQL only even with one.  Default None: Redis if given.
        mirror: when SQL gets its copy.  Default "after-response"; "before-response", or "off".
        key_prefix: begins every key in Redis.  Default "vedsess:".
        idle_timeout: a session ends so long after its last use.  Default 86400, a day.
        absolute_timeout: a session ends so long after its creation, used or not.  Default 604800, a week.
        cookie_name: default "vedsess".  A `__Host-` name needs `cookie_secure=True`, no domain and the path `/`.
        cookie_secure: True, False, or None (default): Secure whenever the request came by https.
        cookie_samesite: "Lax" (default), "Strict", or "None", which needs `cookie_secure=True`.
        cookie_domain: sends the cookie to every host below it.  Default None, the safest: this host only.  Whether it
            is a public suffix of several labels, such as co.uk, is not checked.
        cookie_path: default "/".  No protection between apps on one host: browsers let them reach each other's.
        cookie_partitioned: a jar of its own inside every embedding site; needs `cookie_secure=True`.  Default False.
        audience: part of the signature, so that apps which share a secret and a Redis refuse each other's cookies.
            Default "".
        exclude: paths that get no session.  Default none.
        may_create: called with a `RequestInfo`; False means that this request gets no new session.  Default None.
        trusted_proxies: how many reverse proxies in front are believed about `X-Forwarded-Proto`.  Default 0.
        redis_timeout: for one try; two at the most, so twice this in all.  Default 0.2.
        sql_timeout: for one piece of SQL work, connecting included.  Default 1.
        probe_timeout: for the probe of a Redis that was down, after the response.  Default 0.02; raise it when Redis is
            more than 10 ms away.
        sources: where each field came from, by field name, for `vedsess check`; takes no part in equality.

    Raises:
        ConfigurationError: the message names the field and the mend, and shows neither key nor password.
    """

    secret_key: str | Sequence[str] = ()
    redis_url: str | None = None
    database_url: str | None = None
    storage: Storage | None = None
    mirror: Mirror = "after-response"
    key_prefix: str = "vedsess:"
    idle_timeout: float = 86400.0
    absolute_timeout: float = 604800.0
    cookie_name: str = "vedsess"
    cookie_secure: bool | None = None
    cookie_samesite: SameSite = "Lax"
    cookie_domain: str | None = None
    cookie_path: str = "/"
    cookie_partitioned: bool = False
    audience: str = ""
    exclude: Sequence[str] = ()
    may_create: Callable[[Any], bool] | None = None
    trusted_proxies: int = 0
    redis_timeout: float = 0.2
    sql_timeout: float = 1.0
    probe_timeout: float = 0.02
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._normalise()
        self._check_secret_keys()
        self._check_stores()
        if self.idle_timeout > self.absolute_timeout:
            raise self._error("idle_timeout", "must not exceed absolute_timeout: lower it, or raise absolute_timeout")
        self._check_secure()
        self._check_cookie_place()
        if self.may_create is not None and not callable(self.may_create):
            raise self._error("may_create", "must be a function of one RequestInfo that returns a bool, or None")

    @classmethod
    def strict(cls, **options: Any) -> "Settings":
        """Settings for what needs care: 30 min idle, 12 h in all, a `__Host-` cookie, Secure, SameSite=Strict.

        Options override.  Works over https only.

        Raises:
            ConfigurationError: as `Settings`, and for an unknown option.
        """
        careful = {
            "idle_timeout": 1800,
            "absolute_timeout": 43200,
            "cookie_name": "__Host-vedsess",
            "cookie_secure": True,
            "cookie_samesite": "Strict",
        }
        return settings_from({**careful, **options})

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
        """Settings from environment variables, read now; `overrides` win, and their variables are not read.

        Args:
            environ: instead of `os.environ`.
            overrides: fields by name.

        Raises:
            ConfigurationError: as `Settings`; for contradicting or unknown variables, the message names them.
        """
        values, sources = environment.read(os.environ if environ is None else environ, without=overrides)
        return settings_from({"sources": sources, **values, **overrides})

    @property
    def secret_keys(self) -> tuple[str, ...]:
        """The keys, newest first; at least one."""
        return cast(tuple[str, ...], self.secret_key)

    @property
    def uses_redis(self) -> bool:
        """Whether Redis is the primary; otherwise there is SQL only."""
        return self.redis_url is not None and self.storage != "database"

    def masked(self) -> dict[str, str]:
        """Every field but `sources` as text, without keys and passwords; "-" for None."""
        shown = {name: "-" if value is None else value for name, value in self._shown().items()}
        return {name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, value in shown.items()}

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self._shown().items())})"

    def _shown(self) -> dict[str, Any]:
        shown = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        shown["secret_key"] = "***" if len(self.secret_keys) == 1 else ("***",) * len(self.secret_keys)
        urls = {name: mask_url(shown[name]) for name in ("redis_url", "database_url") if shown[name] is not None}
        return shown | urls

    def _error(self, name: str, mend: str) -> ConfigurationError:
        return ConfigurationError(f"{self._label(name)} {mend}")

    def _label(self, name: str) -> str:
        return f"{name} (from {self.sources[name]})" if name in self.sources else name

    def _normalise(self) -> None:
        """Every field in its own type: lists become tuples, whole seconds floats, a domain loses its leading dot."""
        object.__setattr__(self, "sources", dict(self.sources))
        if isinstance(self.secret_key, str):
            object.__setattr__(self, "secret_key", (self.secret_key,))
        for name, kind in environment.FIELDS.items():
            object.__setattr__(self, name, self._converted(name, kind))
        if self.cookie_domain is not None:
            object.__setattr__(self, "cookie_domain", self.cookie_domain.lower().removeprefix("."))

    def _converted(self, name: str, kind: Any) -> Any:
        value = getattr(self, name)
        if not isinstance(value, set | frozenset):  # no order, so no newest key
            try:
                return msgspec.convert(value, kind)
            except msgspec.ValidationError:
                pass  # raised below, so that no chained error carries the value
        raise self._error(name, f"must be {environment.expected(kind)}")

    def _check_secret_keys(self) -> None:
        mend = "make one with `vedsess keygen`"
        if not any(self.secret_keys):
            raise self._error("secret_key", f"is missing: {mend}, and pass it or set VEDSESS_SECRET_KEY")
        for place, key in enumerate(self.secret_keys, 1):
            which = f"(key {place} of {len(self.secret_keys)}) " if len(self.secret_keys) > 1 else ""
            flaw = _flaw(key)
            if flaw:
                raise self._error("secret_key", f"{which}{flaw}: {mend}")

    def _check_stores(self) -> None:
        if self.redis_url is not None:
            environment.redis_parts(self._label("redis_url"), self.redis_url)
        elif self.storage == "redis":
            raise self._error("storage", "is redis without a redis_url: set redis_url (REDIS_URL or REDIS_HOST)")
        if self.database_url is None:
            return
        scheme, found, rest = self.database_url.partition("://")
        name = scheme.partition("+")[0]
        if name == "postgres":
            raise self._error("database_url", "begins with postgres://, which SQLAlchemy refuses: write postgresql://")
        if not found or name not in _DATABASES:
            raise self._error(
                "database_url", f"must begin with one of {', '.join(f'{name}://' for name in _DATABASES)}"
            )
        if name == "sqlite" and rest and not rest.startswith("/") and "@" not in rest:
            raise self._error("database_url", "needs a third slash: sqlite:///file.db, or sqlite:////absolute/file.db")

    def _check_secure(self) -> None:
        """RFC 6265bis 5.7: browsers drop these cookies unless they are Secure, whatever the request was."""
        if self.cookie_secure:
            return
        if self.cookie_samesite == "None":
            raise self._error("cookie_samesite", f"is None, which browsers refuse without Secure: {_SECURE_MEND}")
        if self.cookie_partitioned:
            raise self._error("cookie_partitioned", f"is set, which browsers refuse without Secure: {_SECURE_MEND}")
        if self.cookie_name.lower().startswith(("__host-", "__secure-", "__http-")):
            raise self._error("cookie_name", f"has a prefix that browsers refuse without Secure: {_SECURE_MEND}")

    def _check_cookie_place(self) -> None:
        if self.cookie_name.lower().startswith("__host-"):
            if self.cookie_domain is not None:
                raise self._error("cookie_domain", "must be unset with a __Host- cookie_name: drop it, or rename")
            if self.cookie_path != "/":
                raise self._error("cookie_path", "must be / with a __Host- cookie_name: set it so, or rename")
        domain = self.cookie_domain
        if domain is None:
            return
        if not _DOMAIN.match(domain):
            raise self._error("cookie_domain", "must be a bare name such as example.com (xn-- form where not ASCII)")
        if domain.rpartition(".")[2].isdigit():
            raise self._error("cookie_domain", "is an IP address, for which browsers refuse it: leave it unset")
        if "." not in domain:
            raise self._error("cookie_domain", "is a single label, which browsers refuse: leave it unset for this host")


def settings_from(options: Mapping[str, Any]) -> Settings:
    """`Settings` from a mapping of fields.

    Raises:
        ConfigurationError: as `Settings`; for an unknown name, with the nearest known one.
    """
    known = {each.name for each in fields(Settings)}
    for name in options:
        if name not in known:
            raise ConfigurationError(f"{name} is not a setting: {environment.nearest(name, known)}")
    return Settings(**options)


def mask_url(url: str) -> str:
    """The URL with `***` for its password, and for all that follows a secret in its query.  Rather hides too much."""
    masked = re.sub(r"(?s)(://[^:/]*):.*@", r"\1:***@", url)
    return re.sub(r"(?is)([?&;][^=&;]*(?:pass|pwd|secret|token)[^=&;]*=).*", r"\1***", masked)


def _flaw(key: str) -> str:
    """What is wrong with a secret key, or "" ; never shows it."""
    if not key.isprintable():
        return "holds a line break or another unprintable character (strip what was read from a file)"
    if len(key.encode()) < _SHORTEST_KEY:
        return f"is shorter than {_SHORTEST_KEY} bytes"
    return "is a placeholder or easy to guess" if _is_guessable(_FILLER.sub("", key.lower())) else ""


def _is_guessable(rest: str) -> bool:
    """Whether what a key holds beside filler words is too short, too uniform, a repetition or a sequence."""
    if len(rest) < 16 or len(set(rest)) < 6:
        return True
    if any(rest[unit:] == rest[:-unit] for unit in range(1, min(16, len(rest) // 2 + 1))):
        return True
    steps = [abs(ord(left) - ord(right)) <= 1 for left, right in pairwise(rest)]
    return sum(steps) > 0.75 * len(steps)
