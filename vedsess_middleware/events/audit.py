"""The audit log: events in the words that security monitoring knows, one JSON object per line.

The words are those of OWASP's Logging Vocabulary cheat sheet, the fields those of its format that a session layer can
know (ASVS 16.2.1: when, where, who, what).  When and where belong to the handler: a formatter adds time, host and app.
"""

import json
import logging
from dataclasses import asdict, dataclass

from vedsess_middleware.events.base import Event

__all__ = ["VOCABULARY", "Term", "log_audit"]


@dataclass(frozen=True, slots=True)
class Term:
    """A word of the vocabulary.

    Attributes:
        description: what happened.
        parameters: the facts of an event that follow the word, in the order of the vocabulary.
    """

    description: str
    parameters: tuple[str, ...] = ()


VOCABULARY = {
    "authn_login_success": Term("A user logged in.", ("user_id",)),
    "authn_token_reuse": Term("A session id was used that had been given up.", ("user_id", "session")),
    "authn_token_revoked": Term("Every session that a user had was cut off.", ("user_id",)),
    "excess_rate_limit_exceeded": Term("A user had as many sessions as are allowed.", ("user_id", "limit")),
    "input_validation_fail": Term("What a client sent was not valid, and not believed.", ("inputs", "user_id")),
    "session_created": Term("A session began.", ("user_id",)),
    "session_expired": Term("A session is over.", ("user_id", "reason")),
    "session_renewed": Term("A session went on under a new id.", ("user_id",)),
    "session_use_after_expire": Term("A genuine cookie named a session that is not there any more.", ("user_id",)),
    "sys_restart": Term("A store was restarted, or is another one."),
}
"""The words of the vocabulary that events use."""

_LEVELS = {logging.INFO: "INFO", logging.WARNING: "WARN", logging.ERROR: "ERROR", logging.CRITICAL: "CRITICAL"}
_SEPARATORS = str.maketrans({"%": "%25", ",": "%2C"})
_logger = logging.getLogger("vedsess_middleware.audit")


def log_audit(event: Event) -> None:
    """A hook: one line on the logger `vedsess_middleware.audit` for each name that the vocabulary has for the event.

    The level is that of the event, but INFO at least: what is audited is no detail for debugging.
    """
    level = max(event.level, logging.INFO)
    if not _logger.isEnabledFor(level):
        return
    for name in event.audit_names:
        term = VOCABULARY[name]
        said = _said(name, term, event)
        known = {fact: value for fact, value in asdict(event).items() if value not in (None, "")}
        line = {"event": said, "level": _LEVELS[level], "description": term.description, **known}
        _logger.log(level, "%s", json.dumps(line), extra={"event": said})


def _said(name: str, term: Term, event: Event) -> str:
    """The word and its parameters: an unknown one is left empty, and left out at the end; a comma is written `%2C`."""
    known = [getattr(event, parameter, None) for parameter in term.parameters]
    texts = ["" if value is None else str(value).translate(_SEPARATORS) for value in known]
    while texts and not texts[-1]:
        texts.pop()
    return f"{name}:{','.join(texts)}" if texts else name
