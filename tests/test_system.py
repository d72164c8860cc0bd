"""What needs packages of the operating system: Debian's Redis, and the TLS that only it speaks."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import RedisServer, free_port, redis_binary
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import StoreMisconfigured, StoreUnavailable
from vedsess_middleware.stores.redis import RedisStore

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `key.pem` and a certificate `cert.pem` for the name localhost, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_url(certificate: Path, tmp_path: Path) -> Iterator[str]:
    """The URL, without options, of a Redis that speaks TLS on a second port."""
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    files = [f"--tls-cert-file {certificate / 'cert.pem'}", f"--tls-key-file {certificate / 'key.pem'}"]
    words = [word for pair in files for word in pair.split(" ", 1)]
    with RedisServer(redis_binary("redis-system"), directory=tmp_path, extra_args=[*options, *words]):
        yield f"rediss://localhost:{port}/0"


def _probe(url: str) -> None:
    store = RedisStore.from_url(url, is_async=False, timeout=2.0)
    try:
        run_blocking(store.stats(at=0.0))
    finally:
        run_blocking(store.close())


def test_a_certificate_of_a_known_authority_is_accepted(tls_url: str, certificate: Path) -> None:
    _probe(f"{tls_url}?ssl_ca_certs={certificate / 'cert.pem'}")


def test_an_unknown_certificate_is_refused_and_said_to_be(tls_url: str) -> None:
    with pytest.raises(StoreMisconfigured, match="certificate"):
        _probe(tls_url)


def test_a_certificate_for_another_name_is_refused(tls_url: str, certificate: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="certificate"):
        _probe(f"{tls_url.replace('localhost', '127.0.0.1')}?ssl_ca_certs={certificate / 'cert.pem'}")


def test_a_client_without_tls_on_a_port_with_tls_finds_no_redis(tls_url: str) -> None:
    with pytest.raises(StoreUnavailable):
        _probe(tls_url.replace("rediss://", "redis://"))


def test_debians_redis_counts_no_session_when_it_is_empty(system_redis: RedisServer) -> None:
    store = RedisStore.from_url(system_redis.url, is_async=False)
    assert run_blocking(store.stats(at=0.0)).active == 0
    run_blocking(store.close())
