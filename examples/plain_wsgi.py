"""Log in, look, log out: a WSGI app without a framework.  (A real login asks for a password first.)

Set VEDSESS_SECRET_KEY and REDIS_URL, then run

    waitress-serve examples.plain_wsgi:app
"""

import json
from collections.abc import Iterable
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from vedsess_middleware import Session, Settings
from vedsess_middleware.wsgi import SessionMiddleware


def login(session: Session, query: dict[str, list[str]]) -> None:
    session.login(query.get("user", ["ada"])[0])
    session["visits"] = {"whoami": 0}


def whoami(session: Session, query: dict[str, list[str]]) -> None:
    if session.user_id:
        session["visits"]["whoami"] += 1  # an edit inside a value is noticed


def logout(session: Session, query: dict[str, list[str]]) -> None:
    session.logout()


def routes(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    route = {"POST /login": login, "GET /whoami": whoami, "POST /logout": logout}
    session: Session = environ["vedsess.session"]
    route.get(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}", whoami)(session, parse_qs(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"user": session.user_id, **session}).encode()]


app = SessionMiddleware(routes, Settings.from_env())
