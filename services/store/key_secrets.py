"""What keys are made of and hashed with, and the tokens with which job workers act for a tenant.

A key is its public id and 256 random bits: `galen_` and 16 hex digits, `_`, 64 hex digits. What is
kept of it is an HMAC-SHA-256 with a pepper that does not stand in the database: whoever reads that
alone can neither use a key nor guess at one. Random keys need no slow hash.

What does *not* live here: the table (`models.py`), who may do what (`gateway/access`).
"""

import base64
import contextlib
import hmac
import os
import secrets
from pathlib import Path

import msgspec

from services.store.settings import StoreSettings

KEY_PREFIX = "galen_"
JOB_PREFIX = "galenjob_"

_FILE = "key_pepper"
_PEPPER_BYTES = 32
_SECRET_BYTES = 32


class JobGrant(msgspec.Struct, frozen=True, array_like=True):
    """For whom a job worker asks, and which key pays ("": none)."""

    tenant_id: str
    key_id: str
    job_id: str


class KeySecrets:
    """Hashes keys and signs tokens with one pepper."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper
        self.pepper_id = hmac.digest(pepper, b"pepper", "sha256").hex()[:16]

    def hash_of(self, key: bytes) -> bytes:
        """Return what is kept of a key."""
        return hmac.digest(self._pepper, b"key:" + key, "sha256")

    def job_token(self, grant: JobGrant) -> str:
        """Return what a job worker shows at the gateway instead of a key."""
        claims = base64.urlsafe_b64encode(msgspec.msgpack.encode(grant)).decode()
        return f"{JOB_PREFIX}{claims}.{self._mac(claims)}"

    def grant_of(self, token: str) -> JobGrant | None:
        """Return what a token grants; None where it is none of ours."""
        claims, _, mac = token.removeprefix(JOB_PREFIX).partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(claims).encode()):
            return None
        return msgspec.msgpack.decode(base64.urlsafe_b64decode(claims), type=JobGrant)

    def _mac(self, claims: str) -> str:
        return hmac.digest(self._pepper, f"job:{claims}".encode(), "sha256").hex()


def new_key() -> tuple[str, str]:
    """Draw a key; returns its id and the whole of it."""
    key_id = f"{KEY_PREFIX}{secrets.token_hex(8)}"
    return key_id, f"{key_id}_{secrets.token_hex(_SECRET_BYTES)}"


def load_secrets(settings: StoreSettings) -> KeySecrets:
    """Return the secrets of a store; the first to ask makes its pepper, where none is set.

    Raises:
        OSError: the pepper can be neither read nor kept.
    """
    if settings.key_pepper is not None:
        return KeySecrets(settings.key_pepper.get_secret_value().encode())
    file = settings.dir.absolute() / _FILE
    try:
        return KeySecrets(_read(file))
    except FileNotFoundError:
        _make(file)
        return KeySecrets(_read(file))


def _read(file: Path) -> bytes:
    pepper = file.read_bytes()
    if len(pepper) < _PEPPER_BYTES:
        raise OSError(f"{file} is cut short: bring it back, or remove it and make all keys anew")
    return pepper


def _make(file: Path) -> None:
    """Write a pepper whole or not at all; of several writers the first one wins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{_FILE}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(secrets.token_bytes(_PEPPER_BYTES))
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(draft)
    finally:
        draft.unlink()
