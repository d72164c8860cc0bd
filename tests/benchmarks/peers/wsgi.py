"""WSGI without a framework, and the floor: one `HGETALL` through redis-py."""

from collections.abc import Callable
from typing import Any

from tests.benchmarks.peers.shape import Peer, Stores, bare_session, ours
from tests.benchmarks.work import ACTIONS, SMALL, WRITES

FLOOR_KEY = "floor"


def app_over(session_of: Callable[[Any], Any], *, save: Callable[[Any], object] | None = None) -> Any:
    """An app that works on the session which `session_of` finds in the environ, and saves it where it has to."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        name = environ["PATH_INFO"][1:]
        action = ACTIONS.get(name)
        if action is None:
            start_response("404 Not Found", [("Content-Length", "0")])
            return []
        session = session_of(environ)
        body = action(session).encode()
        if save is not None and name in WRITES:
            save(session)
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]

    return app


def bare(stores: Stores) -> Any:
    session = bare_session()
    return app_over(lambda environ: session)


def floor(stores: Stores) -> Any:
    import redis

    client: Any = redis.Redis.from_url(stores.redis_url)
    client.hset(FLOOR_KEY, mapping=SMALL)

    class Hash:
        """Enough of a session to be read."""

        def __getitem__(self, name: str) -> str:
            text: bytes = client.hgetall(FLOOR_KEY)[name.encode()]
            return text.decode()

        def update(self, values: Any) -> None:
            """It is there already."""

    session = Hash()
    return app_over(lambda environ: session)


PEERS = (
    Peer("WSGI", "bare", "wsgi", bare),
    Peer("WSGI", "redis-py HGETALL", "wsgi", floor, only=frozenset({"read"})),
    *ours("WSGI", "wsgi", lambda: app_over(lambda environ: environ["vedsess.session"])),
)
