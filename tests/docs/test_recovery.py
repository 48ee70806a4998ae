"""Backup and restore as docs/recovery.md says them: its own commands, around real platforms."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from openai import OpenAI

from services.store.database import Database, DatabaseError
from services.worker.settings import child_environment
from tests.contracts.source_tree import ROOT
from tests.docs.blocks import blocks_of
from tests.docs.place import programs_in
from tests.end_to_end.launched import LaunchedUp, galen
from tests.support.postgres_server import PostgresServer

LINE = (
    b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",'
    b' "body": {"model": "fake", "messages": [{"role": "user", "content": "Why?"}]}}\n'
)
BACKUP = ROOT / "docs" / "recovery.md"


def commands(test: str, start: str) -> str:
    """Return the block of the page that names a test and begins with this."""
    [block] = [b for b in blocks_of(BACKUP) if test in b.mark and b.text.startswith(start)]
    return block.text


def run(text: str, folder: Path, **variables: str) -> str:
    environment = child_environment(**variables)
    path = f"{programs_in(folder, 'nothing here asks a gateway')}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**environment, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def serving(temporary: Path, data: Path) -> LaunchedUp:
    options = ("--engine", "fake", "--port", "0", "--no-ask", "--jobs", "0")
    return LaunchedUp(temporary, *options, "--data-dir", str(data))


@pytest.mark.e2e
def test_a_platform_comes_back_from_its_backup(tmp_path: Path, short_folder: Path) -> None:
    name = "test_a_platform_comes_back_from_its_backup"
    data = tmp_path / "data"
    key = galen("keys", "create", "clinic", "--data-dir", str(data)).stdout.strip()
    with serving(short_folder, data) as up, OpenAI(base_url=up.url(), api_key=key) as client:
        kept = client.files.create(file=("kept.jsonl", LINE), purpose="batch")
        run(commands(name, "mkdir -p backup"), tmp_path, GALEN_STORE_DIR=str(data))
        late = galen("keys", "create", "late", "--data-dir", str(data)).stdout.strip()
        up.end(signal.SIGTERM)
    shutil.rmtree(data)

    listed = run(commands(name, "mkdir -p restored"), tmp_path)

    assert "clinic" in listed
    assert late.rpartition("_")[0] not in listed
    restored = tmp_path / "restored"
    with serving(short_folder, restored) as up, OpenAI(base_url=up.url(), api_key=key) as client:
        assert client.files.content(kept.id).content == LINE
        answer = client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "Are you there?"}], max_tokens=2
        )
        assert answer.choices[0].message.content
        up.end(signal.SIGTERM)


def test_postgresql_comes_back_from_its_dump(tmp_path: Path, postgres: PostgresServer) -> None:
    name = "test_postgresql_comes_back_from_its_dump"
    before, after = postgres.new_database(), postgres.new_database()
    pepper = "p" * 32

    def keys(url: str, *words: str) -> str:
        variables = {"GALEN_STORE_DATABASE_URL": url, "GALEN_STORE_KEY_PEPPER": pepper}
        done = galen("keys", *words, variables=variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def addresses() -> Mapping[str, str]:
        plain = [url.replace("+asyncpg", "") for url in (before, after)]
        return dict(zip(("GALEN_PG", "GALEN_PG_NEW"), plain, strict=True))

    made = keys(before, "create", "clinic").strip()
    run(commands(name, "pg_dump"), tmp_path, **addresses())
    run(commands(name, "pg_restore"), tmp_path, **addresses())

    assert made.rpartition("_")[0] in keys(after, "list")


def test_an_older_release_refuses_a_newer_database_in_one_line(tmp_path: Path) -> None:
    galen("keys", "create", "clinic", "--data-dir", str(tmp_path))
    with sqlite3.connect(tmp_path / "galen.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")

    done = galen("keys", "list", "--data-dir", str(tmp_path))

    assert done.returncode == 1
    assert "is of a newer galen" in done.stderr
    assert done.stderr.count("\n") == 1
    with pytest.raises(DatabaseError, match="newer galen"):
        asyncio.run(Database(f"sqlite:///{tmp_path / 'galen.db'}").open())
