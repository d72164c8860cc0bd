"""Litestar and its server-side sessions."""

from collections.abc import Callable
from typing import Any

from tests.benchmarks.peers.shape import CONNECTIONS, Peer, Stores, bare_session, ours
from tests.benchmarks.work import ACTIONS, Action


def app_over(session_of: Callable[[Any], Any], **options: Any) -> Any:
    """An app with a handler for each action."""
    from litestar import Litestar

    handlers = [_handler(name, action, session_of) for name, action in ACTIONS.items()]
    return Litestar(route_handlers=handlers, openapi_config=None, **options)


def _handler(name: str, action: Action, session_of: Callable[[Any], Any]) -> Any:
    from litestar import MediaType, Request, get

    async def handler(request: Request[Any, Any, Any]) -> str:
        return action(session_of(request))

    return get(f"/{name}", name=name, media_type=MediaType.TEXT)(handler)


def bare(stores: Stores) -> Any:
    session = bare_session()
    return app_over(lambda request: session)


def redis(stores: Stores) -> Any:
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.redis import RedisStore
    from redis.asyncio import Redis

    middleware = ServerSideSessionConfig().middleware
    client: Any = Redis.from_url(stores.redis_url, max_connections=CONNECTIONS)
    sessions = RedisStore(client, handle_client_shutdown=True)
    return app_over(lambda request: request.session, middleware=[middleware], stores={"sessions": sessions})


def _with_vedsess() -> Any:
    return app_over(lambda request: request.session)


PEERS = (
    Peer("Litestar", "bare", "asgi", bare),
    Peer("Litestar", "Litestar redis", "asgi", redis),
    *ours("Litestar", "asgi", _with_vedsess),
)
