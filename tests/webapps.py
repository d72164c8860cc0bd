"""The apps that the real web servers of the tests run, configured by the environment as anywhere else."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import FileWrapper

from starlette.types import ASGIApp, Receive, Scope, Send
from werkzeug.test import Client

from vedsess_middleware import Session, Settings
from vedsess_middleware.asgi import SessionMiddleware as ASGIMiddleware
from vedsess_middleware.wsgi import SessionMiddleware as WSGIMiddleware

DOWNLOAD = Path(__file__)

Query = dict[str, str]


def login(session: Session, query: Query) -> None:
    session.login(query["user"])
    session["cart"] = {"items": []}


def add(session: Session, query: Query) -> None:
    session["cart"]["items"].append(query["item"])


def write(session: Session, query: Query) -> None:
    session.update(query)


def read(session: Session, query: Query) -> None:
    """Nothing beyond what every answer of these does."""


def logout(session: Session, query: Query) -> None:
    session.logout()


def fail(session: Session, query: Query) -> None:
    session.update(query)
    raise RuntimeError("this app fails")


ROUTES: dict[str, Callable[[Session, Query], None]] = {
    "/login": login,
    "/add": add,
    "/write": write,
    "/read": read,
    "/logout": logout,
    "/fail": fail,
}


def answer(path: str, session: Session, query: Query) -> bytes:
    """What the route did to the session, as JSON; other paths do not touch it."""
    if path not in ROUTES:
        return json.dumps({"pid": os.getpid()}).encode()
    ROUTES[path](session, query)
    return json.dumps({"user": session.user_id, "store": session.store, "values": session, "pid": os.getpid()}).encode()


def wsgi() -> WSGIMiddleware:
    """The WSGI app."""
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
    return WSGIMiddleware(_wsgi, Settings.from_env())


def warm_wsgi() -> WSGIMiddleware:
    """The WSGI app, after it has answered: a server that forks now hands its open connections on."""
    app = wsgi()
    assert Client(app).post("/login?user=nobody").status_code == 200
    return app


def wsgi_on_asgi() -> Any:
    """The WSGI app for an ASGI server."""
    import a2wsgi

    return a2wsgi.WSGIMiddleware(wsgi())  # type: ignore[arg-type]


def asgi() -> ASGIApp:
    """The ASGI app."""
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
    return ASGIMiddleware(_asgi, Settings.from_env())


def _wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    session: Session = environ["vedsess.session"]
    path, query = environ["PATH_INFO"], dict(parse_qsl(environ["QUERY_STRING"]))
    if path == "/download":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(DOWNLOAD.stat().st_size))])
        return environ.get("wsgi.file_wrapper", FileWrapper)(DOWNLOAD.open("rb"), 1000)  # type: ignore[no-any-return]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return _stream(session, query)
    if path == "/push":
        session.update(query)
        push = start_response("200 OK", [("Content-Type", "text/plain")])
        push(b"pushed, ")
        return [b"returned"]
    body = answer(path, session, query)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


def _stream(session: Session, query: Query) -> Iterator[bytes]:
    session["early"] = query["value"]
    yield b"early, "
    session["late"] = query["value"]
    yield b"late"


async def _asgi(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _websocket(scope, receive, send)
    else:
        await _http(scope, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while (event := (await receive())["type"]) != "lifespan.shutdown":
        await send({"type": f"{event}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def _http(scope: Scope, send: Send) -> None:
    session, path, query = scope["session"], scope["path"], dict(parse_qsl(scope["query_string"].decode()))
    if path == "/stream":
        session["early"] = query["value"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"early, ", "more_body": True})
        session["late"] = query["value"]
        await send({"type": "http.response.body", "body": b"late"})
        return
    body = answer(path, session, query)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Writes what each message says and saves it; the message `leave` ends the connection from here."""
    session: Session = scope["session"]
    await receive()
    if query := dict(parse_qsl(scope["query_string"].decode())):
        login(session, query)
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message["text"]
        if text == "leave":
            session["left"] = "said so"
            await send({"type": "websocket.close"})
            return
        session.update(parse_qsl(text))
        await session.save()
        await send({"type": "websocket.send", "text": answer("/read", session, {}).decode()})


class _PatientServer(WSGIServer):
    request_queue_size = 64


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), wsgi(), server_class=_PatientServer).serve_forever()
