"""Every app that is measured, in one shape: bare frameworks, what people use on them, and the package on each."""

from tests.benchmarks.peers import asgi, beaker, django, flask, litestar, starlette, wsgi
from tests.benchmarks.peers.shape import Peer, Stores

__all__ = ["PEERS", "Peer", "Stores"]

PEERS = {peer.id: peer for family in (wsgi, beaker, flask, django, asgi, starlette, litestar) for peer in family.PEERS}
"""By id, the bare frameworks among them."""
