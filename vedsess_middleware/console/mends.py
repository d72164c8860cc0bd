"""What a failure of a store means for the person who runs it: what is wrong, and the mend.

Only fixed sentences and the masked URL are shown: what a server says may quote a key or a password.
"""

import re
from collections.abc import Iterator, Sequence

from vedsess_middleware.console.steps import Explanation
from vedsess_middleware.errors import StoreError, StoreUnavailable
from vedsess_middleware.settings import Settings, mask_url
from vedsess_middleware.stores.sql.tables import metadata

__all__ = ["ANSWERED", "explain_redis", "explain_sql", "explain_words"]

_Pattern = tuple[str, str, str, str]

ANSWERED = frozenset({"no password", "needless password", "password", "permission", "database", "type"})
"""Kinds of failure that a server can only have reported over a working connection."""

# The kind, the words it is known by, what is wrong, and the mend; the first match counts.
_NETWORK: tuple[_Pattern, ...] = (
    (
        "host",
        r"name or service not known|name resolution|nodename nor servname|no address associated|resolve host",
        "the host name in {place} is not known",
        "correct the host in {source}",
    ),
    (
        "refused",
        r"connection refused|error (111|61) ",
        "nobody listens at {place}",
        "start {server} there, or correct {source}",
    ),
    (
        "certificate",
        r"certificate",
        "the TLS certificate of {place} was not accepted",
        "name the authority that signed it ({authority}), and use the host name that it was made for",
    ),
)
_REDIS: tuple[_Pattern, ...] = (
    *_NETWORK,
    ("socket", r"no such file|error 2 ", "there is no socket at {place}", "start Redis there, or correct {source}"),
    ("no TLS", r"wrong_version|ssl: |record layer", "{place} speaks no TLS", "write redis://, or take its TLS port"),
    (
        "foreign",
        r"protocol error|invalid response|connection (not ready|has data)",
        "what answers at {place} is not Redis",
        "correct {source}",
    ),
    (
        "no password",
        r"authentication required|noauth",
        "Redis wants a password, and {source} gives none",
        "set REDIS_PASSWORD, or write redis://:PASSWORD@HOST into {source}",
    ),
    (
        "needless password",
        r"without any password",
        "a password is given, and this Redis has none",
        "take the password out of {source} and REDIS_PASSWORD, or give Redis one (requirepass)",
    ),
    (
        "password",
        r"wrongpass|invalid (username-)?password|refused the password",
        "Redis refused the user name or the password",
        "correct REDIS_PASSWORD and REDIS_USERNAME, or the credentials in {source}",
    ),
    (
        "permission",
        r"noperm|no permissions|can't run this command|refused a command: give",
        "this Redis user may not do what sessions need",
        "ACL SETUSER {user} ~{prefix}* +@read +@write +@scripting +@connection -@dangerous +info",
    ),
    (
        "database",
        r"db index is out of range|invalid db index",
        "this Redis has no database of that number",
        "use a lower number in {source}, or raise `databases` in redis.conf",
    ),
    (
        "type",
        r"wrongtype|value of another type",
        "a key of ours holds something else",
        "set VEDSESS_KEY_PREFIX to something that no other application uses",
    ),
    (
        "closed",
        r"closed by server|reset by peer|broken pipe|while reading",
        "{place} closed the connection at once",
        "write rediss:// if it speaks TLS; otherwise look into its log (protected-mode, maxclients)",
    ),
)
_SQL: tuple[_Pattern, ...] = (
    *_NETWORK,
    (
        "folder",
        r"unable to open database",
        "the file of {place} cannot be opened",
        "make its folder and let this user write there (SQLite needs files beside it), or correct {source}",
    ),
    (
        "not a database",
        r"not a database|malformed",
        "the file of {place} is no SQLite database",
        "move that file away, or correct {source}",
    ),
    (
        "read-only",
        r"readonly|read-only",
        "{place} is read-only",
        "let this user write to the file and its folder, or point {source} at the primary server",
    ),
    (
        "password",
        r"password authentication failed|no password supplied|access denied for user|no pg_hba|authentication failed",
        "the database refused the user name or the password",
        "correct the credentials in {source}",
    ),
    ("user", r"role \S+ does not exist", "the database does not know this user", "make it, or correct {source}"),
    (
        "database",
        r"database \S+ does not exist|unknown database",
        "the server at {place} has no such database",
        "make it (CREATE DATABASE ...), or correct its name in {source}",
    ),
    (
        "permission",
        r"permission denied|command denied|access denied",
        "this database user may not make or use the tables",
        "let the owner run `vedsess sql-init`, then GRANT SELECT, INSERT, UPDATE, DELETE ON {tables}",
    ),
)
_REASONS: dict[str, tuple[str, str]] = {
    "unreachable": ("{place} cannot be reached", "start {server} there, or correct {source}"),
    "timeout": ("no answer from {place} within {seconds:g} s", "is it up, and is a firewall in between?  {slow}"),
    "loading": ("{server} is still starting", "wait until it has loaded its data, then try again"),
    "read-only": ("{place} is a replica, or takes no writes", "point {source} at the primary"),
    "full": ("{server} is full, or cannot save", "give it more memory or disk; for Redis see maxmemory and its log"),
    "locked": ("{server} waited for a lock in vain", "look for a long transaction, or a process that stands still"),
    "busy": ("{server} is too busy to answer", "look for long scripts or transactions, and for too many clients"),
    "saturated": ("all connections of this process are in use", "try again"),
    "open": ("{server} failed a moment ago", "see the failure above"),
}


def explain_redis(error: StoreError, settings: Settings) -> Explanation:
    """What a failure of Redis means."""
    return _explain(error, _REDIS, _redis_facts(settings))


def explain_sql(error: StoreError, settings: Settings, url: str) -> Explanation:
    """What a failure of the database behind `url` means."""
    return _explain(error, _SQL, _sql_facts(settings, url))


def explain_words(words: str, settings: Settings) -> str:
    """What an event said of Redis, a reason or a refusal, as one sentence with its mend; empty: nothing known."""
    facts = _redis_facts(settings)
    found = _match(words, _REDIS, facts)
    if found is not None:
        return f"{found.what}: {found.mend}"
    what, mend = _REASONS.get(words, ("", ""))
    return f"{what}: {mend}".format(**facts) if what else ""


def _explain(error: StoreError, patterns: Sequence[_Pattern], facts: dict[str, object]) -> Explanation:
    texts = " ".join(str(each) for each in _chain(error))
    found = _match(texts, patterns, facts)
    if found is not None:
        return found
    reason = error.reason if isinstance(error, StoreUnavailable) else ""
    if reason in _REASONS:
        what, mend = _REASONS[reason]
        return Explanation(reason, what.format(**facts), mend.format(**facts))
    return Explanation("other", "{server} refused".format(**facts), "look into the log of {place}".format(**facts))


def _match(text: str, patterns: Sequence[_Pattern], facts: dict[str, object]) -> Explanation | None:
    for kind, words, what, mend in patterns:
        if re.search(words, text, re.IGNORECASE):
            return Explanation(kind, what.format(**facts), mend.format(**facts))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _redis_facts(settings: Settings) -> dict[str, object]:
    url = settings.redis_url or ""
    slow = f"A distant one needs a longer VEDSESS_REDIS_TIMEOUT than {settings.redis_timeout:g}."
    if url.startswith("rediss:"):
        slow += "  A port without TLS does not answer rediss:// either."
    user = re.match(r"\w+://([^:@/]+)(:[^@]*)?@", url)
    return {
        "server": "Redis",
        "place": mask_url(url),
        "source": settings.sources.get("redis_url", "redis_url"),
        "seconds": settings.redis_timeout,
        "slow": slow,
        "authority": "?ssl_ca_certs=/path/to/ca.pem in the URL",
        "user": user.group(1) if user else "default",
        "prefix": settings.key_prefix,
    }


def _sql_facts(settings: Settings, url: str) -> dict[str, object]:
    return {
        "server": "the database",
        "place": mask_url(url),
        "source": settings.sources.get("database_url", "VEDSESS_DATABASE_URL"),
        "seconds": settings.sql_timeout,
        "slow": f"A distant one needs a longer VEDSESS_SQL_TIMEOUT than {settings.sql_timeout:g}.",
        "authority": "?sslrootcert=/path/to/ca.pem in the URL",
        "tables": ", ".join(sorted(metadata.tables)),
    }
