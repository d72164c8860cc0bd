"""Beaker over Redis, on WSGI without a framework."""

from typing import Any

from tests.benchmarks.peers.shape import SECRET_KEY, Peer, Stores
from tests.benchmarks.peers.wsgi import app_over


def redis(stores: Stores) -> Any:
    from beaker.middleware import SessionMiddleware

    app = app_over(lambda environ: environ["beaker.session"], save=lambda session: session.save())
    options = {"session.type": "ext:redis", "session.url": stores.redis_url, "session.secret": SECRET_KEY}
    return SessionMiddleware(app, options)


PEERS = (Peer("WSGI", "Beaker redis", "wsgi", redis),)
