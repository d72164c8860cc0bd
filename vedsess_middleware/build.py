"""From settings to a working manager: the only module that knows every backend."""

import logging
from collections.abc import Mapping
from typing import Any

from vedsess_middleware.errors import ConfigurationError
from vedsess_middleware.events import EventCounts, EventHook, log_event
from vedsess_middleware.manager import SessionManager
from vedsess_middleware.settings import Settings, settings_from
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

__all__ = ["DEFAULT_DATABASE_URL", "build_manager", "build_store", "configured_manager"]

DEFAULT_DATABASE_URL = "sqlite:///vedsess.sqlite3"
"""Where SQL goes when nobody says where: a file of this host, which is no fallback that several hosts share."""

_EXTENSIONS = ("codec", "clock", "new_id", "on_event")
_logger = logging.getLogger("vedsess_middleware")


def build_store(settings: Settings, *, is_async: bool, on_event: EventHook = log_event) -> Store:
    """The stores that the settings ask for, as one.  Connects on first use.

    Args:
        settings: which, and how patient.
        is_async: for an event loop, or blocking.
        on_event: told of what happens to them, with sessions under names as `event_name` makes them.
    """
    on_event = EventCounts.around(on_event, settings.secret_keys)
    if settings.database_url is None:
        _logger.info("no database_url: sessions are kept in %s, which only this host can read", DEFAULT_DATABASE_URL)
    database_url = settings.database_url or DEFAULT_DATABASE_URL
    sql = SQLStore.from_url(
        database_url, is_async=is_async, timeout=settings.sql_timeout, longest_life=settings.longest_timeout
    )
    if not settings.uses_redis or settings.redis_url is None:
        return sql
    redis = RedisStore.from_url(
        settings.redis_url,
        is_async=is_async,
        timeout=settings.redis_timeout,
        probe_timeout=settings.probe_timeout,
        prefix=settings.key_prefix,
        longest_life=settings.longest_timeout,
        on_event=on_event,
    )
    return FailoverStore(
        redis,
        sql,
        mirror=settings.mirror,
        idle_timeout=settings.idle_timeout,
        absolute_timeout=settings.absolute_timeout,
        longest_life=settings.longest_timeout,
        on_event=on_event,
    )


def build_manager(settings: Settings, *, is_async: bool, **extensions: Any) -> SessionManager:
    """A manager over the stores of the settings.

    Args:
        settings: everything that is a value.
        is_async: for an event loop, or blocking.
        extensions: `codec`, `clock`, `new_id` and `on_event` of the manager.
    """
    on_event = EventCounts.around(extensions.pop("on_event", log_event), settings.secret_keys)
    store = build_store(settings, is_async=is_async, on_event=on_event)
    return SessionManager(store, settings, on_event=on_event, **extensions)


def configured_manager(
    config: Settings | SessionManager | None, options: Mapping[str, Any], *, is_async: bool
) -> SessionManager:
    """What a middleware was given, as a manager of the right colour.

    Raises:
        ConfigurationError: both or neither were given, a name is unknown, or the manager is of the other colour.
    """
    if isinstance(config, SessionManager):
        if options:
            raise ConfigurationError("a manager was given: put the other options into it")
        if config.is_async not in (None, is_async):
            wanted = "an asyncio client and engine" if is_async else "a blocking client and engine"
            raise ConfigurationError(f"the manager's stores are of the wrong colour: this middleware needs {wanted}")
        return config
    if not isinstance(config, Settings | None):
        raise ConfigurationError(f"{type(config).__name__} is neither Settings nor a SessionManager: use keywords")
    extensions = {name: options[name] for name in _EXTENSIONS if name in options}
    values = {name: value for name, value in options.items() if name not in _EXTENSIONS}
    if config is not None and values:
        raise ConfigurationError(f"Settings were given: put {', '.join(sorted(values))} into them")
    return build_manager(config or settings_from(values), is_async=is_async, **extensions)
