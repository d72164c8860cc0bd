"""The settings: one frozen object, checked when it is built."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

import msgspec

from . import environment
from .environment import (
    AddressDetail,
    AgentDetail,
    FingerprintPart,
    FingerprintPolicy,
    LimitPolicy,
    Mirror,
    OldIdPolicy,
    SameSite,
    Storage,
)
from .errors import ConfigurationError
from .strength import flaw_of

__all__ = ["Settings", "mask_url", "settings_from"]

_DOMAIN = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_DATABASES = ("sqlite", "postgresql", "mysql", "mariadb")
_KEY_MEND = "make one with `vedsess keygen`"
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
        trusted_proxies: how many reverse proxies in front are believed about `X-Forwarded-Proto` and `X-Forwarded-For`.
            Default 0.
        cookie_persistent: the cookie outlives the browser.  Default True; False: only after `login(remember=True)`.
        remember_timeout: idle and absolute timeout of a session after `login(remember=True)`, and the longest that one
            may be given.  Default 2592000, 30 days.
        renewal_timeout: the id is changed on the first use after so long (cheat sheet: renewal timeout).  Default None.
        rotation_grace: so long after a change, parallel requests with the old id go on.  Default 10; not after a login.
        old_id_policy: what the use of an older id does: "report" (default) is an event, "end" ends the session too.
        max_sessions_per_user: so many at a time (ASVS 7.1.2).  Default None.
        session_limit_policy: what the next login does: "end-oldest" (default) ends the one that would end first, "deny"
            refuses.
        user_id_field: a field of the session in which a framework keeps its user, such as `_user_id`: setting it counts
            as `login`, removing it ends that.  Default None.
        websocket_check: how often an open websocket asks whether its session still lives.  Default 5.
        fingerprint_policy: what happens when a client is not the one that began the session: "off" (default), "log",
            "rotate" (a new id), "reject" (no session for this request).
        fingerprint_parts: of "user_agent" and "ip_address".  Default ("user_agent",).
        ipv4_prefix: bits of an address that count, or are kept, where only a prefix does.  Default 24.
        ipv6_prefix: the same.  Default 56.
        encryption_key: encrypts every value at rest; like `secret_key`.  Default none; needs the extra `crypto`.
        encryption_accepts_plain: values from before are read.  Default False; True while a site begins to encrypt.
        compress_above: longer values are compressed, bytes.  Default None: none is.
        max_field_bytes: of one value at rest.  Default None.
        max_session_bytes: of all values at rest.  Default 1048576.
        user_agent_detail: what is kept of it: "label" (default, such as "Firefox 140 on Linux"), "full" (its first 64
            characters), or "off".
        ip_address_detail: "full" (default), "prefix", or "off".
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
    cookie_persistent: bool = True
    remember_timeout: float = 2592000.0
    renewal_timeout: float | None = None
    rotation_grace: float = 10.0
    old_id_policy: OldIdPolicy = "report"
    max_sessions_per_user: int | None = None
    session_limit_policy: LimitPolicy = "end-oldest"
    user_id_field: str | None = None
    websocket_check: float = 5.0
    fingerprint_policy: FingerprintPolicy = "off"
    fingerprint_parts: Sequence[FingerprintPart] = ("user_agent",)
    ipv4_prefix: int = 24
    ipv6_prefix: int = 56
    encryption_key: str | Sequence[str] = ()
    encryption_accepts_plain: bool = False
    compress_above: int | None = None
    max_field_bytes: int | None = None
    max_session_bytes: int | None = 1048576
    user_agent_detail: AgentDetail = "label"
    ip_address_detail: AddressDetail = "full"
    trusted_proxies: int = 0
    redis_timeout: float = 0.2
    sql_timeout: float = 1.0
    probe_timeout: float = 0.02
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._normalise()
        self._check_keys()
        self._check_stores()
        self._check_times()
        self._check_secure()
        self._check_cookie_place()
        if self.may_create is not None and not callable(self.may_create):
            raise self._error("may_create", "must be a function of one RequestInfo that returns a bool, or None")

    @classmethod
    def strict(cls, **options: Any) -> "Settings":
        """Settings for what needs care; options override.  Works over https only.

        30 min idle, 12 h in all, a new id every 15 min; a `__Host-` cookie with a name that tells nothing, Secure,
        SameSite=Strict, gone with the browser; a request from another client gets no session, and the use of an old id
        ends it.

        Raises:
            ConfigurationError: as `Settings`, and for an unknown option.
        """
        careful = {
            "idle_timeout": 1800,
            "absolute_timeout": 43200,
            "remember_timeout": 43200,
            "renewal_timeout": 900,
            "old_id_policy": "end",
            "cookie_name": "__Host-id",
            "cookie_secure": True,
            "cookie_samesite": "Strict",
            "cookie_persistent": False,
            "fingerprint_policy": "reject",
            "ip_address_detail": "prefix",
        }
        return settings_from({**careful, **options})

    @classmethod
    def compatible(cls, *, cookie_domain: str, **options: Any) -> "Settings":
        """Settings for apps that share a cookie across subdomains, and have always done so; options override.

        The cookie goes to every host below the domain, follows links from elsewhere (Lax), is Secure where the request
        is, and names no host: whoever controls one of these hosts can set it for all.  31 days as Flask has it, and a
        change of client or of id is reported, and ends nothing.

        Args:
            cookie_domain: the domain above all of them, such as example.com.
            options: other fields.

        Raises:
            ConfigurationError: as `Settings`, and for an unknown option.
        """
        lenient = {
            "cookie_domain": cookie_domain,
            "idle_timeout": 2678400,
            "absolute_timeout": 31536000,
            "rotation_grace": 60,
            "fingerprint_policy": "log",
        }
        return settings_from({**lenient, **options})

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
    def encryption_keys(self) -> tuple[str, ...]:
        """The same for values at rest; none: they are not encrypted."""
        return cast(tuple[str, ...], self.encryption_key)

    @property
    def longest_timeout(self) -> float:
        """No session lives longer than this."""
        return max(self.absolute_timeout, self.remember_timeout)

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
        for name in ("secret_key", "encryption_key"):
            keys = shown[name]
            shown[name] = "***" if len(keys) == 1 else ("***",) * len(keys)
        urls = {name: mask_url(shown[name]) for name in ("redis_url", "database_url") if shown[name] is not None}
        return shown | urls

    def _error(self, name: str, mend: str) -> ConfigurationError:
        return ConfigurationError(f"{self._label(name)} {mend}")

    def _label(self, name: str) -> str:
        return f"{name} (from {self.sources[name]})" if name in self.sources else name

    def _normalise(self) -> None:
        """Every field in its own type: lists become tuples, whole seconds floats, a domain loses its leading dot."""
        object.__setattr__(self, "sources", dict(self.sources))
        for name in ("secret_key", "encryption_key"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
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

    def _check_keys(self) -> None:
        if not any(self.secret_keys):
            raise self._error("secret_key", f"is missing: {_KEY_MEND}, and pass it or set VEDSESS_SECRET_KEY")
        self._check_strength("secret_key", self.secret_keys)
        self._check_strength("encryption_key", self.encryption_keys)
        if set(self.secret_keys) & set(self.encryption_keys):
            raise self._error("encryption_key", f"is also a secret_key, and a key has one use: {_KEY_MEND}")
        if self.encryption_accepts_plain and not self.encryption_keys:
            raise self._error("encryption_accepts_plain", "is set without an encryption_key: set one, or unset it")

    def _check_strength(self, name: str, keys: Sequence[str]) -> None:
        for place, key in enumerate(keys, 1):
            which = f"(key {place} of {len(keys)}) " if len(keys) > 1 else ""
            flaw = flaw_of(key)
            if flaw:
                raise self._error(name, f"{which}{flaw}: {_KEY_MEND}")

    def _check_times(self) -> None:
        if self.idle_timeout > self.absolute_timeout:
            raise self._error("idle_timeout", "must not exceed absolute_timeout: lower it, or raise absolute_timeout")
        if self.renewal_timeout is not None and self.renewal_timeout <= self.rotation_grace:
            raise self._error("renewal_timeout", "must exceed rotation_grace, or old ids would never end: raise it")

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
