"""Bodies of the votes' routes, as structs. Pure."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from services.gateway.openai_schemas import ImagePreprocess, converted
from services.protocol.errors import ErrorCode, RequestError
from services.store.models import FeedbackRow

_Id = Annotated[str, Meta(min_length=1, max_length=64)]
_Text = Annotated[str, Meta(min_length=1, max_length=65_536)]
_Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+ -]*$")]
_Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64)]
_MOST_CHARACTERS = 262_144
IMAGE_MARKER = "<image>"
"""LLaVA-Med's, where an image stands; in a text it could not be told from one."""


class VotedTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A turn of the conversation, without its images."""

    role: Literal["user", "assistant"]
    content: _Text


class VotedImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image of the first turn: an uploaded file, or the SHA-256 of one that the operator has.

    Args:
        preprocess: which part of it was shown, and how, as the request had it.
    """

    file_id: _Id | None = None
    sha256: _Sha256 | None = None
    preprocess: ImagePreprocess | None = None


class CreateVoteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/feedback.

    Args:
        consent: everything but the rating is kept; without it nothing else is.
        subject: pseudonym of the patient or study, by which training data are split.
        licence: of text and images.
    """

    request_id: _Id
    rating: Literal["up", "down", "flag"]
    reason: Annotated[str, Meta(max_length=4096)] | None = None
    corrected_answer: _Text | None = None
    consent: bool = False
    conversation: Annotated[list[VotedTurn], Meta(min_length=2, max_length=100)] | None = None
    images: Annotated[list[VotedImage], Meta(max_length=16)] | None = None
    subject: _Name | None = None
    licence: _Name | None = None


class Vote(msgspec.Struct, frozen=True):
    """A vote as it is kept; `created_at` in seconds since 1970."""

    id: str
    request_id: str
    rating: str
    consent: bool
    model: str
    created_at: int
    reason: str | None = None
    corrected_answer: str | None = None
    conversation: list[dict[str, str]] | None = None
    images: list[dict[str, Any]] | None = None
    subject: str | None = None
    licence: str | None = None
    object: Literal["feedback"] = "feedback"


class VoteList(msgspec.Struct, frozen=True):
    """A page of votes."""

    data: list[Vote]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class VoteDeleted(msgspec.Struct, frozen=True):
    """The answer to a deletion."""

    id: str
    object: Literal["feedback"] = "feedback"
    deleted: Literal[True] = True


def read_vote(body: Any) -> CreateVoteRequest:  # noqa: ANN401 - JSON
    """Return a vote, any JSON before; raises RequestError."""
    vote = converted(body, CreateVoteRequest)
    if vote.conversation is not None:
        _check_conversation(vote.conversation)
        for name in ("subject", "licence"):
            if vote.consent and getattr(vote, name) is None:
                raise RequestError(
                    ErrorCode.MISSING_PARAMETER,
                    f"a conversation to learn from needs its {name!r}",
                    param=name,
                )
    elif vote.images:
        raise _bad("images", "come with the conversation that they belong to")
    for number, image in enumerate(vote.images or ()):
        if (image.file_id is None) == (image.sha256 is None):
            raise _bad(f"images[{number}]", "has either `file_id` or `sha256`")
    if vote.corrected_answer is not None and IMAGE_MARKER in vote.corrected_answer:
        raise _bad("corrected_answer", f"must not hold {IMAGE_MARKER}")
    return vote


def vote_of(row: FeedbackRow) -> Vote:
    """Return a vote as its voter sees it."""
    return Vote(
        row.id, row.request_id, row.rating, row.consent, row.model, row.created_ms // 1000,
        row.reason, row.corrected_answer, row.conversation, row.images, row.subject, row.licence,
    )  # fmt: skip


def vote_page(rows: Sequence[FeedbackRow], limit: int) -> VoteList:
    """Return a page; `rows` has one more where there are more."""
    shown = [vote_of(row) for row in rows[:limit]]
    ids = [vote.id for vote in shown]
    return VoteList(
        shown, ids[0] if ids else None, ids[-1] if ids else None, has_more=len(rows) > limit
    )


def _check_conversation(turns: Sequence[VotedTurn]) -> None:
    if len(turns) % 2 or any(
        turn.role != ("user", "assistant")[number % 2] for number, turn in enumerate(turns)
    ):
        raise _bad("conversation", "must be turns of user and assistant, one after the other")
    for number, turn in enumerate(turns):
        if IMAGE_MARKER in turn.content:
            raise _bad(f"conversation[{number}].content", f"must not hold {IMAGE_MARKER}")
    if sum(len(turn.content) for turn in turns) > _MOST_CHARACTERS:
        raise _bad("conversation", f"must have at most {_MOST_CHARACTERS} characters")


def _bad(param: str, rule: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_VALUE, f"{param} {rule}", param=param)
