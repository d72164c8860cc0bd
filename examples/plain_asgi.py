"""Log in, look, log out: an ASGI app without a framework.  (A real login asks for a password first.)

Set VEDSESS_SECRET_KEY and REDIS_URL, then run

    uvicorn examples.plain_asgi:app
"""

import json
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from vedsess_middleware import Session, Settings
from vedsess_middleware.asgi import SessionMiddleware


def login(session: Session, query: dict[str, list[str]]) -> None:
    session.login(query.get("user", ["ada"])[0])
    session["visits"] = {"whoami": 0}


def whoami(session: Session, query: dict[str, list[str]]) -> None:
    if session.user_id:
        session["visits"]["whoami"] += 1  # an edit inside a value is noticed


def logout(session: Session, query: dict[str, list[str]]) -> None:
    session.logout()


async def routes(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    route = {"POST /login": login, "GET /whoami": whoami, "POST /logout": logout}
    session: Session = scope["session"]
    route.get(f"{scope['method']} {scope['path']}", whoami)(session, parse_qs(scope["query_string"].decode()))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps({"user": session.user_id, **session}).encode()})


app = SessionMiddleware(routes, Settings.from_env())
