"""What the errors of SQLAlchemy and its drivers mean for the stores."""

import re
import sqlite3
import ssl
from typing import Literal

from sqlalchemy import exc

from vedsess_middleware.errors import Reason, StoreError, StoreMisconfigured, StoreUnavailable

__all__ = ["is_locked", "is_made_already", "needs_tables", "translate", "was_deadlock", "was_disconnected"]

Code = int | str | None
Fault = Reason | Literal["misconfigured"]

# Result codes of SQLite (below 1000), error numbers of MySQL, SQLSTATEs of PostgreSQL (two characters: the class).
_CODES: dict[Fault, tuple[int | str, ...]] = {
    "busy": (1040, 1203, "53300"),
    "full": (sqlite3.SQLITE_FULL, 1021, 1114, "53"),
    "loading": (1053, "57P01", "57P02", "57P03"),
    "locked": (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, 1205, 1213, "40", "55P03"),
    "misconfigured": (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
    + (1044, 1045, 1049, 1130, 1142, 1146, 1227, 1698, 2061, "28", "3D", "3F", "42501", "42P01", "55000"),
    "read-only": (sqlite3.SQLITE_READONLY, 1290, 1792, 1836, "25006"),
    "timeout": (1969, 3024, "25P03", "25P04", "57014"),
    "unreachable": (sqlite3.SQLITE_IOERR, 2002, 2003, 2006, 2013, 2055, "08", "57P05", "58"),
}
_DEADLOCKS: tuple[Code, ...] = (1213, "40001", "40P01")
_MISSING: tuple[Code, ...] = (1054, 1146, "42703", "42P01")
_THERE: tuple[Code, ...] = (1050, 1060, 1061, "23505", "42701", "42710", "42P07")
_FAULTS: dict[Code, Fault] = {code: fault for fault, codes in _CODES.items() for code in codes}
# Where there is no code, or one that says too little; the first match counts.  A double space follows the word that
# libpq copies from a server's refusal, whatever the server's language.
_WORDINGS: tuple[tuple[Fault, str], ...] = (
    ("loading", "database system is"),
    ("busy", "too many clients|too many connections|connection slots"),
    ("unreachable", "server login has been failing"),
    ("timeout", r"time budget|timeout expired|timed out\)"),
    ("misconfigured", r"failed: \S+:  |no password supplied|unsupported startup parameter"),
    ("misconfigured", "certificate|SSL was required|(bad: |^)invalid "),
)
_CODES_WITH_WORDING: tuple[Code, ...] = (None, 2003, 2013, "08P01")


def was_disconnected(error: BaseException) -> bool:
    """Whether a pooled connection turned out to be dead, so that one repeat at once, on a new one, may succeed.

    False for timeouts.  If it happened during the commit, the transaction may have been applied.
    """
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated and _fault(error) != "timeout"


def was_deadlock(error: BaseException) -> bool:
    """Whether the transaction was chosen to give way to another one, so that it may succeed at once."""
    return isinstance(error, exc.DBAPIError) and error.orig is not None and _code(error.orig) in _DEADLOCKS


def needs_tables(error: BaseException) -> bool:
    """Whether a statement failed because its table, or a column of it, does not exist."""
    return _says(error, _MISSING, "no such table|no such column|has no column")


def is_made_already(error: BaseException) -> bool:
    """Whether something could not be made because it is there."""
    return _says(error, _THERE, "already exists|duplicate column")


def is_locked(error: sqlite3.Error) -> bool:
    """Whether SQLite met another connection's lock."""
    return _FAULTS.get(_code(error)) == "locked"


def translate(error: exc.SQLAlchemyError | OSError, what: str, *, making: bool = False) -> StoreError:
    """The store error to raise `from` this one.  (`TimeoutError` is an `OSError`.)

    Args:
        error: what SQLAlchemy raised.
        what: the message begins with it.
        making: it came while missing tables were made: that is to be done by somebody who may.

    Raises:
        SQLAlchemyError: the given error itself, where a statement of ours is at fault.
    """
    fault = _fault(error)
    if fault is None:
        raise error
    if fault != "misconfigured":
        return StoreUnavailable(f"{what}: SQL store {fault}", reason=fault)
    cause = str(getattr(error, "orig", None) or error).split("\n", 1)[0]
    mend = " (`vedsess sql-init` makes it)" if making or needs_tables(error) else ""
    return StoreMisconfigured(f"{what}: {cause}{mend}")


def _says(error: BaseException, codes: tuple[Code, ...], words: str) -> bool:
    """Whether the database answered with one of these codes; SQLite has but one, and words."""
    if not isinstance(error, exc.DBAPIError) or error.orig is None:
        return False
    code = _code(error.orig)
    return code in codes or (code == sqlite3.SQLITE_ERROR and bool(re.search(words, str(error.orig))))


def _fault(error: BaseException) -> Fault | None:
    match error:
        case exc.TimeoutError():
            return "saturated"
        case TimeoutError():
            return "timeout"
        case exc.NoSuchModuleError() | exc.ArgumentError() | PermissionError() | ssl.SSLCertVerificationError():
            return "misconfigured"
        case OSError():
            return "unreachable"
        case exc.DBAPIError(orig=BaseException() as orig):
            lost = error.connection_invalidated or isinstance(error, exc.OperationalError)
            return "misconfigured" if needs_tables(error) else _driver_fault(orig, lost=lost)
    return None


def _driver_fault(error: BaseException, *, lost: bool) -> Fault | None:
    code = _code(error)
    if code in _CODES_WITH_WORDING:
        for fault, wording in _WORDINGS:
            if re.search(wording, str(error)):
                return fault
    if code is None:
        return "unreachable" if lost else None
    return _FAULTS.get(code) or (_FAULTS.get(code[:2]) if isinstance(code, str) else None)


def _code(error: BaseException) -> Code:
    """The primary result code of SQLite, the SQLSTATE of PostgreSQL or the error number of MySQL."""
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        return int(code) & 0xFF
    if error.args and isinstance(error.args[0], int):  # PyMySQL has an SQLSTATE too, which says less
        return error.args[0]
    return getattr(error, "sqlstate", None)
