"""One browser, with one cookie jar for both apps."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from types import TracebackType
from typing import Any, Self

import httpx

__all__ = ["Browser", "Seen"]

_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer of an app.

    Attributes:
        app: which.
        status: of HTTP.
        store: that served the session; empty: none had to.
        seconds: until the answer was there.
        facts: what the app says of the session.
    """

    app: str
    status: int
    store: str
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)


class Browser:
    """Looks at the apps and sends their forms, as a context manager.  Every method raises `httpx.HTTPError`.

    Args:
        urls: of the apps, by name.
    """

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls
        self._client = httpx.Client(timeout=_PATIENCE, trust_env=False, headers={"Accept": "application/json"})
        self._token = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._client.close()

    @property
    def cookie(self) -> str:
        """The Cookie header as it is now: a secret."""
        return "; ".join(f"{name}={value}" for name, value in self._client.cookies.items())

    def look(self, app: str, *, cookie: str | None = None) -> Seen:
        """Read the page; with `cookie` as somebody who has kept only that."""
        url = f"{self._urls[app]}/"
        if cookie is None:
            response = self._client.get(url)
            facts = _facts(response)
            self._token = facts.get("token", self._token)
        else:
            headers = {"Accept": "application/json", "Cookie": cookie}
            response = httpx.get(url, headers=headers, timeout=_PATIENCE, trust_env=False)
            facts = _facts(response)
        return Seen(app, response.status_code, facts.get("store", ""), response.elapsed.total_seconds(), facts)

    def send(self, app: str, path: str, **form: str) -> Seen:
        """Send a form."""
        response = self._client.post(f"{self._urls[app]}/{path}", data={**form, "token": self._token})
        store = response.headers.get("X-Session-Store", "")
        return Seen(app, response.status_code, store, response.elapsed.total_seconds())

    def send_at_once(self, path: str, forms: Mapping[str, Mapping[str, str]]) -> list[Seen]:
        """Send a form to each of several apps in the same moment."""
        start = Barrier(len(forms), timeout=_PATIENCE)

        def send(app: str) -> Seen:
            start.wait()
            return self.send(app, path, **forms[app])

        with ThreadPoolExecutor(len(forms)) as pool:
            return list(pool.map(send, forms, timeout=math.ceil(2 * _PATIENCE)))


def _facts(response: httpx.Response) -> dict[str, Any]:
    """What the app says; nothing where it failed."""
    return dict(response.json()) if response.status_code == httpx.codes.OK else {}
