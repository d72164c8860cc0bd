"""Server-side sessions for any WSGI or ASGI app: in Redis while it is up, in SQL when it is not.

from vedsess_middleware.wsgi import SessionMiddleware      # environ["vedsess.session"]
from vedsess_middleware.asgi import SessionMiddleware      # scope["session"]

app = SessionMiddleware(app, secret_key=..., redis_url="redis://localhost:6379/0", database_url="sqlite:///sessions.db")
"""

from vedsess_middleware.codec import Codec, JsonCodec
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import (
    CommitRefused,
    ConfigurationError,
    CorruptRecord,
    EpochMissing,
    LogoutRefused,
    SerializationError,
    SessionError,
    SessionExists,
    SessionLimitReached,
    SessionTooLarge,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    WriteConflict,
)
from vedsess_middleware.manager import SessionInfo, SessionManager
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.session import Session
from vedsess_middleware.settings import Settings

__all__ = [
    "Codec",
    "CommitRefused",
    "ConfigurationError",
    "CorruptRecord",
    "EpochMissing",
    "JsonCodec",
    "LogoutRefused",
    "RequestInfo",
    "SerializationError",
    "Session",
    "SessionError",
    "SessionExists",
    "SessionInfo",
    "SessionLimitReached",
    "SessionManager",
    "SessionTooLarge",
    "Settings",
    "StoreError",
    "StoreMisconfigured",
    "StoreUnavailable",
    "WriteConflict",
    "run_blocking",
]
