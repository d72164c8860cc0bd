"""The apps of the peers for real web servers, which find in the environment which one to run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import PEERS, Stores

_PEER, _REDIS, _DATABASE, _FOLDER = (f"BENCHMARK_{name}" for name in ("PEER", "REDIS_URL", "DATABASE_URL", "FOLDER"))


def environment(peer: str, stores: Stores) -> Mapping[str, str]:
    """What tells `app` which peer it is, and where its stores are."""
    return {
        _PEER: peer,
        _REDIS: stores.redis_url,
        _DATABASE: stores.database_url,
        _FOLDER: str(stores.folder),
    }


def app() -> Any:
    """The app of the peer that the environment names: WSGI or ASGI, as the peer is."""
    stores = Stores(os.environ[_REDIS], os.environ[_DATABASE], Path(os.environ[_FOLDER]))
    return PEERS[os.environ[_PEER]].make(stores)
