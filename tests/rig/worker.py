"""A worker process of the rig: a small session app on a real web server, with a control room beside it.

`python -m tests.rig.worker PORT` serves what the JSON in the variable `RIG_WORKER` describes, see `Config`.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from starlette.types import ASGIApp, Receive, Scope, Send

from tests.rig.ablations import ABLATIONS
from tests.rig.checks import Limits
from tests.rig.failpoints import Steps, Watched
from tests.rig.naive import NaiveStore
from tests.webservers import SECRET_KEY
from vedsess_middleware import Session, Settings, asgi, build, wsgi
from vedsess_middleware.events import Event, log_event
from vedsess_middleware.manager import SessionManager

VARIABLE = "RIG_WORKER"

Query = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a worker is to be.

    Attributes:
        kind: `wsgi` (waitress, 8 threads), `asgi` (uvicorn), `forked` (gunicorn forks a warm app), `gevent`
            (gunicorn with greenlets), or `looped` (two event loops share one app).
        redis_url: through the worker's own link.
        database_url: the same.
        mirror: when SQL gets its copy.
        redis_timeout: seconds.
        sql_timeout: seconds.
        store_class: `failover`, or `naive` (blocking kinds only).
        ablate: the rule of the protocol that is taken out, see `ablations`; empty: none.
    """

    kind: str
    redis_url: str
    database_url: str
    mirror: str = "after-response"
    redis_timeout: float = 0.2
    sql_timeout: float = 1.0
    store_class: str = "failover"
    ablate: str = ""

    @classmethod
    def of_environment(cls) -> "Config":
        return cls(**json.loads(os.environ[VARIABLE]))

    def to_environment(self) -> dict[str, str]:
        """The variables that bring it to the process."""
        return {VARIABLE: json.dumps(asdict(self))}


# -- the app -----------------------------------------------------------------------------------------------------------


def _seen(session: Session) -> dict[str, Any]:
    values = {"user": session.user_id, "values": dict(session), "store": session.store, "stale": session.stale}
    return {**values, "new": session.is_new}


def _read(session: Session, query: Query) -> dict[str, Any]:
    return _seen(session)


def _write(session: Session, query: Query) -> dict[str, Any]:
    """Writes after reading, and nothing into a session that nobody is logged in to."""
    seen = _seen(session)
    if session.user_id is not None:
        session[query["field"]] = query["value"]
    return seen


def _blind(session: Session, query: Query) -> dict[str, Any]:
    session[query["field"]] = query["value"]
    return {}


def _delete(session: Session, query: Query) -> dict[str, Any]:
    seen = _seen(session)
    session.pop(query["field"], None)
    return seen


def _login(session: Session, query: Query) -> dict[str, Any]:
    seen = _seen(session)
    session.login(query["user"])
    return seen


def _logout(session: Session, query: Query) -> dict[str, Any]:
    session.logout()
    return {}


def _regenerate(session: Session, query: Query) -> dict[str, Any]:
    seen = _seen(session)
    session.regenerate_id()
    return seen


ROUTES: dict[str, Callable[[Session, Query], dict[str, Any]]] = {
    "/read": _read,
    "/write": _write,
    "/blind": _blind,
    "/delete": _delete,
    "/login": _login,
    "/logout": _logout,
    "/regenerate": _regenerate,
    "/plain": lambda session, query: {},
}
"""What each says is what the session held before its own change."""


def _wsgi_app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    body = json.dumps(ROUTES[environ["PATH_INFO"]](environ["vedsess.session"], query)).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def _asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (event := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": f"{event}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    query = dict(parse_qsl(scope["query_string"].decode()))
    await _send_json(send, ROUTES[scope["path"]](scope["session"], query))


async def _send_json(send: Send, answer: object) -> None:
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# -- the control room --------------------------------------------------------------------------------------------------


class ControlRoom:
    """What the rig sees and does inside a worker, beside the session middleware."""

    def __init__(self, config: Config) -> None:
        self.steps, self.events, self.skew = Steps(), Counter[str](), 0.0
        if config.ablate:
            ABLATIONS[config.ablate]()
        is_async = config.kind in ("asgi", "looped")
        self.manager = self._manager(config, is_async=is_async)

    def answer(self, path: str, query: Query) -> dict[str, Any]:
        """Carry out an order, and say how the worker does."""
        if "arm" in query:
            self.steps.arm(query["arm"], query["action"])
        if "skew" in query:
            self.skew = float(query["skew"])
        facts = {"pid": os.getpid(), "serving": getattr(self.manager.store, "serving", ""), "skew": self.skew}
        return {**facts, "events": dict(self.events), "steps": dict(self.steps.passed)}

    def wsgi(self) -> WSGIApplication:
        sessions = wsgi.SessionMiddleware(_wsgi_app, self.manager)

        def front(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path in ROUTES:
                return sessions(environ, start_response)
            body = json.dumps(self.answer(path, dict(parse_qsl(environ["QUERY_STRING"])))).encode()
            start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
            return [body]

        return front

    def asgi(self) -> ASGIApp:
        sessions = asgi.SessionMiddleware(_asgi_app, self.manager)

        async def front(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in ROUTES:
                await sessions(scope, receive, send)
            else:
                await _send_json(send, self.answer(scope["path"], dict(parse_qsl(scope["query_string"].decode()))))

        return front

    def _on_event(self, event: Event) -> None:
        self.events[type(event).__name__] += 1
        log_event(event)

    def _manager(self, config: Config, *, is_async: bool) -> SessionManager:
        settings = Settings(
            secret_key=SECRET_KEY,
            redis_url=config.redis_url,
            database_url=config.database_url,
            mirror=config.mirror,  # type: ignore[arg-type]
            rotation_grace=Limits().grace,
            redis_timeout=config.redis_timeout,
            sql_timeout=config.sql_timeout,
            probe_timeout=0.1,  # the links share a process with all browsers
        )
        extensions: dict[str, Any] = {"clock": lambda: time.time() + self.skew, "on_event": self._on_event}
        if config.store_class == "naive":
            naive: Any = NaiveStore(config.redis_url, config.database_url, timeout=config.redis_timeout)
            return SessionManager(naive, settings, **extensions)
        self._watch("RedisStore", "primary")
        self._watch("SQLStore", "secondary")
        return build.build_manager(settings, is_async=is_async, **extensions)

    def _watch(self, name: str, role: str) -> None:
        """Have the package build this store with a watch on it: whoever gets it holds the watched one."""
        real = getattr(build, name)

        class Watching:
            @staticmethod
            def from_url(*args: Any, **options: Any) -> Watched:
                return Watched(real.from_url(*args, **options), role, self.steps)

        setattr(build, name, Watching)


# -- serving -----------------------------------------------------------------------------------------------------------


def forked() -> WSGIApplication:
    """The WSGI app for a server that forks, after it has answered: its connections are open already."""
    from werkzeug.test import Client

    room = ControlRoom(Config.of_environment())
    assert Client(room.wsgi()).get("/login?user=warm").status_code == 200
    return room.wsgi()


def _serve_waitress(room: ControlRoom, port: int) -> None:
    import waitress

    waitress.serve(room.wsgi(), host="127.0.0.1", port=port, threads=8, clear_untrusted_proxy_headers=True)


def _serve_uvicorn(room: ControlRoom, port: int, *, loops: int = 1) -> None:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    config = uvicorn.Config(room.asgi(), log_level="warning", access_log=False)
    for _ in range(loops - 1):
        threading.Thread(target=uvicorn.Server(config).run, args=([listener],), daemon=True).start()
    uvicorn.Server(config).run([listener])


def main(port: int) -> None:
    """Serve until a signal comes."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = Config.of_environment()
    room = ControlRoom(config)
    if config.kind == "wsgi":
        _serve_waitress(room, port)
    else:
        _serve_uvicorn(room, port, loops=2 if config.kind == "looped" else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
