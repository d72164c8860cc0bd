"""The two apps of the demo, each in a process of its own: wrapped as any app would be."""

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import uvicorn
import waitress
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from werkzeug.wrappers import Request as WSGIRequest
from werkzeug.wrappers import Response as WSGIResponse

from vedsess_middleware import Settings, asgi, wsgi
from vedsess_middleware.console.demo.keeper import Remote
from vedsess_middleware.console.demo.site import Asked, Site
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.failover import FailoverStore

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["asgi_app", "wsgi_app"]

_JSON = "application/json"


def wsgi_app(site: Site) -> "WSGIApplication":
    """The WSGI app with its sessions."""

    @WSGIRequest.application
    def app(request: WSGIRequest) -> WSGIResponse:
        asked = Asked(
            method=request.method,
            path=request.path,
            form=request.form,
            origin=request.headers.get("Origin"),
            wants_json=request.headers.get("Accept") == _JSON,
        )
        answer = site.answer(asked, request.environ["vedsess.session"])
        return WSGIResponse(answer.body, answer.status, answer.headers)

    middleware = wsgi.SessionMiddleware(app, Settings.from_env(), on_event=site.note)
    site.serving = lambda: _serving(middleware.manager.store)
    return middleware


def asgi_app(site: Site) -> asgi.SessionMiddleware:
    """The ASGI app with its sessions."""

    async def app(request: Request) -> Response:
        asked = Asked(
            method=request.method,
            path=request.url.path,
            form=dict(parse_qsl((await request.body()).decode(), keep_blank_values=True)),
            origin=request.headers.get("Origin"),
            wants_json=request.headers.get("Accept") == _JSON,
        )
        session = request.scope["session"]
        answer = await asyncio.to_thread(site.answer, asked, session)  # the keeper may be slow
        return Response(answer.body, answer.status, answer.headers)

    routes = [Route("/{path:path}", app, methods=["GET", "POST"])]
    middleware = asgi.SessionMiddleware(Starlette(routes=routes), Settings.from_env(), on_event=site.note)
    site.serving = lambda: _serving(middleware.manager.store)
    return middleware


def _serving(store: Store) -> str:
    return store.serving if isinstance(store, FailoverStore) else store.name


def _serve(name: str, listener: socket.socket, site: Site) -> None:
    if name == "wsgi":
        waitress.create_server(wsgi_app(site), sockets=[listener], threads=8).run()
        return
    config = uvicorn.Config(asgi_app(site), log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


def _end() -> None:
    """The demo has gone."""
    os.kill(os.getpid(), signal.SIGTERM)


def _main(name: str, listener: str, keeper: str, *urls: str) -> None:
    remote = Remote(socket.socket(fileno=int(keeper)), on_end=_end)
    site = Site(name, dict(zip(("wsgi", "asgi"), urls, strict=True)), remote.ask)
    _serve(name, socket.socket(fileno=int(listener)), site)


if __name__ == "__main__":
    _main(*sys.argv[1:])
