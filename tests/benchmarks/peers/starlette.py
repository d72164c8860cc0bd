"""Starlette: its own session in the cookie, and starsessions."""

from collections.abc import Awaitable, Callable
from typing import Any

from tests.benchmarks.peers.shape import CONNECTIONS, SECRET_KEY, Peer, Stores, bare_session, ours
from tests.benchmarks.work import ACTIONS, Action

Load = Callable[[Any], Awaitable[object]]


def app_over(session_of: Callable[[Any], Any], *, load: Load | None = None) -> Any:
    """An app with a route for each action; `load` is awaited before those that touch the session."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    return Starlette(
        routes=[
            Route(f"/{name}", _endpoint(action, session_of, load if name != "plain" else None))
            for name, action in ACTIONS.items()
        ]
    )


def _endpoint(action: Action, session_of: Callable[[Any], Any], load: Load | None) -> Any:
    from starlette.responses import PlainTextResponse

    async def endpoint(request: Any) -> Any:
        if load is not None:
            await load(request)
        return PlainTextResponse(action(session_of(request)))

    return endpoint


def bare(stores: Stores) -> Any:
    session = bare_session()
    return app_over(lambda request: session)


def in_cookie(stores: Stores) -> Any:
    from starlette.middleware.sessions import SessionMiddleware

    app = app_over(lambda request: request.session)
    app.add_middleware(SessionMiddleware, secret_key=SECRET_KEY)
    return app


def starsessions(stores: Stores) -> Any:
    from redis.asyncio import Redis
    from starsessions import SessionMiddleware, load_session
    from starsessions.stores.redis import RedisStore

    # A session that nobody has loaded may not even be looked for.
    app = app_over(lambda request: request.scope["session"], load=load_session)
    client: Any = Redis.from_url(stores.redis_url, max_connections=CONNECTIONS)
    app.add_middleware(SessionMiddleware, store=RedisStore(connection=client))
    return app


def _with_vedsess() -> Any:
    return app_over(lambda request: request.session)


PEERS = (
    Peer("Starlette", "bare", "asgi", bare),
    Peer("Starlette", "cookie", "asgi", in_cookie, in_cookie=True),
    Peer("Starlette", "starsessions redis", "asgi", starsessions),
    *ours("Starlette", "asgi", _with_vedsess),
)
