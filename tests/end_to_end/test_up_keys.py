"""`galen up` and `galen keys`: open on loopback and said so, a key where one is needed."""

import signal
import sqlite3
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.launched import LaunchedUp, galen
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

FAKE = ("--engine", "fake", "--port", "0")
END_LIMIT_S = 15.0  # after Ctrl-C; 5 s on a quiet machine (docs/operations.md)


@pytest.fixture
def temporary(short_folder: Path) -> Path:
    return short_folder


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path / "data")


def bash(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False
    )


def keys(data: str, *words: str) -> subprocess.CompletedProcess[str]:
    return galen("keys", *words, "--data-dir", data)


def created(data: str, *words: str) -> str:
    done = keys(data, "create", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def status(url: str, key: str | None = None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.get(f"{url}/models", headers=headers).status_code


def test_a_fresh_start_is_open_on_loopback_and_says_so(temporary: Path, data: str) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask", "--data-dir", data) as up:
        url = up.url()

        assert any(line.startswith("OPEN to every program on this machine") for line in up.lines)
        assert status(url) == 200
        proxied = httpx.get(f"{url}/models", headers={"x-forwarded-for": "203.0.113.7"})
        assert proxied.json()["error"]["code"] == "local_only"
        key = created(data, "first")  # while it runs
        wait_until(lambda: status(url) == 401, "the news of the first key", 5)
        assert status(url, key) == 200


def test_printed_commands_have_a_key_where_one_is_needed(temporary: Path, data: str) -> None:
    with LaunchedUp(temporary, *FAKE, "--data-dir", data, GALEN_GATEWAY_AUTH="required") as up:
        url = up.url()
        asked = next(line for line in up.lines if " ask --temperature 0 --image " in line)
        curl = next(line for line in up.lines if line.startswith("curl "))
        printed = next(line for line in up.lines if line.startswith("Key of this run"))
        key = printed.rpartition(" ")[2]

        assert "zq0000 zq0001 " in "\n".join(up.lines)  # the first question was answered
        assert bash(asked).stdout.startswith("zq0000 zq0001 ")
        assert bash(curl).stdout.endswith("data: [DONE]\n\n")
        assert (status(url), status(url, key)) == (401, 200)
        assert galen("models", "list", variables={"TMPDIR": str(temporary)}).returncode == 0
        assert up.end(signal.SIGINT, END_LIMIT_S) == 0
    listed = keys(data, "list").stdout
    assert "revoked" in listed  # it is gone with its run
    with sqlite3.connect(Path(data) / "galen.db") as database:
        query = "SELECT route, object FROM audit WHERE chain = 'galen-keys' ORDER BY number"
        recorded = database.execute(query).fetchall()
    database.close()
    key_id = key.rpartition("_")[0]
    assert recorded == [("galen up create", key_id), ("galen up revoke", key_id)]
    assert key.rpartition("_")[2] not in listed


def test_an_address_that_others_reach_needs_a_key_first(temporary: Path, data: str) -> None:
    words = (*FAKE, "--no-ask", "--host", "0.0.0.0", "--data-dir", data)
    with LaunchedUp(temporary, *words) as up:
        assert up.end() == 1
        assert up.lines[-1].startswith("galen: 0.0.0.0 can be reached by others, and there is no")
        assert "galen keys create" in up.lines[-1]
    key = created(data, "first")
    with LaunchedUp(temporary, *words) as up:
        url = up.url()
        assert (status(url), status(url, key)) == (401, 200)


def test_a_gateway_alone_refuses_the_same(data: str) -> None:
    variables = {"GALEN_STORE_DIR": data, "GALEN_GATEWAY_HOST": "0.0.0.0"}
    done = galen("gateway", "--port", "0", variables=variables)

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "there is no key yet" in line
    assert "GALEN_GATEWAY_AUTH=off" in line


def test_everybody_is_let_in_only_where_that_was_said(temporary: Path, data: str) -> None:
    words = (*FAKE, "--no-ask", "--host", "0.0.0.0", "--data-dir", data)
    with LaunchedUp(temporary, *words, GALEN_GATEWAY_AUTH="off") as up:
        url = up.url()

        assert any(line.startswith("OPEN TO EVERYBODY who can reach 0.0.0.0") for line in up.lines)
        assert any("gateway.open.to_all_who_reach_it" in line for line in up.lines)
        assert status(url) == 200
        answer = httpx.get(f"{url}/files", headers={"host": "galen.example.org"})
        assert answer.json()["error"]["code"] == "local_only"


# ----------------------------------------------------------------------------- galen keys


def test_keys_are_made_shown_rotated_and_revoked(data: str) -> None:
    done = keys(
        data, "create", "ward 3", "--tenant", "w3", "--scope", "chat", "--scope", "usage",
        "--requests-per-minute", "60", "--tokens-per-month", "1000", "--burned-in", "mask",
        "--expires", "30d",
    )  # fmt: skip
    key_id, _, secret = done.stdout.strip().rpartition("_")
    shown = keys(data, "show", key_id).stdout
    rotated = keys(data, "rotate", key_id, "--overlap", "1h").stdout.strip()
    revoked = keys(data, "revoke", rotated.rpartition("_")[0])
    listed = keys(data, "list", "--tenant", "w3").stdout

    assert len(secret) == 64
    assert "not shown again" in done.stderr
    assert secret not in done.stderr + shown + listed
    assert '"burned_in": "mask"' in shown
    assert '"requests_per_minute": 60' in shown
    assert revoked.returncode == 0
    assert listed.count("ward 3") == 2
    assert "60 requests per minute, 1000 tokens per month" in listed
    assert "revoked" in listed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "x", "--scope", "root"), "'root' is no scope"),
        (("create", "x", "--tenant", "a b"), "tenant"),
        (("create", "x", "--expires", "soon"), "--expires 'soon'"),
        (("create", "x", "--expires", "99999d"), "expires_in_s"),
        (("create", ""), "name"),
        (("show", "galen_none"), "there is no key 'galen_none'"),
        (("revoke", "galen_none"), "there is no key 'galen_none'"),
        (("rotate", "galen_none"), "there is no key 'galen_none'"),
        (("rotate", "galen_none", "--overlap", "90d"), "--overlap may be 30d at most"),
    ],
)
def test_a_mistake_is_one_line(data: str, words: tuple[str, ...], said: str) -> None:
    done = keys(data, *words)

    assert done.returncode in {1, 2}
    [line] = done.stderr.splitlines()
    assert said in line


def test_an_unreadable_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "galen.db").mkdir()
    done = keys(str(tmp_path), "list")

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
