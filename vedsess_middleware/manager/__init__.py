"""The life of a session, from cookie to cookie: the only room that knows both the cookie and the store."""

from vedsess_middleware.manager.manager import SessionManager
from vedsess_middleware.manager.users import SessionInfo

__all__ = ["SessionInfo", "SessionManager"]
