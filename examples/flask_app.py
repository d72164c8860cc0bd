"""Log in, look, log out on Flask.  (A real login asks for a password first.)

Set VEDSESS_SECRET_KEY and REDIS_URL, then run

    flask --app examples.flask_app run
"""

from typing import Any

from flask import Flask, request

from vedsess_middleware import Session, Settings
from vedsess_middleware.wsgi import SessionMiddleware

app = Flask(__name__)
app.wsgi_app = SessionMiddleware(app.wsgi_app, Settings.from_env())  # type: ignore[method-assign]


@app.post("/login")
def login() -> dict[str, Any]:
    session: Session = request.environ["vedsess.session"]
    session.login(request.args["user"])
    session["visits"] = {"whoami": 0}
    return {"user": session.user_id, **session}


@app.get("/whoami")
def whoami() -> dict[str, Any]:
    session: Session = request.environ["vedsess.session"]
    if session.user_id:
        session["visits"]["whoami"] += 1  # an edit inside a value is noticed
    return {"user": session.user_id, **session}


@app.post("/logout")
def logout() -> dict[str, Any]:
    request.environ["vedsess.session"].logout()
    return {"user": None}
