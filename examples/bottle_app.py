"""Log in, look, log out on Bottle.  (A real login asks for a password first.)

Set VEDSESS_SECRET_KEY and REDIS_URL, then run

    gunicorn examples.bottle_app:app
"""

from typing import Any

from bottle import Bottle, request

from vedsess_middleware import Session, Settings
from vedsess_middleware.wsgi import SessionMiddleware


def login() -> dict[str, Any]:
    session: Session = request.environ["vedsess.session"]
    session.login(request.query.user)
    session["visits"] = {"whoami": 0}
    return {"user": session.user_id, **session}


def whoami() -> dict[str, Any]:
    session: Session = request.environ["vedsess.session"]
    if session.user_id:
        session["visits"]["whoami"] += 1  # an edit inside a value is noticed
    return {"user": session.user_id, **session}


def logout() -> dict[str, Any]:
    request.environ["vedsess.session"].logout()
    return {"user": None}


routes = Bottle()
routes.route("/login", "POST", login)
routes.route("/whoami", "GET", whoami)
routes.route("/logout", "POST", logout)
app = SessionMiddleware(routes, Settings.from_env())
