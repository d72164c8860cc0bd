"""Flask: its own session in the cookie, and Flask-Session."""

from collections.abc import Callable
from typing import Any

from tests.benchmarks.peers.shape import SECRET_KEY, Peer, Stores, bare_session, ours
from tests.benchmarks.work import ACTIONS, Action


def app_over(session_of: Callable[[], Any]) -> Any:
    """An app with a view for each action."""
    from flask import Flask

    app = Flask("benchmark", static_folder=None)
    for name, action in ACTIONS.items():
        app.add_url_rule(f"/{name}", endpoint=name, view_func=_view(action, session_of))
    return app


def _view(action: Action, session_of: Callable[[], Any]) -> Callable[[], str]:
    return lambda: action(session_of())


def bare(stores: Stores) -> Any:
    session = bare_session()
    return app_over(lambda: session)


def in_cookie(stores: Stores) -> Any:
    app = _with_flask_session()
    app.secret_key = SECRET_KEY
    return app


def flask_session_redis(stores: Stores) -> Any:
    from flask_session import Session
    from redis import Redis

    app = _with_flask_session()
    app.config.update(SECRET_KEY=SECRET_KEY, SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(stores.redis_url))
    Session(app)
    return app


def flask_session_sqlalchemy(stores: Stores) -> Any:
    from flask_session import Session
    from flask_sqlalchemy import SQLAlchemy

    app = _with_flask_session()
    url = stores.database_url.replace("postgresql:", "postgresql+psycopg:")
    app.config.update(SECRET_KEY=SECRET_KEY, SESSION_TYPE="sqlalchemy", SQLALCHEMY_DATABASE_URI=url)
    app.config["SESSION_SQLALCHEMY"] = SQLAlchemy(app)
    Session(app)
    return app


def _with_flask_session() -> Any:
    from flask import session

    return app_over(lambda: session)


def _with_vedsess() -> Any:
    from flask import request

    return app_over(lambda: request.environ["vedsess.session"])


PEERS = (
    Peer("Flask", "bare", "wsgi", bare),
    Peer("Flask", "cookie", "wsgi", in_cookie, in_cookie=True),
    Peer("Flask", "Flask-Session redis", "wsgi", flask_session_redis),
    Peer("Flask", "Flask-Session sqlalchemy", "wsgi", flask_session_sqlalchemy, uses_sql=True),
    *ours("Flask", "wsgi", _with_vedsess),
)
