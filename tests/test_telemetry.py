"""Logs: no key is ever in one, wherever it came from."""

import subprocess
import sys

import pytest

from services.store.key_secrets import JobGrant, KeySecrets
from services.telemetry import redacted

KEY_ID, SECRET = "galen_0123456789abcdef", "68d4e3364bd3a7da" * 4
KEY = f"{KEY_ID}_{SECRET}"  # the same in every process that collects the tests
TOKEN = KeySecrets(b"p" * 32).job_token(JobGrant("tenant", KEY_ID, "batch_1"))
ADMIN = "admin-key-of-the-tests-0123456789"


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (f"the key {KEY} is bad", f"the key {KEY_ID}_[secret] is bad"),
        (f"authorization: Bearer {ADMIN}", "authorization: Bearer [secret]"),
        (f'{{"authorization": "Bearer {ADMIN}"}}', '{"authorization": "Bearer [secret]"}'),
        (f"/v1/models?token=Bearer%20{ADMIN}", "/v1/models?token=Bearer%20[secret]"),
        (f"Authorization: {ADMIN}", "Authorization: [secret]"),
        (f"asked with {TOKEN}!", "asked with galenjob_[secret]!"),
        (f"used by {KEY_ID}", f"used by {KEY_ID}"),
        ("a bearer of bad news", "a bearer of bad news"),
        ("galen gateway ready", "galen gateway ready"),
    ],
)
def test_secrets_are_cut_out_and_ids_stay(line: str, left: str) -> None:
    assert redacted(line) == left


PROGRAM = """
import logging, sys, structlog
from services.telemetry import configure_logging

key = sys.argv[1]
configure_logging("test", sys.argv[2], "debug")
log = structlog.get_logger()
log.info("field", key=key, nested={"headers": [("authorization", f"Bearer {key}")]})
log.info(f"event {key}")
logging.getLogger("library").error("argument %s", key)
try:
    raise ValueError(f"no such key: {key}")
except ValueError:
    log.exception("exception")
    logging.getLogger("library").exception("as well")
"""


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("secret", [KEY, f"Bearer {ADMIN}", TOKEN], ids=["key", "admin", "job"])
def test_no_way_into_a_log_shows_a_secret(form: str, secret: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, secret, form],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    output = done.stdout + done.stderr

    assert output.count("[secret]") >= 6
    for hidden in (SECRET, ADMIN, TOKEN.rpartition(".")[2]):
        assert hidden not in output
