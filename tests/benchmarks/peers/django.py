"""Django and its sessions."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.peers.shape import SECRET_KEY, Peer, Stores, bare_session, ours
from tests.benchmarks.work import ACTIONS, Action

SESSIONS = "django.contrib.sessions"


def app_over(session_of: Callable[[Any], Any], **settings: Any) -> Any:
    """An app with a view for each action; the settings are those of the process."""
    from django.conf import settings as configuration
    from django.core.wsgi import get_wsgi_application
    from django.urls import path

    routes = tuple(path(name, _view(action, session_of)) for name, action in ACTIONS.items())
    configuration.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=routes, SECRET_KEY=SECRET_KEY, **settings)
    return get_wsgi_application()


def _view(action: Action, session_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    from django.http import HttpResponse

    return lambda request: HttpResponse(action(session_of(request)), content_type="text/plain; charset=utf-8")


def bare(stores: Stores) -> Any:
    session = bare_session()
    return app_over(lambda request: session)


def in_cookie(stores: Stores) -> Any:
    return _with_sessions("signed_cookies")


def cache(stores: Stores) -> Any:
    return _with_sessions("cache", **_cache(stores))


def cached_db(stores: Stores) -> Any:
    from django.core.management import call_command

    url = urlsplit(stores.database_url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": url.hostname,
        "PORT": url.port,
        "USER": url.username,
        "NAME": url.path[1:],
        "CONN_MAX_AGE": None,
    }
    app = _with_sessions("cached_db", DATABASES={"default": database}, INSTALLED_APPS=[SESSIONS], **_cache(stores))
    call_command("migrate", verbosity=0)
    return app


def _with_sessions(engine: str, **settings: Any) -> Any:
    return app_over(
        lambda request: request.session,
        MIDDLEWARE=[f"{SESSIONS}.middleware.SessionMiddleware"],
        SESSION_ENGINE=f"{SESSIONS}.backends.{engine}",
        **settings,
    )


def _cache(stores: Stores) -> dict[str, Any]:
    backend = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": stores.redis_url}
    return {"CACHES": {"default": backend}}


def _with_vedsess() -> Any:
    return app_over(lambda request: request.environ["vedsess.session"])


PEERS = (
    Peer("Django", "bare", "wsgi", bare),
    Peer("Django", "cookie", "wsgi", in_cookie, in_cookie=True),
    Peer("Django", "cache redis", "wsgi", cache),
    Peer("Django", "cached_db redis", "wsgi", cached_db, uses_sql=True),
    *ours("Django", "wsgi", _with_vedsess),
)
