"""ASGI without a framework, and the floor: one `HGETALL` through redis-py."""

from collections.abc import Awaitable, Callable
from typing import Any

from tests.benchmarks.peers.shape import Peer, Stores, bare_session, ours
from tests.benchmarks.peers.wsgi import FLOOR_KEY
from tests.benchmarks.work import ACTIONS, SMALL


async def lifespan(receive: Any, send: Any) -> None:
    """Agree to everything until the server shuts down."""
    while (event := (await receive())["type"]) != "lifespan.shutdown":
        await send({"type": f"{event}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def app_over(session_of: Callable[[Any], Any], *, load: Callable[[], Awaitable[Any]] | None = None) -> Any:
    """An app that works on the session which `session_of` finds in the scope, or on what `load` returns."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        action = ACTIONS.get(scope["path"][1:])
        status, body = 404, b""
        if action is not None:
            session = session_of(scope) if load is None else await load()
            status, body = 200, action(session).encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def bare(stores: Stores) -> Any:
    session = bare_session()
    return app_over(lambda scope: session)


def floor(stores: Stores) -> Any:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    setup: Any = Redis.from_url(stores.redis_url)
    setup.hset(FLOOR_KEY, mapping=SMALL)
    client: Any = AsyncRedis.from_url(stores.redis_url)

    async def load() -> dict[str, Any]:
        found: dict[bytes, bytes] = await client.hgetall(FLOOR_KEY)
        return {"n": found[b"n"].decode()}

    return app_over(lambda scope: None, load=load)


PEERS = (
    Peer("ASGI", "bare", "asgi", bare),
    Peer("ASGI", "redis-py HGETALL", "asgi", floor, only=frozenset({"read"})),
    *ours("ASGI", "asgi", lambda: app_over(lambda scope: scope["session"])),
)
