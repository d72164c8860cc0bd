"""Debian's MariaDB, for tests that carry the marker ``system``."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pymysql

from tests.servers import Server, ServerMissing, spawn

__all__ = ["MariaServer"]


class MariaServer(Server):
    """A MariaDB with an empty database `test` and a user without a password, in a folder that ``close`` removes."""

    def __init__(self) -> None:
        found = shutil.which("mariadbd", path="/usr/sbin:/usr/bin")
        if found is None:
            raise ServerMissing("this test needs Debian's mariadb-server: apt-get install mariadb-server")
        super().__init__(Path(found))
        self._folder = Path(tempfile.mkdtemp(prefix="maria-"))
        self.url = f"mariadb://root@127.0.0.1:{self.port}/test"

    def empty(self) -> Self:
        """Start the server if need be, and leave its database without tables."""
        self.start()
        with pymysql.connect(host="127.0.0.1", port=self.port, user="root") as connection:
            connection.cursor().execute("DROP DATABASE test")
            connection.cursor().execute("CREATE DATABASE test")
        return self

    def close(self) -> None:
        """Stop the server for good and remove its data."""
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        data = self._folder / "data"
        if not data.exists():
            install = ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal"]
            subprocess.run([*install, f"--datadir={data}", "--user=root"], check=True, capture_output=True)
        options = f"--no-defaults --user=root --bind-address=127.0.0.1 --port={self.port} --datadir={data}".split()
        places = [
            f"--socket={self._folder}/socket",
            f"--pid-file={self._folder}/pid",
            "--innodb-flush-log-at-trx-commit=0",
        ]
        return spawn([self.binary, *options, *places], log=self._log())

    def _answers(self) -> bool:
        try:
            with pymysql.connect(host="127.0.0.1", port=self.port, user="root") as connection:
                connection.cursor().execute("CREATE DATABASE IF NOT EXISTS test")
        except pymysql.Error:
            return False
        return True

    def _log(self) -> Path:
        return self._folder / "server.log"
