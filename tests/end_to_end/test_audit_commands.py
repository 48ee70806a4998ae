"""`galen audit` and a vote's way into training data, against a real stack."""

import csv
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.stack import RunningStack, running_stack

pytestmark = pytest.mark.e2e

KEY = "the key of an administrator"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audited")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[RunningStack]:
    with running_stack(folder, model=FAKE_MODEL, gateway={"ADMIN_KEY": KEY}) as running:
        yield running


def galen(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={"PATH": "", **environment},
    )


def audit(stack: RunningStack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return galen("audit", *arguments, "--url", stack.base_url, GALEN_ADMIN_KEY=KEY)


def ask(stack: RunningStack) -> str:
    with stack.client() as client:
        messages: Any = [{"role": "user", "content": "[[n=3]]"}]
        return client.chat.completions.create(model=FAKE_MODEL, messages=messages).id


def test_records_are_listed_and_exported_in_both_forms(stack: RunningStack, tmp_path: Path) -> None:
    request_id = ask(stack)

    listed = audit(stack, "list", "--model", FAKE_MODEL)
    lines = audit(stack, "export", "--request-id", request_id)
    table = audit(stack, "export", "--format", "csv", "--out", str(tmp_path / "a.csv"))

    assert (listed.returncode, request_id in listed.stdout) == (0, True), listed.stderr
    (record,) = [json.loads(line) for line in lines.stdout.splitlines()]
    assert (record["request_id"], record["finish_reason"]) == (request_id, "stop")
    assert table.returncode == 0, table.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [row["hash"] for row in rows if row["request_id"] == request_id] == [record["hash"]]
    assert not list(tmp_path.glob("*.partial"))


def test_an_audit_that_cannot_be_read_is_one_line(stack: RunningStack) -> None:
    done = galen("audit", "list", "--url", stack.base_url, GALEN_ADMIN_KEY="a wrong key of ours")
    bad = audit(stack, "list", "--since", "yesterday")

    assert (done.returncode, bad.returncode) == (1, 1)
    assert "admin_forbidden" in done.stderr
    assert "since must be a date" in bad.stderr


def test_a_vote_becomes_a_training_record(
    stack: RunningStack, folder: Path, tmp_path: Path
) -> None:
    body = {
        "request_id": ask(stack),
        "rating": "down",
        "consent": True,
        "conversation": [
            {"role": "user", "content": "Which organ?"},
            {"role": "assistant", "content": "The heart."},
        ],
        "corrected_answer": "The liver.",
        "subject": "study-7",
        "licence": "CC0-1.0",
    }
    assert httpx.post(f"{stack.base_url}/v1/feedback", json=body).status_code == 200
    out, store = tmp_path / "out", {"GALEN_STORE_DIR": str(folder / "store")}

    done = galen(
        "feedback", "export", "--out", str(out), "--validation", "0", "--test", "0", **store
    )

    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert record["conversations"][1]["value"] == "The liver."
    assert record["source"]["request_id"] == body["request_id"]


def test_a_record_that_somebody_changed_breaks_its_chain(stack: RunningStack, folder: Path) -> None:
    for _ in range(3):
        ask(stack)
    whole = audit(stack, "verify")
    with sqlite3.connect(folder / "store" / "galen.db") as database:
        database.execute("UPDATE audit SET tenant_id = 'somebody' WHERE number = 2")
    database.close()

    broken = audit(stack, "verify")

    assert (whole.returncode, broken.returncode) == (0, 3), whole.stderr + broken.stderr
    assert "all hold" in whole.stdout
    assert "record 2 was changed" in broken.stdout
