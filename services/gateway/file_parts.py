"""Parts of a message that are a file, in OpenAI's form: images are taken, and nothing else. Pure.

What does *not* live here: whether its bytes are an image (`media/`), and whose file it is
(`image_sources.py`).
"""

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from services.protocol.errors import ErrorCode, RequestError

FILE_ID = re.compile(r"file-[0-9a-f]{24}", re.ASCII)

_ALLOWED = (
    "a file is an image here (JPEG, PNG, WebP, TIFF, BMP, GIF, DICOM, NIfTI): send the `file_id` "
    "of one uploaded with the purpose 'vision', or its base64 as a data: URL in `file_data`"
)
_Name = Annotated[str, Meta(max_length=4096)]


class NamedFile(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A file that was uploaded, or the file itself; its name says nothing that its bytes do not."""

    file_id: str | None = None
    file_data: str | None = None
    filename: _Name | None = None


class FileContent(
    msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="type", tag="file"
):
    """A part that is a file."""

    file: NamedFile


class InputFile(
    msgspec.Struct,
    frozen=True,
    gc=False,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="input_file",
):
    """A part that is a file, as responses have it."""

    file_id: str | None = None
    file_data: str | None = None
    filename: _Name | None = None


def url_in(file: NamedFile | InputFile, place: str) -> tuple[str, str]:
    """Return where a file is, as an image's URL has it, and the path of the field that says so.

    Args:
        place: the path of the file.

    Raises:
        RequestError: it says nothing, or both, or what is neither.
    """
    if (file.file_id is None) == (file.file_data is None):
        code = ErrorCode.MISSING_PARAMETER if file.file_id is None else ErrorCode.INVALID_VALUE
        raise RequestError(
            code, f"{place} has one of `file_id` and `file_data`; {_ALLOWED}", param=place
        )
    if file.file_id is not None:
        param = f"{place}.file_id"
        if FILE_ID.fullmatch(file.file_id) is None:
            raise RequestError(
                ErrorCode.INVALID_VALUE, f"{param} is no id of a file; {_ALLOWED}", param=param
            )
        return file.file_id, param
    param, data = f"{place}.file_data", file.file_data or ""
    if data[:5].lower() != "data:":
        raise RequestError(
            ErrorCode.INVALID_IMAGE, f"{param} is no data: URL; {_ALLOWED}", param=param
        )
    return data, param
