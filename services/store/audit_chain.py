"""Records of the audit, and the chain of hashes that they form. Pure.

Each gateway process has a chain of its own, and the commands that change keys on the database share
one: every record holds the hash of the one before it, so that a record which was changed, removed
or put in between is found. What does *not* live here: the table (`audit_records.py`), what is
recorded when (`gateway/audit.py`, `key_audit.py`).
"""

import hashlib

import msgspec

BEGINNING = "0" * 64
"""What stands for the record before the first."""


class AuditRecord(msgspec.Struct, frozen=True):
    """Who asked what of which model, and how it ended; no content.

    Args:
        chain: the gateway process that wrote it, or `galen-keys`: a command.
        number: its place there, from 1.
        at_ms: when it ended, by the gateway's clock (a command: by the database's); never less than
            in the one before.
        key_id: public name of the key; None: it came without one.
        method: of HTTP; `CLI`: a command.
        route: of a closed set, without ids; of a command, its name.
        model: that was asked, or its adapter; "": the request got to none.
        revision: fingerprint of the checkpoint, and behind a `+` of the adapter; "": not known.
        images: keys of the images as the model got them; a tenant's image has always the same;
            of a preview, that of the picture which was shown.
        prompt_hash: keyed; of the conversation, its images included; "": there was none.
        parameters_hash: keyed; of all other parameters.
        code: of the error; "": none.
        finish_reason: of the choices, with commas; `abandoned`: the client left.
        object: what it was about: the id of what it made, or what stands behind the route; "": not
            known, or not fit to be kept. Earlier versions have none.
        hash: SHA-256 over `previous_hash` and all fields above it.
    """

    chain: str
    number: int
    at_ms: int
    request_id: str
    tenant_id: str
    key_id: str | None
    method: str
    route: str
    model: str
    revision: str
    images: list[str]
    prompt_hash: str
    parameters_hash: str
    status: int
    code: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    duration_ms: int
    object: str = ""
    previous_hash: str = BEGINNING
    hash: str = ""


class AuditAnchor(msgspec.Struct, frozen=True):
    """What retention leaves of a chain's beginning: its last removed record."""

    chain: str
    number: int
    hash: str
    removed_ms: int


class AuditChain(msgspec.Struct, frozen=True):
    """What there is of a chain.

    Args:
        first: number of its first record that is kept; 0: none is.
        last: of its last one.
        anchor_number: of the last that retention removed; 0: none was.
        anchor_hash: of that one.
    """

    chain: str
    first: int
    last: int
    anchor_number: int = 0
    anchor_hash: str = BEGINNING


def chained(record: AuditRecord, previous_hash: str) -> AuditRecord:
    """Return a record as the next of a chain."""
    return msgspec.structs.replace(
        record, previous_hash=previous_hash, hash=hash_of(record, previous_hash)
    )


def hash_of(record: AuditRecord, previous_hash: str) -> str:
    """Return the hash that a record has behind another one; without an object, as it always was."""
    *fields, name, _, _ = msgspec.structs.astuple(record)
    if name:
        fields.append(name)
    return hashlib.sha256(previous_hash.encode() + msgspec.json.encode(fields)).hexdigest()


class ChainCheck:
    """Looks through one chain, record by record.

    Attributes:
        number: of the last record that was looked at.
        hash: of that one.
        problem: what is wrong first, in words; "": nothing so far.
    """

    def __init__(self, chain: AuditChain) -> None:
        self.number: int = chain.anchor_number
        self.hash: str = chain.anchor_hash
        self.problem = ""

    def add(self, record: AuditRecord) -> bool:
        """Look at the next record; returns whether all is well up to here."""
        if self.problem:
            return False
        if record.number != self.number + 1:
            self.problem = f"record {self.number + 1} is missing"
        elif record.previous_hash != self.hash:
            self.problem = f"record {record.number} does not follow the one before it"
        elif record.hash != hash_of(record, self.hash):
            self.problem = f"record {record.number} was changed"
        else:
            self.number, self.hash = record.number, record.hash
        return not self.problem
