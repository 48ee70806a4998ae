"""The input file that a new job names."""

from sqlalchemy.ext.asyncio import AsyncSession

from services.gateway.routes.chat import ANONYMOUS
from services.protocol.errors import ErrorCode, NotFoundError, RequestError
from services.store.file_records import find_file
from services.store.models import FileRow


async def usable_input(session: AsyncSession, file_id: str, purpose: str) -> FileRow:
    """Return a file that was uploaded for this; raises NotFoundError, RequestError."""
    file = await find_file(session, ANONYMOUS, file_id)
    if file is None:
        raise NotFoundError(
            ErrorCode.FILE_NOT_FOUND,
            "there is no file of this id; upload it with POST /v1/files",
            param="input_file_id",
        )
    if file.purpose != purpose:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            f"the file was uploaded with the purpose {file.purpose!r}; here it must be {purpose!r}",
            param="input_file_id",
        )
    return file
