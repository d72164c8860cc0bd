"""Environment variables, read into the values of `Settings`.

Every textual field is `VEDSESS_<FIELD>`.  Beside them: `REDIS_URL`, or `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB`,
`REDIS_USERNAME`, `REDIS_PASSWORD` and `REDIS_SSL`; `SESSION_STORAGE`; and `<NAME>_FILE` for what is secret.
`DATABASE_URL` is not read: it is the app's.  No error shows a value.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import msgspec
from msgspec import Meta

from .errors import ConfigurationError

__all__ = [
    "FIELDS",
    "AddressDetail",
    "AgentDetail",
    "FingerprintPart",
    "FingerprintPolicy",
    "LimitPolicy",
    "Mirror",
    "OldIdPolicy",
    "SameSite",
    "Storage",
    "expected",
    "nearest",
    "read",
    "redis_parts",
]

Mirror = Literal["off", "after-response", "before-response"]
SameSite = Literal["Lax", "Strict", "None"]
Storage = Literal["redis", "database"]
OldIdPolicy = Literal["report", "end"]
LimitPolicy = Literal["end-oldest", "deny"]
FingerprintPolicy = Literal["off", "log", "rotate", "reject"]
FingerprintPart = Literal["user_agent", "ip_address"]
AgentDetail = Literal["label", "full", "off"]
AddressDetail = Literal["full", "prefix", "off"]

_Text = Annotated[str, Meta(description="text")]
_MaybeText = Annotated[str | None, Meta(description="text")]
_Switch = Annotated[bool, Meta(description="true or false")]
_Seconds = Annotated[
    float, Meta(gt=0, le=100 * 365 * 86400, description="a number of seconds, more than 0 and finite, such as 1800")
]

_MaybeSeconds = Annotated[
    Annotated[float, Meta(gt=0, le=100 * 365 * 86400)] | None,
    Meta(description="a number of seconds, more than 0 and finite, or None"),
]
_MaybeBytes = Annotated[
    Annotated[int, Meta(ge=64)] | None, Meta(description="a number of bytes, 64 or more, or None: no limit")
]

FIELDS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "secret_key": Annotated[tuple[str, ...], Meta(description="text, or a list of texts, the newest first")],
        "redis_url": _MaybeText,
        "database_url": _MaybeText,
        "storage": Annotated[Storage | None, Meta(description="redis or database")],
        "mirror": Annotated[Mirror, Meta(description="off, after-response or before-response")],
        "key_prefix": Annotated[
            str,
            Meta(pattern=r"\A[!-)+->@-Z^-z|~]+\Z", description="printable ASCII without spaces and any of *?[]{}\\"),
        ],
        "idle_timeout": _Seconds,
        "absolute_timeout": _Seconds,
        "cookie_name": Annotated[
            str,
            Meta(pattern=r"\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z", description="letters, digits and !#$%&'*+-.^_`|~ only"),
        ],
        "cookie_secure": Annotated[bool | None, Meta(description="true, false or auto (None in Python)")],
        "cookie_samesite": Annotated[SameSite, Meta(description="Lax, Strict or None (the text)")],
        "cookie_domain": _MaybeText,
        "cookie_path": Annotated[
            str, Meta(pattern=r"\A/[ -:<-~]*\Z", description="a path that begins with /, in ASCII and without ;")
        ],
        "cookie_partitioned": _Switch,
        "audience": _Text,
        "exclude": Annotated[
            tuple[Annotated[str, Meta(pattern=r"\A/")], ...], Meta(description="a list of paths, each beginning with /")
        ],
        "cookie_persistent": _Switch,
        "remember_timeout": _Seconds,
        "renewal_timeout": _MaybeSeconds,
        "rotation_grace": Annotated[
            float, Meta(ge=0, le=300, description="a number of seconds from 0 to 300, such as 10")
        ],
        "old_id_policy": Annotated[OldIdPolicy, Meta(description="report or end")],
        "max_sessions_per_user": Annotated[
            Annotated[int, Meta(ge=1, le=10_000)] | None,
            Meta(description="a number from 1 to 10000, or None"),
        ],
        "session_limit_policy": Annotated[LimitPolicy, Meta(description="end-oldest or deny")],
        "user_id_field": Annotated[
            Annotated[str, Meta(min_length=1)] | None, Meta(description="the name of a session field, such as _user_id")
        ],
        "websocket_check": _Seconds,
        "fingerprint_policy": Annotated[FingerprintPolicy, Meta(description="off, log, rotate or reject")],
        "fingerprint_parts": Annotated[
            tuple[FingerprintPart, ...], Meta(min_length=1, description="a list of user_agent, ip_address or both")
        ],
        "ipv4_prefix": Annotated[int, Meta(ge=0, le=32, description="a number of bits from 0 to 32")],
        "ipv6_prefix": Annotated[int, Meta(ge=0, le=128, description="a number of bits from 0 to 128")],
        "encryption_key": Annotated[tuple[str, ...], Meta(description="text, or a list of texts, the newest first")],
        "encryption_accepts_plain": _Switch,
        "compress_above": _MaybeBytes,
        "max_field_bytes": _MaybeBytes,
        "max_session_bytes": _MaybeBytes,
        "user_agent_detail": Annotated[AgentDetail, Meta(description="label, full or off")],
        "ip_address_detail": Annotated[AddressDetail, Meta(description="full, prefix or off")],
        "trusted_proxies": Annotated[int, Meta(ge=0, description="the number of proxies in front: 0, 1, 2, ...")],
        "redis_timeout": _Seconds,
        "sql_timeout": _Seconds,
        "probe_timeout": _Seconds,
    }
)
"""Every field of `Settings` that a text can give, and what it may hold."""

_PORT = "a number from 1 to 65535; Kubernetes sets a URL here for a Service called redis: set the number yourself"
_REDIS_PARTS: Final[Mapping[str, Any]] = {
    "REDIS_HOST": Annotated[
        str,
        Meta(
            pattern=r"\A([A-Za-z0-9._-]+|\[?[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]?)\Z",
            description="a bare host name or address: put the port in REDIS_PORT, or a whole URL in REDIS_URL",
        ),
    ],
    "REDIS_PORT": Annotated[int, Meta(ge=1, le=65535, description=_PORT)],
    "REDIS_DB": Annotated[int, Meta(ge=0, description="the number of a database, 0 or more")],
    "REDIS_USERNAME": _Text,
    "REDIS_PASSWORD": _Text,
    "REDIS_SSL": _Switch,
}
_PREFIX = "VEDSESS_"
_SECRET_FIELDS = ("secret_key", "encryption_key", "redis_url", "database_url")
_IN_FILES = {*(_PREFIX + name.upper() for name in _SECRET_FIELDS), "REDIS_URL", "REDIS_PASSWORD"}
_OWN_NAMES = {_PREFIX + name.upper() for name in FIELDS}
_KNOWN = _OWN_NAMES | {f"{name}_FILE" for name in _IN_FILES & _OWN_NAMES}
_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class _Given:
    """A text, and the variables that gave it."""

    text: str = field(repr=False)
    variable: str


def read(environ: Mapping[str, str], *, without: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that `environ` gives, and the variables each came from, both by field name.

    An empty variable counts as unset.  Fields named in `without` are not read, so their variables may contradict.

    Raises:
        ConfigurationError: variables that differ, an unknown `VEDSESS_*` name, an unreadable value or file.
    """
    given = {name: text for name in environ if (text := _clean(name, environ[name]))}
    _refuse_unknown(given)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, kind in FIELDS.items():
        found = None if name in without else _find(name, given)
        if found is not None:
            values[name] = _parse(found, kind, separator=r"[\s,]+" if name.endswith("_key") else r"\s*,\s*")
            sources[name] = found.variable
    return values, sources


def expected(kind: Any) -> str:
    """What a value of a kind in `FIELDS` looks like, in words for an error message."""
    return str(kind.__metadata__[-1].description)


def nearest(name: str, known: Iterable[str]) -> str:
    """The mend for an unknown name: the known one that is nearest, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"


def redis_parts(label: str, url: str) -> dict[str, Any]:
    """What a Redis URL resolves to, by the name of the variable that could say the same; `rest` is all else.

    Raises:
        ConfigurationError: not a URL that redis-py can use.  The message begins with `label` and never shows the URL.
    """
    if url.partition("://")[0] not in ("redis", "rediss", "unix"):
        raise ConfigurationError(f"{label} must begin with redis://, rediss:// (TLS) or unix://")
    pieces = _split(url)
    if pieces is None or pieces.fragment:
        mend = "percent-encode special characters in user name and password (`/` is %2F, `#` is %23, `@` is %40)"
        raise ConfigurationError(f"{label} is not a URL that can be read: {mend}")
    socket = pieces.scheme == "unix"
    if not (pieces.path.strip("/") if socket else pieces.hostname):
        raise ConfigurationError(f"{label} names no server: redis://HOST:6379/0, or unix:///path/to/socket?db=0")
    query = dict(reversed(parse_qsl(pieces.query)))  # redis-py takes the first of several
    database = query.pop("db", None) or ("" if socket else pieces.path.strip("/")) or "0"
    if not (database.isascii() and database.isdigit()):
        raise ConfigurationError(f"{label} must give its database as a number: redis://HOST:6379/0")
    return {
        "REDIS_HOST": None if socket else unquote(pieces.hostname or ""),
        "REDIS_PORT": None if socket else pieces.port or 6379,
        "REDIS_DB": int(database),
        "REDIS_USERNAME": unquote(pieces.username or "") or query.pop("username", None),
        "REDIS_PASSWORD": unquote(pieces.password or "") or query.pop("password", None),
        "REDIS_SSL": pieces.scheme == "rediss",
        "rest": (pieces.path if socket else "", query),
    }


def _split(url: str) -> SplitResult | None:
    """The pieces, or None; the message of `urlsplit` is dropped, for it may quote a password."""
    try:
        pieces = urlsplit(url)
        return None if pieces.port == 0 else pieces
    except ValueError:
        return None


def _refuse_unknown(given: Mapping[str, str]) -> None:
    for name in sorted(given):
        if name.startswith(_PREFIX) and name not in _KNOWN:
            raise ConfigurationError(f"{name} is not a setting, mend or unset it: {nearest(name, _KNOWN)}")


def _clean(name: str, text: str) -> str:
    """The text without the white space around it, which only a password may mean."""
    return text if name == "REDIS_PASSWORD" else text.strip()


def _find(name: str, given: Mapping[str, str]) -> _Given | None:
    own = _look_up(_PREFIX + name.upper(), given)
    if name == "redis_url":
        return _find_redis(own, given)
    if name == "storage":
        other = _look_up("SESSION_STORAGE", given)
        if own and other and own.text.lower() != other.text.lower():
            raise _differ(own.variable, other.variable)
        return own or other
    return own


def _look_up(name: str, given: Mapping[str, str]) -> _Given | None:
    text, path = given.get(name), given.get(f"{name}_FILE") if name in _IN_FILES else None
    if path is None:
        return None if text is None else _Given(text, name)
    content = _clean(name, _content(f"{name}_FILE", path))
    if text is not None and text != content:
        raise _differ(name, f"{name}_FILE")
    return _Given(content, f"{name}_FILE")


def _content(variable: str, path: str) -> str:
    reason = "it is empty"
    try:
        content = Path(path).read_text(encoding="utf-8-sig").rstrip("\r\n")
    except OSError as error:
        content, reason = "", error.strerror or type(error).__name__
    except ValueError:
        content, reason = "", "it is not UTF-8 text"
    if not content:  # raised out here, so that no chained error carries bytes of the secret
        raise ConfigurationError(f"{variable} names a file of no use ({reason}): mend the file, or unset {variable}")
    return content


def _differ(first: str, second: str) -> ConfigurationError:
    return ConfigurationError(f"{first} and {second} resolve to different values: unset one, or make them equal")


def _parse(found: _Given, kind: Any, *, separator: str = ",") -> Any:
    """The value that a text spells."""
    try:
        return msgspec.convert(_spelled(found.text, kind.__origin__, separator), kind, strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError):
        pass  # raised below, so that no chained error carries the text
    raise ConfigurationError(f"{found.variable} must be {expected(kind)}")


def _spelled(text: str, plain: Any, separator: str) -> Any:
    """The text as msgspec knows it: lists split, switches as booleans, options in their own letter case."""
    if get_origin(plain) is tuple:
        return [part for part in re.split(separator, text) if part]
    inner = get_args(plain)
    if bool in (plain, *inner):
        return None if text.lower() == "auto" else _SWITCHES.get(text.lower(), text)
    options = [option for kind in (plain, *inner) for option in get_args(kind) if isinstance(option, str)]
    return next((option for option in options if option.lower() == text.lower()), text)


def _find_redis(own: _Given | None, given: Mapping[str, str]) -> _Given | None:
    common = _look_up("REDIS_URL", given)
    if own and common and redis_parts(own.variable, own.text) != redis_parts(common.variable, common.text):
        raise _differ(own.variable, common.variable)
    texts = {name: found for name in _REDIS_PARTS if (found := _look_up(name, given))}
    parts = {name: _parse(found, _REDIS_PARTS[name]) for name, found in texts.items()}
    if "REDIS_HOST" in parts:
        parts["REDIS_HOST"] = parts["REDIS_HOST"].strip("[]").lower()
    url = own or common
    if url is None:
        return _assemble(parts, texts) if parts else None
    return _complete(url, parts, texts)


def _assemble(parts: Mapping[str, Any], texts: Mapping[str, _Given]) -> _Given:
    variables = ", ".join(found.variable for found in texts.values())
    if "REDIS_HOST" not in parts:
        raise ConfigurationError(f"{variables} set without a server: set REDIS_HOST, or REDIS_URL alone")
    host = parts["REDIS_HOST"]
    server = f"[{host}]" if ":" in host else host
    scheme = "rediss" if parts.get("REDIS_SSL") else "redis"
    place = f"{server}:{parts.get('REDIS_PORT', 6379)}/{parts.get('REDIS_DB', 0)}"
    return _Given(f"{scheme}://{_credentials(parts)}{place}", variables)


def _complete(url: _Given, parts: Mapping[str, Any], texts: Mapping[str, _Given]) -> _Given:
    """The URL, with the user name and the password that it lacks; anything else must say what it says."""
    said = redis_parts(url.variable, url.text)
    if said["REDIS_PASSWORD"] is not None:
        said["REDIS_USERNAME"] = said["REDIS_USERNAME"] or "default"
    added = [name for name in ("REDIS_USERNAME", "REDIS_PASSWORD") if name in parts and said[name] is None]
    for name, value in parts.items():
        if name not in added and value != said[name]:
            raise _differ(url.variable, texts[name].variable)
    if not added:
        return url
    pieces = urlsplit(url.text)
    credentials = _credentials(said | {name: parts[name] for name in added})
    text = pieces._replace(netloc=credentials + pieces.netloc.rpartition("@")[2]).geturl()
    return _Given(text, ", ".join([url.variable, *(texts[name].variable for name in added)]))


def _credentials(parts: Mapping[str, Any]) -> str:
    """`user:password@`, or what there is of it."""
    user = quote(parts.get("REDIS_USERNAME") or "", safe="", errors="surrogateescape")
    password = quote(parts.get("REDIS_PASSWORD") or "", safe="", errors="surrogateescape")
    return (f"{user}:{password}" if password else user) + "@" if user or password else ""
