"""Who may ask: items 110 to 114 and 117 of the catalogue, scopes, rotation, and every route."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway.access.bad_keys import MOST_PER_MINUTE
from services.gateway.access.key_ring import REFRESH_S
from services.gateway.access.parts import make_access
from services.gateway.access.scopes import ALWAYS_OPEN, scope_of
from services.gateway.caller import SCOPES
from services.gateway.main import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.store.settings import StoreSettings
from tests.end_to_end.keys import ADMIN_KEY, Keyed, error_of, keyed_stack
from tests.end_to_end.launched import galen
from tests.support.waiting import wait_until

MISSING = (401, "authentication_error", "missing_api_key")
INVALID = (401, "authentication_error", "invalid_api_key")
SCOPE = (403, "permission_error", "insufficient_scope")
NO_ADMIN = (403, "permission_error", "admin_forbidden")
UNKNOWN_KEY = f"galen_{'0' * 16}_{'0' * 64}"

pytestmark = pytest.mark.e2e


def all_routes() -> list[tuple[str, str]]:
    settings = GatewaySettings()
    app = create_app(settings, make_access(settings, StoreSettings()), GatewayMetrics())
    listed = [
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    ]
    return [*listed, ("GET", "/openapi.json")]


ROUTES = all_routes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keyed")


@pytest.fixture(scope="module")
def keyed(folder: Path) -> Iterator[Keyed]:
    with keyed_stack(folder) as keyed:
        yield keyed


# ----------------------------------------------------------------------------- every route


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_but_two_asks_for_a_key(keyed: Keyed, method: str, path: str) -> None:
    answer = keyed.call(method, path, None)

    if path in ALWAYS_OPEN:
        assert answer.status_code == 200
    else:
        assert error_of(answer) == MISSING
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", sorted({path for _, path in ROUTES} - ALWAYS_OPEN))
def test_every_route_stands_in_the_table_of_scopes(path: str) -> None:
    assert scope_of(path) in {"", *SCOPES}


def test_what_is_no_route_asks_for_a_key_too(keyed: Keyed) -> None:
    assert error_of(keyed.call("GET", "/v1/nothing", None)) == MISSING
    assert keyed.call("GET", "/v1/nothing", keyed.issue()[1]).status_code == 404


def test_a_good_key_is_answered(keyed: Keyed) -> None:
    _, key = keyed.issue(name="ward 3", tenant="ward-3", scopes=["chat"])

    assert keyed.ask(key).json()["choices"][0]["message"]["content"].startswith("zq0000 ")
    assert keyed.call("GET", "/v1/models", key).status_code == 200
    with keyed.stack.client(api_key=key) as sdk:
        assert sdk.models.list().data


# --------------------------------------------------------------------------------- bad keys


@pytest.mark.parametrize(
    "value",
    [
        f"Basic {UNKNOWN_KEY}",
        "Bearer",
        UNKNOWN_KEY,
        f"Bearer {UNKNOWN_KEY}",
        f"Bearer {'a' * 10_240}",
        "Bearer galen_",
        "Bearer ' OR pg_sleep(8)--",
        "Bearer galenjob_x.y",
        "Bearer \u00e4\u00f6\u00fc",
    ],
    ids=lambda value: value[:24],
)
def test_odd_keys_are_refused_alike_and_soon(keyed: Keyed, value: str) -> None:
    answer = keyed.call("GET", "/v1/models", None, headers={"authorization": value.encode()})

    assert error_of(answer) == INVALID
    assert answer.elapsed.total_seconds() < 1.0  # 50 ms where the machine is not shared


def test_two_keys_are_none(keyed: Keyed) -> None:
    _, key = keyed.issue()
    headers = [("authorization", f"Bearer {key}"), ("authorization", "Bearer x")]
    answer = keyed.http.get("/v1/models", headers=headers)

    assert error_of(answer) == INVALID


def exchanged(keyed: Keyed, headers: str) -> tuple[bytes, str]:
    """Send headers as they are; returns status and code."""
    with socket.create_connection(("127.0.0.1", keyed.stack.port), 10) as client:
        client.sendall(f"GET /v1/models HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    body = answer.partition(b"\r\n\r\n")[2]
    return answer.split(b" ")[1], json.loads(body)["error"]["code"]


def test_a_line_break_in_a_key_ends_at_the_parser(keyed: Keyed) -> None:
    answered = exchanged(keyed, "host: localhost\r\nauthorization: Bearer a\r\nb")

    assert answered == (b"400", "bad_request")


@pytest.mark.parametrize("host", ["a/?x=", "127.0.0.1/healthz?x=", "a/healthz#"])
def test_a_host_that_would_be_a_path_opens_nothing(keyed: Keyed, host: str) -> None:
    answered = exchanged(keyed, f"host: {host}\r\nconnection: close")

    assert answered == (b"400", "bad_request")
    assert error_of(keyed.call("GET", "/v1/models", None)) == MISSING


def test_the_right_id_with_a_wrong_secret_is_no_key(keyed: Keyed) -> None:
    key_id, key = keyed.issue()
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")

    assert error_of(keyed.ask(wrong)) == INVALID
    assert error_of(keyed.ask(key_id)) == INVALID
    assert error_of(keyed.ask(f"{key} x")) == INVALID


def test_a_revoked_key_is_refused_at_once(keyed: Keyed) -> None:
    key_id, key = keyed.issue()
    assert keyed.ask(key).status_code == 200
    record = keyed.admin("DELETE", f"/keys/{key_id}")

    assert record["revoked_at"] is not None
    assert error_of(keyed.ask(key)) == INVALID


def test_an_expired_key_is_refused(keyed: Keyed) -> None:
    _, key = keyed.issue(expires_in_s=1)
    assert keyed.ask(key).status_code == 200

    wait_until(lambda: keyed.ask(key).status_code == 401, "its end", 5)
    assert error_of(keyed.ask(key)) == INVALID


def test_rotation_overlaps(keyed: Keyed) -> None:
    key_id, key = keyed.issue(tenant="rotating")
    made = keyed.admin("POST", f"/keys/{key_id}/rotate", json={"overlap_s": 60})
    old = keyed.admin("GET", f"/keys/{key_id}")

    assert (keyed.ask(key).status_code, keyed.ask(made["key"]).status_code) == (200, 200)
    assert old["replaced_by"] == made["record"]["id"]
    assert old["expires_at"] is not None
    again = keyed.admin("POST", f"/keys/{made['record']['id']}/rotate", json={"overlap_s": 0})
    assert error_of(keyed.ask(made["key"])) == INVALID
    assert keyed.ask(again["key"]).status_code == 200


def test_keys_are_listed_without_their_secrets(keyed: Keyed) -> None:
    key_id, key = keyed.issue(tenant="listed", scopes=["chat"])
    page = keyed.admin("GET", "/keys", params={"tenant": "listed"})

    assert [each["id"] for each in page["data"]] == [key_id]
    assert key.rpartition("_")[2] not in str(page)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"name": ""}, {"name": "x", "scopes": ["root"]}, {"name": "x", "scopes": []},
        {"name": "x", "tenant": "a b"}, {"name": "x\ny"}, {"name": "x", "expires_in_s": 0},
        {"name": "x", "limits": {"requests_per_minute": 0}}, {"name": "x", "burned_in": "maybe"},
    ],
)  # fmt: skip
def test_a_bad_order_makes_no_key(keyed: Keyed, body: dict[str, object]) -> None:
    answer = keyed.call("POST", "/v1/admin/keys", ADMIN_KEY, json=body)

    assert answer.status_code == 400


def test_unknown_keys_are_not_found(keyed: Keyed) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate")):
        answer = keyed.call(method, f"/v1/admin/keys/galen_none{path}", ADMIN_KEY)

        assert error_of(answer) == (404, "invalid_request_error", "key_not_found")


# ----------------------------------------------------------------------- what a key is for


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/files", "files"), ("/v1/batches", "batches"), ("/v1/evaluations", "evaluations"),
        ("/v1/usage", "usage"), ("/metrics", "metrics"),
    ],
)  # fmt: skip
def test_a_key_opens_what_its_scope_says(keyed: Keyed, path: str, scope: str) -> None:
    _, good = keyed.issue(scopes=[scope])
    _, other = keyed.issue(scopes=["chat"])
    _, all_but_admin = keyed.issue(scopes=["*"])

    assert keyed.call("GET", path, good).status_code == 200
    assert error_of(keyed.call("GET", path, other)) == SCOPE
    assert keyed.call("GET", path, all_but_admin).status_code == 200
    assert error_of(keyed.ask(good)) == SCOPE


def test_a_users_key_does_not_administer(keyed: Keyed) -> None:
    _, user = keyed.issue(scopes=["*"])
    _, admin = keyed.issue(scopes=["admin"])

    assert error_of(keyed.call("GET", "/v1/admin/keys", user)) == NO_ADMIN
    assert keyed.call("GET", "/v1/admin/keys", admin).status_code == 200


def test_the_gateways_own_admin_key_opens_everything(keyed: Keyed) -> None:
    for path in ("/v1/models", "/v1/files", "/v1/usage", "/metrics", "/v1/admin/workers"):
        assert keyed.call("GET", path, ADMIN_KEY).status_code == 200
    assert keyed.ask(ADMIN_KEY).status_code == 200


def test_what_is_another_tenants_is_not_found(keyed: Keyed) -> None:
    _, ours = keyed.issue(tenant="a", scopes=["files", "batches"])
    _, theirs = keyed.issue(tenant="b", scopes=["files", "batches"])
    line = (
        b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions",'
        b'"body":{"model":"fake-vlm","messages":[{"role":"user","content":"x"}]}}'
    )
    upload = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", line)}}
    file_id = keyed.call("POST", "/v1/files", ours, **upload).json()["id"]
    order = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
    order["completion_window"] = "24h"
    batch_id = keyed.call("POST", "/v1/batches", ours, json=order).json()["id"]

    for method, path, code in (
        ("GET", f"/v1/files/{file_id}", "file_not_found"),
        ("GET", f"/v1/files/{file_id}/content", "file_not_found"),
        ("GET", f"/v1/batches/{batch_id}", "batch_not_found"),
        ("POST", f"/v1/batches/{batch_id}/cancel", "batch_not_found"),
    ):
        answer = keyed.call(method, path, theirs)
        assert error_of(answer) == (404, "invalid_request_error", code)
        assert keyed.call(method, path, ours).status_code == 200
    assert keyed.call("POST", "/v1/batches", theirs, json=order).status_code == 404
    assert keyed.call("GET", "/v1/files", theirs).json()["data"] == []
    removed = [keyed.call("DELETE", f"/v1/files/{file_id}", key) for key in (theirs, ours)]
    assert [error_of(each)[2] for each in removed] == ["file_not_found", "file_in_use"]


@pytest.mark.parametrize("key", ["", UNKNOWN_KEY])
def test_ask_tells_a_missing_key_from_a_wrong_one(keyed: Keyed, key: str) -> None:
    done = galen("ask", "--url", keyed.stack.base_url, "x", variables={"GALEN_API_KEY": key})

    assert done.returncode == 1
    assert ("GALEN_API_KEY" in done.stderr) == (not key)
    assert ("the key is not valid" in done.stderr) == bool(key)


# ---------------------------------------------------------------------------------- the audit


def test_the_audit_names_the_key_that_was_made_rotated_and_revoked(
    keyed: Keyed, folder: Path
) -> None:
    key_id, key = keyed.issue(scopes=["chat"])
    made = keyed.admin("POST", f"/keys/{key_id}/rotate")
    keyed.admin("DELETE", f"/keys/{key_id}")
    successor = made["record"]["id"]
    assert error_of(keyed.call("DELETE", f"/v1/admin/keys/{key_id}", made["key"])) == NO_ADMIN
    assert keyed.call("DELETE", f"/v1/admin/keys/{key}", ADMIN_KEY).status_code == 404
    done = galen("keys", "revoke", successor, "--data-dir", str(folder / "store"))
    assert done.returncode == 0, done.stderr

    page = keyed.admin("GET", "/audit", params={"object": key_id, "order": "asc"})
    found = [(r["method"], r["object"], r["key_id"], r["status"]) for r in page["data"]]
    assert found == [
        ("POST", key_id, None, 200),
        ("POST", f"{key_id}/rotate/{successor}", None, 200),
        ("DELETE", key_id, None, 200),
        ("DELETE", key_id, successor, 403),  # who has a key is named, whatever it is for
    ]
    here, variables = ("--url", keyed.stack.base_url), {"GALEN_ADMIN_KEY": ADMIN_KEY}
    exported = galen("audit", "export", "--object", successor, *here, variables=variables)
    _, command = map(json.loads, exported.stdout.splitlines())
    assert (command["chain"], command["route"]) == ("galen-keys", "galen keys revoke")
    secret = key.rpartition("_")[2]
    assert secret not in keyed.call("GET", "/v1/admin/audit?limit=1000", ADMIN_KEY).text
    verified = galen("audit", "verify", *here, variables=variables)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "galen-keys: holds, 1 records" in verified.stdout


# ----------------------------------------------------------------------------- many gateways


def test_other_gateways_know_a_new_key_at_once_and_a_revoked_one_within_2_s(keyed: Keyed) -> None:
    port = keyed.stack.add_gateway()
    elsewhere = f"http://127.0.0.1:{port}/v1/models"
    key_id, key = keyed.issue()
    assert keyed.call("GET", elsewhere, key).status_code == 200
    keyed.admin("DELETE", f"/keys/{key_id}")

    def is_refused() -> bool:
        return keyed.call("GET", elsewhere, key).status_code == 401

    wait_until(is_refused, "the news of the revocation", REFRESH_S + 1.5)


# -------------------------------------------------------------------------------- the last one


def test_many_bad_keys_are_slowed_down_and_good_ones_are_not(keyed: Keyed) -> None:
    _, key = keyed.issue()
    statuses = [keyed.call("GET", "/v1/models", UNKNOWN_KEY).status_code for _ in range(3)]
    while statuses[-1] == 401 and len(statuses) <= MOST_PER_MINUTE:
        statuses.append(keyed.call("GET", "/v1/models", UNKNOWN_KEY).status_code)
    answer = keyed.call("GET", "/v1/models", UNKNOWN_KEY)

    assert error_of(answer) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert keyed.ask(key).status_code == 200
    assert keyed.call("GET", "/v1/models", ADMIN_KEY).status_code == 200
