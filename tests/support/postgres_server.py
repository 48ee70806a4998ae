"""A PostgreSQL of a test session's own: Debian's programs, a new cluster, a socket in a folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.waiting import wait_until

_PROGRAMS = Path("/usr/lib/postgresql")  # of Debian's packages, by version
_ACCOUNT = "postgres"
_NEEDS = ("-c", "fsync=off", "-c", "listen_addresses=", "-c", "max_connections=50")


class PostgresServer:
    """Started by `start`, ended by `end`; both wait."""

    def __init__(self) -> None:
        # Its programs refuse root, and a socket's path is limited.
        self._folder = Path(tempfile.mkdtemp(prefix="galen-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._num_databases = 0

    def start(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self._folder, _ACCOUNT)
        data = self._folder / "data"
        subprocess.run(
            self._command("initdb", "-D", str(data), "-A", "trust", "-U", "galen", "--no-sync"),
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        self._process = subprocess.Popen(
            self._command("postgres", "-D", str(data), "-k", str(self._folder), *_NEEDS),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        wait_until(self._answers, "PostgreSQL", 30)

    def end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """Make an empty database; returns its address."""
        self._num_databases += 1
        name = f"test{self._num_databases}"
        self._run("createdb", "-h", str(self._folder), "-U", "galen", name)
        return f"postgresql+asyncpg://galen@/{name}?host={self._folder}"

    def _answers(self) -> bool:
        asked = self._command("pg_isready", "-h", str(self._folder), "-q")
        return subprocess.run(asked, check=False, cwd="/").returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(self._command(program, *arguments), check=True, cwd="/")

    def _command(self, program: str, *arguments: str) -> Sequence[str]:
        newest = max(_PROGRAMS.iterdir(), key=lambda path: int(path.name))
        command = [str(newest / "bin" / program), *arguments]
        return ["runuser", "-u", _ACCOUNT, "--", *command] if os.geteuid() == 0 else command
