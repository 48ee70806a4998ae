"""Batches of tenants with keys: run for them, paid by their keys, and no other may claim that."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from services.gateway.access.usage import FLUSH_S
from services.store.key_secrets import JobGrant, KeySecrets
from tests.end_to_end.keys import ADMIN_KEY, MODEL, Keyed, error_of, keyed_stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

ENDPOINT = "/v1/chat/completions"
SCOPES = ["chat", "files", "batches"]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with keyed_stack(tmp_path_factory.mktemp("keyed-jobs")) as keyed:
        keyed.stack.add_jobs()
        yield keyed


def start_batch(keyed: Keyed, key: str, num_lines: int = 3) -> str:
    lines = [
        {
            "custom_id": str(number), "method": "POST", "url": ENDPOINT,
            "body": {"model": MODEL, "messages": [{"role": "user", "content": "[[n=5]] a b"}]},
        }
        for number in range(num_lines)
    ]  # fmt: skip
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    upload = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", content)}}
    file_id = keyed.call("POST", "/v1/files", key, **upload).json()["id"]
    order = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    return keyed.call("POST", "/v1/batches", key, json=order).json()["id"]


def ended(keyed: Keyed, key: str, batch_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def is_over() -> bool:
        found[:] = [keyed.call("GET", f"/v1/batches/{batch_id}", key).json()]
        return found[0]["status"] in {"completed", "failed", "expired", "cancelled"}

    wait_until(is_over, "the end of the batch", 60)
    return found[0]


def test_a_batch_is_answered_for_its_tenant_and_paid_by_its_key(keyed: Keyed) -> None:
    key_id, key = keyed.issue(tenant="batching", scopes=SCOPES, limits={"requests_per_minute": 1})
    batch = ended(keyed, key, start_batch(keyed, key))

    def is_billed() -> bool:
        rows = [row for row in keyed.usage(ADMIN_KEY) if row["key_id"] == key_id]
        return bool(rows) and rows[0]["requests"] == 3

    assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    wait_until(is_billed, "its use", FLUSH_S + 5)
    [row] = [row for row in keyed.usage(ADMIN_KEY) if row["key_id"] == key_id]
    assert (row["tenant"], row["completion_tokens"], row["errors"]) == ("batching", 15, 0)


def test_a_batch_goes_on_when_its_key_is_revoked(keyed: Keyed) -> None:
    key_id, key = keyed.issue(tenant="revoking", scopes=SCOPES)
    _, other = keyed.issue(tenant="revoking", scopes=SCOPES)
    batch_id = start_batch(keyed, key, 20)
    keyed.admin("DELETE", f"/keys/{key_id}")

    assert ended(keyed, other, batch_id)["request_counts"]["completed"] == 20


@pytest.mark.parametrize("pepper", [b"", b"x" * 32])
def test_nobody_else_can_sign_for_a_tenant(keyed: Keyed, pepper: bytes) -> None:
    key_id, _ = keyed.issue(tenant="victim")
    forged = KeySecrets(pepper).job_token(JobGrant("victim", key_id, "batch_1"))

    assert error_of(keyed.ask(forged))[2] == "invalid_api_key"


def test_a_job_workers_token_is_for_chat_alone(keyed: Keyed) -> None:
    secrets = KeySecrets((keyed.stack.store_folder / "key_pepper").read_bytes())
    token = secrets.job_token(JobGrant("batching", "", "batch_1"))

    assert keyed.ask(token).status_code == 200
    assert error_of(keyed.call("GET", "/v1/files", token))[2] == "insufficient_scope"
    assert error_of(keyed.call("GET", "/v1/admin/keys", token))[2] == "admin_forbidden"


def test_no_key_is_in_a_log_in_redis_or_in_the_database(keyed: Keyed) -> None:
    _, key = keyed.issue(tenant="secret", scopes=SCOPES, limits={"tokens_per_month": 10**6})
    wrong = key[:-8] + "deadbeef"
    secret = key.rpartition("_")[2]
    keyed.ask(key)
    keyed.ask(wrong)
    keyed.call("GET", f"/v1/models/{key}", key)
    keyed.call("GET", f"/v1/models?api_key={key}", key)
    keyed.ask(key, model=key)
    keyed.call("POST", ENDPOINT, key, content=f'{{"{key}": '.encode())
    ended(keyed, key, start_batch(keyed, key))
    rows = [row for row in keyed.usage(ADMIN_KEY) if row["tenant"] == "secret"]

    files = keyed.stack.store_folder.parent.glob("*.log")
    logs = "".join(file.read_text(encoding="utf-8") for file in files)
    stored = b"".join(
        file.read_bytes() for file in keyed.stack.store_folder.glob("galen.db*") if file.is_file()
    )
    in_redis = b"".join(
        name + (keyed.stack.redis.dump(name) or b"") for name in keyed.stack.redis.scan_iter("*")
    )
    assert "key_id" in logs
    for where in (logs.encode(), stored, in_redis, json.dumps(rows).encode()):
        for hidden in (secret, wrong.rpartition("_")[2], ADMIN_KEY):
            assert hidden.encode() not in where
    assert ADMIN_KEY not in keyed.stack.metrics_pages()
