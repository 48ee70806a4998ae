"""/v1/files: what batches and evaluations read and write, as OpenAI's API has it.

A batch's input is checked when it arrives, so that a mistake is told at once and with its line.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator
from typing import BinaryIO, cast

import msgspec
import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from services.gateway.caller import caller_of
from services.gateway.job_schemas import FileDeleted, FileList, FileObject, file_of, file_page
from services.gateway.pages import page_of, unknown_after
from services.gateway.routes.api_document import answers, file_answers
from services.gateway.state import GatewayState, state_of
from services.gateway.threads import in_thread
from services.gateway.upload import ANCHOR, LIFETIME_S, SECONDS, Upload, read_upload
from services.gateway.vision_files import VISION, check_vision_file
from services.protocol.batch_lines import BatchInputError, check_lines, raw_lines
from services.protocol.errors import ErrorCode, NotFoundError, RequestError, UnavailableError
from services.protocol.evaluation_lines import check_evaluation_lines
from services.protocol.jobs import MAX_FILE_BYTES
from services.store.file_records import (
    NewFile,
    add_file,
    find_file,
    list_files,
    new_file_id,
    remove_file,
)
from services.store.file_store import StorageFullError
from services.store.job_records import is_in_use
from services.store.models import FileRow

_log = structlog.get_logger()

router = APIRouter(prefix="/v1/files")

_PURPOSES = ("batch", "evaluation", VISION)
_MOST_LISTED = 10_000
_PIECE_BYTES = 1 << 20
_DAY_S = 86_400
_FORM_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(_PURPOSES)},
                        ANCHOR: {"type": "string", "enum": ["created_at"]},
                        SECONDS: {
                            "type": "integer",
                            "minimum": LIFETIME_S[0],
                            "maximum": LIFETIME_S[-1],
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    summary="Upload a file",
    openapi_extra=_FORM_SCHEMA,
    responses=answers(FileObject, "The file"),
)
async def upload_file(request: Request) -> Response:
    """Take the input of a batch or of an evaluation; every line of it is checked."""
    state = state_of(request)
    state.check_open()
    tenant_id = caller_of(request).tenant_id
    upload = await read_upload(request, state.settings, MAX_FILE_BYTES)
    try:
        file = await in_thread(lambda: _keep(upload, state, tenant_id))
    except BatchInputError as error:
        raise RequestError(
            ErrorCode.INVALID_FILE, error.message, param=error.param or "file"
        ) from None
    except StorageFullError:
        raise UnavailableError(
            ErrorCode.STORAGE_FULL,
            "there is no room for the file; remove others, or try again later",
            retry_after_s=60.0,
        ) from None
    finally:
        upload.content.close()
    try:
        async with state.store.begin() as session:
            row = await add_file(session, file)
        request.scope["galen.object"] = row.id
    except BaseException:
        await asyncio.shield(in_thread(lambda: state.store.files.remove(file.key)))
        raise
    return _json(file_of(row))


@router.get("", summary="List the files", responses=answers(FileList, "A page of files"))
async def list_all(request: Request) -> Response:
    """The newest first; `purpose`, `limit`, `after` and `order` choose."""
    page = page_of(request, most=_MOST_LISTED, default=_MOST_LISTED, orders=True)
    async with state_of(request).store.begin() as session:
        rows = await list_files(
            session, caller_of(request).tenant_id, request.query_params.get("purpose"), page
        )
    if rows is None:
        raise unknown_after()
    return _json(file_page(rows, page.limit))


@router.get("/{file_id}", summary="Describe a file", responses=answers(FileObject, "The file"))
async def show_file(request: Request, file_id: str) -> Response:
    """Its size, name and purpose."""
    return _json(file_of(await _find(request, file_id)))


@router.get(
    "/{file_id}/content",
    summary="Download a file",
    responses=file_answers("The file's content"),
)
async def download_file(request: Request, file_id: str) -> Response:
    """What was uploaded, or what a job has written."""
    state = state_of(request)
    row = await _find(request, file_id)
    try:
        pieces = await in_thread(lambda: state.store.files.open(row.key))
    except OSError as error:
        _log.warning("file.unreadable", file_id=row.id, cause=type(error).__name__)
        raise UnavailableError(
            ErrorCode.STORAGE_UNAVAILABLE, "the file cannot be read at the moment"
        ) from None
    headers = {"content-length": str(row.num_bytes), "x-content-type-options": "nosniff"}
    return StreamingResponse(
        _pieces(pieces), headers=headers, media_type="application/octet-stream"
    )


@router.delete("/{file_id}", summary="Remove a file", responses=answers(FileDeleted, "It is gone"))
async def delete_file(request: Request, file_id: str) -> Response:
    """Refused while a batch or an evaluation still reads it.

    One that has expired is removed, too, as long as it is there: a vote may keep it.
    """
    state, tenant_id = state_of(request), caller_of(request).tenant_id
    async with state.store.begin() as session:
        if await find_file(session, tenant_id, file_id, may_be_expired=True) is None:
            raise _unknown()  # before all else: what others have does not show in the answer
        if await is_in_use(session, file_id):
            raise RequestError(
                ErrorCode.FILE_IN_USE,
                "a batch or an evaluation that has not ended reads this file; cancel it first",
                param="file_id",
            )
        row = await remove_file(session, tenant_id, file_id)
    if row is None:
        raise _unknown()
    await in_thread(lambda: state.store.files.remove(row.key))
    return _json(FileDeleted(row.id))


async def _find(request: Request, file_id: str) -> FileRow:
    caller = caller_of(request)
    async with state_of(request).store.begin() as session:
        row = await find_file(session, caller.tenant_id, file_id)
    if row is None:
        raise _unknown()
    return row


def _keep(upload: Upload, state: GatewayState, tenant_id: str) -> NewFile:
    """Check a file and put it into the store.

    Raises:
        BatchInputError: it is not what its purpose needs.
        StorageFullError, OSError: it cannot be kept.
    """
    lifetime_s = _lifetime_of(upload, state.settings.vision_days)
    num_lines, model = _check(upload, state.settings.max_image_bytes)
    file_id = new_file_id()
    key, digest = f"files/{file_id}", hashlib.sha256()
    upload.content.seek(0)
    with state.store.files.writer(key) as out:
        for piece in _blocks(upload.content):
            digest.update(piece)
            out.write(piece)
    return NewFile(
        id=file_id,
        tenant_id=tenant_id,
        filename=upload.filename,
        purpose=upload.purpose,
        num_bytes=upload.num_bytes,
        sha256=digest.hexdigest(),
        key=key,
        num_lines=num_lines,
        model=model,
        lifetime_s=lifetime_s,
    )


def _lifetime_of(upload: Upload, vision_days: int) -> int | None:
    """Return how long a file stays: as its owner says, images no longer than the operator does."""
    if upload.purpose != VISION or not vision_days:
        return upload.lifetime_s
    most_s = vision_days * _DAY_S
    if upload.lifetime_s is not None and upload.lifetime_s > most_s:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            f"images are kept for {vision_days} days here; {SECONDS} may be {most_s} at most",
            param=SECONDS,
        )
    return upload.lifetime_s or most_s


def _check(upload: Upload, max_image_bytes: int) -> tuple[int, str]:
    upload.content.seek(0)
    if upload.purpose == "batch":
        found = check_lines(raw_lines(upload.content))
        return found.num_lines, found.model
    if upload.purpose == "evaluation":
        return check_evaluation_lines(raw_lines(upload.content)), ""
    if upload.purpose == VISION:
        check_vision_file(upload.content, upload.num_bytes, max_image_bytes)
        return 0, ""
    raise RequestError(
        ErrorCode.INVALID_VALUE,
        f"purpose is {upload.purpose[:40]!r}; it may be {' or '.join(_PURPOSES)}",
        param="purpose",
    )


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece


async def _pieces(file: object) -> AsyncGenerator[bytes]:
    opened = cast("BinaryIO", file)
    try:
        while piece := await in_thread(lambda: opened.read(_PIECE_BYTES)):
            yield piece
    finally:
        opened.close()


def _unknown() -> NotFoundError:
    return NotFoundError(
        ErrorCode.FILE_NOT_FOUND, "there is no file of this id; see GET /v1/files", param="file_id"
    )


def _json(body: FileObject | FileList | FileDeleted) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
