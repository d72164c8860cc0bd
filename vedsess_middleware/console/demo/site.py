"""What both apps of the demo do with a session: it is the same object, so they share every line of it."""

import hmac
import json
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vedsess_middleware.console.demo.page import View, card_page, page
from vedsess_middleware.events import Event, StoreDegraded, StoreRecovered, StoreRefused, StoreRestarted, log_event
from vedsess_middleware.session import Session

__all__ = ["Answer", "Asked", "Site"]

_TOKEN = "form_token"  # noqa: S105
_SHOWN = (StoreDegraded, StoreRecovered, StoreRefused, StoreRestarted)
_ORDERS = ("start", "kill", "freeze", "thaw")
_LONGEST_NAME = 40
_LONGEST_VALUE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, whatever the server."""

    method: str
    path: str
    form: Mapping[str, str]
    origin: str | None
    wants_json: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, whatever the server."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Site:
    """One app of the demo.

    Args:
        name: `wsgi` or `asgi`.
        urls: of both apps, by name.
        ask: gives an order to the keeper of Redis, and returns the state of Redis.
    """

    def __init__(self, name: str, urls: Mapping[str, str], ask: Callable[[str], str]) -> None:
        self.name, self.urls, self._ask = name, urls, ask
        self.serving: Callable[[], str] = lambda: ""
        self._events: deque[str] = deque(maxlen=6)

    def note(self, event: Event) -> None:
        """The event hook: the page shows what happens to the stores."""
        log_event(event)
        if isinstance(event, _SHOWN):
            reason = getattr(event, "reason", "")
            self._events.append(f"{type(event).__name__} {event.store} {reason}".strip())

    def answer(self, asked: Asked, session: Session) -> Answer:
        """Serve a request."""
        if asked.method == "POST":
            return self._act(asked, session)
        if asked.path == "/view":
            return self._html(card_page(self._view(session)))
        if asked.path != "/":
            return Answer(404, "There is nothing here.\n")
        view = self._view(session)
        if asked.wants_json:
            return Answer(200, json.dumps(view.facts()), {"Content-Type": "application/json"})
        return self._html(page(view, self.urls))

    def _act(self, asked: Asked, session: Session) -> Answer:
        if not self._is_ours(asked, session):
            return Answer(403, "This form is not ours, or out of date.  Go back, reload the page, and try again.\n")
        actions = {"/login": _login, "/write": _write, "/logout": _logout, "/redis": self._order}
        action, store = actions.get(asked.path), session.store
        if action is None or not action(session, asked.form):
            return Answer(400, "That cannot be done.  Go back, fill in every field, and try again.\n")
        back = self.urls.get(asked.form.get("back", ""), self.urls[self.name])
        return Answer(303, "", {"Location": f"{back}/", "X-Session-Store": store})

    def _is_ours(self, asked: Asked, session: Session) -> bool:
        """Beside SameSite: from a page of ours, and with the token of this session once there is one."""
        token = session.get(_TOKEN)
        if asked.origin not in (None, *self.urls.values()):
            return False
        return token is None or hmac.compare_digest(token, asked.form.get("token", ""))

    def _order(self, _: Session, form: Mapping[str, str]) -> bool:
        order = form.get("order", "")
        if order in _ORDERS:
            self._ask(order)
        return order in _ORDERS

    def _view(self, session: Session) -> View:
        values: dict[str, Any] = dict(session)
        token = values.pop(_TOKEN, "")
        serving = self.serving()
        return View(
            app=self.name,
            user=session.user_id,
            stored=not session.is_new,
            store=session.store,
            stale=session.stale,
            breaker="closed" if serving == "redis" else "open",
            redis=self._ask("state"),
            values=values,
            token=token,
            events=tuple(self._events),
        )

    def _html(self, text: str) -> Answer:
        ours = " ".join(self.urls.values())
        policy = f"default-src 'none'; style-src 'unsafe-inline'; frame-src {ours}; form-action {ours}; base-uri 'none'"
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": f"{policy}; frame-ancestors {ours}",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store, private",
        }
        return Answer(200, text, headers)


def _login(session: Session, form: Mapping[str, str]) -> bool:
    name = form.get("name", "").strip()[:_LONGEST_NAME]
    if name:
        session.login(name)
        session[_TOKEN] = secrets.token_urlsafe(16)
    return bool(name)


def _write(session: Session, form: Mapping[str, str]) -> bool:
    name, value = form.get("field", "").strip()[:_LONGEST_NAME], form.get("value", "")[:_LONGEST_VALUE]
    if not name or name == _TOKEN:
        return False
    session.setdefault(_TOKEN, secrets.token_urlsafe(16))
    session[name] = value
    return True


def _logout(session: Session, _: Mapping[str, str]) -> bool:
    session.logout()
    return True
