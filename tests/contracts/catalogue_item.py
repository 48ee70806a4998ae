"""What a row of the bad-input catalogue says; the rows: `bad_input_catalogue.py` and neighbours."""

from dataclasses import dataclass

INVALID = "invalid_request_error"
SERVER = "server_error"


@dataclass(frozen=True, slots=True)
class Answer:
    """How the gateway answers; a code "" with the status 200: it is taken."""

    status: int
    kind: str
    code: str


TAKEN = Answer(200, "", "")


@dataclass(frozen=True, slots=True)
class Item:
    """A row.

    Args:
        number: of the catalogue.
        inputs: what is sent.
        answers: every answer that one of its inputs has; () where no gateway is asked.
        tests: files under `tests` with the names of test functions, which prove it.
        words: what a command says; it stands in the tests.
        deviation: where we answer otherwise than the catalogue has it, why.
    """

    number: str
    inputs: str
    answers: tuple[Answer, ...]
    tests: tuple[str, ...]
    words: tuple[str, ...] = ()
    deviation: str = ""


def refused(*codes: str, status: int = 400, kind: str = INVALID) -> tuple[Answer, ...]:
    """Return answers of one status and type."""
    return tuple(Answer(status, kind, code) for code in codes)
