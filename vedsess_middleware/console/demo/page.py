"""The page of the demo: plain HTML and forms, every text escaped, nothing loaded from anywhere."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

__all__ = ["View", "card_page", "page"]

_TITLES = {"wsgi": "WSGI app (waitress)", "asgi": "ASGI app (uvicorn)"}
_STYLES = {"running": "good", "frozen": "warn", "closed": "good", "open": "warn", "redis": "good", "sql": "warn"}
_KILL = {"kill": "Kill Redis (SIGKILL)"}
_ORDERS = {
    "running": ("Take Redis away: both apps go on from SQL.", {**_KILL, "freeze": "Freeze Redis (SIGSTOP)"}),
    "frozen": (
        "Redis takes connections and answers nothing.  Thawed, it serves again after a few requests: reload.",
        {"thaw": "Thaw Redis", **_KILL},
    ),
    "stopped": (
        "Started, it is empty.  Each app notices within seconds, on its own requests: reload a few times.",
        {"start": "Start Redis"},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one app sees of one browser's session.

    Attributes:
        app: `wsgi` or `asgi`.
        user: who is logged in, or None.
        stored: whether there is a session at all.
        store: which one served it; empty: none did.
        stale: whether it may lack writes.
        breaker: of this app, for Redis.
        redis: what the process of Redis does.
        values: of the session.
        token: that the forms send along; empty before there is a session.
        events: what happened to the stores, the oldest first.
    """

    app: str
    user: str | None
    stored: bool
    store: str
    stale: bool
    breaker: str
    redis: str
    values: Mapping[str, Any]
    token: str
    events: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """For programs."""
        names = ("app", "user", "stored", "store", "stale", "breaker", "redis", "values", "token")
        return {name: getattr(self, name) for name in names}


def page(view: View, urls: Mapping[str, str]) -> str:
    """The whole page: this app's view, the other one's in a frame, and the buttons."""
    other = next(name for name in urls if name != view.app)
    frame = f'<iframe src="{escape(urls[other])}/view" title="What the {escape(_TITLES[other])} sees"></iframe>'
    body = f"""
<header><div><h1>One session, two apps, two stores</h1>
<p class="lead">Both apps read the same cookie.  Redis holds the session; SQL takes over when Redis is gone.</p></div>
<a class="button" href="{escape(urls[view.app])}/">Reload</a></header>
<div class="grid"><section class="card">{_card(view)}</section><section class="card frame">{frame}</section></div>
<div class="grid"><section class="card">{_session_forms(view, urls)}</section>
<section class="card">{_redis_forms(view, urls)}</section></div>"""
    return _document("vedsess demo", f"<main>{body}</main>")


def card_page(view: View) -> str:
    """What one app sees, for the frame in the other one's page."""
    return _document(_TITLES[view.app], f'<main class="card">{_card(view)}</main>', framed=True)


def _document(title: str, body: str, *, framed: bool = False) -> str:
    style = (resources.files(__package__) / "page.css").read_text(encoding="utf-8")
    kind = ' class="framed"' if framed else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body{kind}>{body}</body></html>\n"
    )


def _card(view: View) -> str:
    user = _badge(f"{view.user} is logged in", "good") if view.user else "nobody is logged in"
    user = user if view.user else escape(user)
    facts = {
        "User": user,
        "Session": escape("stored" if view.stored else "none yet"),
        "Served by": _badge(view.store, _STYLES.get(view.store, "")) if view.store else "no store was asked",
        "Redis breaker": _badge(view.breaker, _STYLES.get(view.breaker, "bad")),
        "Redis process": _badge(view.redis, _STYLES.get(view.redis, "bad")),
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f"""<h2>{escape(_TITLES[view.app])}</h2><dl>{listed}</dl>
<h3>Values</h3>{_values(view.values)}<h3>Events of this app</h3>{_events(view.events)}"""


def _badge(text: str, style: str) -> str:
    return f'<span class="badge {style}">{escape(text)}</span>'


def _values(values: Mapping[str, Any]) -> str:
    if not values:
        return '<p class="none">none</p>'
    rows = (
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>' for name, value in values.items()
    )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _events(events: Iterable[str]) -> str:
    listed = "".join(f"<li>{escape(event)}</li>" for event in events)
    return f"<ul>{listed}</ul>" if listed else '<p class="none">none</p>'


def _session_forms(view: View, urls: Mapping[str, str]) -> str:
    buttons = "".join(
        f'<button formaction="{escape(url)}/write">Write on {escape(name.upper())}</button>'
        for name, url in urls.items()
    )
    fields = _field("field", "Field") + _field("value", "Value")
    write = _form(view, urls, "/write", f'{fields}<div class="buttons">{buttons}</div>')
    log_in = _form(view, urls, "/login", _field("name", "Name") + "<button>Log in</button>")
    log_out = _form(view, urls, "/logout", '<button class="risk">Log out</button>')
    forms = (log_in if view.user is None else "", write, log_out if view.stored else "")
    return f"<h2>The session</h2>{''.join(forms)}"


def _redis_forms(view: View, urls: Mapping[str, str]) -> str:
    hint, orders = _ORDERS.get(view.redis, _ORDERS["stopped"])
    buttons = "".join(f'<button name="order" value="{order}">{escape(text)}</button>' for order, text in orders.items())
    return f'<h2>Redis</h2>{_form(view, urls, "/redis", buttons)}<p class="none">{escape(hint)}</p>'


def _field(name: str, label: str) -> str:
    return f'<label>{escape(label)}<input name="{escape(name)}" maxlength="40" autocomplete="off" required></label>'


def _form(view: View, urls: Mapping[str, str], action: str, fields: str) -> str:
    hidden = {"token": view.token, "back": view.app}
    inputs = "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in hidden.items())
    return f'<form method="post" action="{escape(urls[view.app])}{action}">{inputs}{fields}</form>'
