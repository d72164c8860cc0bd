"""The least of HTTP that a browser needs: one request, one connection, and what became of it."""

import asyncio
import json
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

from tests.webservers import COOKIE


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, or why there was none.

    Attributes:
        status: 0 if there was none.
        error: `refused`: nobody took the request; `cut` and `timeout`: somebody may have.
        cookie: the session cookie that was set; "" removes it; None: neither.
        body: as JSON, where it was an object.
    """

    status: int = 0
    error: str = ""
    cookie: str | None = None
    body: dict[str, Any] = field(default_factory=dict)


async def get(port: int, path: str, *, cookie: str = "", timeout: float = 6.0) -> Reply:
    """Ask a local server."""
    try:
        async with asyncio.timeout(timeout):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return Reply(error="refused")
            try:
                return await _exchange(reader, writer, path, cookie)
            finally:
                writer.close()
    except TimeoutError:
        return Reply(error="timeout")
    except (OSError, asyncio.IncompleteReadError):
        return Reply(error="cut")


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, cookie: str) -> Reply:
    sent = f"Cookie: {COOKIE}={cookie}\r\n" if cookie else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{sent}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:])]
    length = next((int(value) for name, value in headers if name == "content-length"), 0)
    raw = await reader.readexactly(length)
    status = int(head[0].split(" ", 2)[1])
    cookies = [value for name, value in headers if name == "set-cookie"]
    is_json = status == 200 and raw.startswith(b"{")
    return Reply(status=status, cookie=_session_cookie(cookies), body=json.loads(raw) if is_json else {})


def _session_cookie(headers: list[str]) -> str | None:
    """The last Set-Cookie of ours wins, and one that is over removes the cookie, as in a browser."""
    found = None
    for header in headers:
        morsel = SimpleCookie(header).get(COOKIE)
        if morsel is not None:
            found = "" if morsel["max-age"] == "0" else morsel.value
    return found
