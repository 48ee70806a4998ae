"""Receives one file as a form, within its limits, onto the disk.

What does *not* live here: what becomes of it (`routes/files.py`).
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from services.gateway.settings import GatewaySettings
from services.protocol.errors import ErrorCode, GalenError, RequestError, TooLargeError

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FIELDS = frozenset({"file", "purpose", ANCHOR, SECONDS})
LIFETIME_S = range(3600, 2_592_000 + 1)
"""OpenAI's bounds: an hour to thirty days."""
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_FORM_OVERHEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that has arrived; close `content`, and it is gone.

    Args:
        lifetime_s: after which it expires; None: nothing was said.
    """

    content: BinaryIO
    filename: str
    purpose: str
    num_bytes: int
    lifetime_s: int | None = None


async def read_upload(request: Request, settings: GatewaySettings, most_bytes: int) -> Upload:
    """Return the file of a form; raises GalenError.

    Args:
        most_bytes: of the file.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise RequestError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            "send a form (content-type: multipart/form-data) with the fields `file` and `purpose`",
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most_bytes + _FORM_OVERHEAD_BYTES:
        raise _too_large(most_bytes)
    parser = MultiPartParser(
        request.headers, _limited(request, most_bytes), max_files=1, max_fields=4
    )
    try:
        async with asyncio.timeout(settings.upload_timeout_s):
            form = await parser.parse()
    except TimeoutError:
        raise GalenError(
            ErrorCode.REQUEST_TIMEOUT,
            f"the file did not arrive within {settings.upload_timeout_s:g} s",
        ) from None
    except (MultiPartException, FormParserError):
        raise RequestError(
            ErrorCode.BAD_REQUEST, "the body is no form with one file and a few short fields"
        ) from None
    try:
        return _upload_of(form, most_bytes)
    except BaseException:
        await form.close()
        raise


def _upload_of(form: FormData, most_bytes: int) -> Upload:
    for name in form:
        if name not in FIELDS:
            raise RequestError(
                ErrorCode.UNSUPPORTED_PARAMETER,
                f"the parameter {name[:40]!r} is not supported here; leave it out",
                param=name[:40],
            )
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise _missing("file")
    if not isinstance(purpose, str):
        raise _missing("purpose")
    if (file.size or 0) > most_bytes:
        raise _too_large(most_bytes)
    return Upload(file.file, _plain(file.filename), purpose, file.size or 0, _lifetime_of(form))


def _lifetime_of(form: FormData) -> int | None:
    anchor, seconds = form.get(ANCHOR), form.get(SECONDS)
    if anchor is None and seconds is None:
        return None
    for name, value in ((ANCHOR, anchor), (SECONDS, seconds)):
        if value is None:
            raise _missing(name)
    if anchor != "created_at":
        raise RequestError(
            ErrorCode.INVALID_VALUE, f"{ANCHOR} may be created_at only", param=ANCHOR
        )
    if isinstance(seconds, str) and _NUMBER.fullmatch(seconds) and int(seconds) in LIFETIME_S:
        return int(seconds)
    raise RequestError(
        ErrorCode.INVALID_VALUE,
        f"{SECONDS} must be a number from {LIFETIME_S[0]} to {LIFETIME_S[-1]}",
        param=SECONDS,
    )


def _plain(name: str | None) -> str:
    """Return the last part of a file's name, without what would disturb a terminal."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[:255] or "upload"


async def _limited(request: Request, most_bytes: int) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most_bytes + _FORM_OVERHEAD_BYTES:
            raise _too_large(most_bytes)
        yield chunk


def _too_large(most_bytes: int) -> TooLargeError:
    return TooLargeError(
        ErrorCode.REQUEST_TOO_LARGE,
        f"the file is larger than the {most_bytes // 10**6} MB allowed; split it",
        param="file",
    )


def _missing(name: str) -> RequestError:
    message = f"the form has no field {name!r}"
    return RequestError(ErrorCode.MISSING_PARAMETER, message, param=name)
