"""Why a medical image is not taken.

What does *not* live here: HTTP. The gateway's codes of the same names are made from `code`
(`services.protocol.errors`).
"""

from typing import Literal

RefusalCode = Literal[
    "invalid_dicom",
    "invalid_image",
    "invalid_value",
    "image_too_large",
    "phi_burned_in",
    "unsupported_image_type",
    "unsupported_transfer_syntax",
]


class MedicalImageError(Exception):
    """A file that is not taken, or a choice that does not fit it.

    Args:
        code: stable name of the cause.
        message: what is wrong and what to do; holds nothing that the file says in words.
        field: the part of the choice at fault, such as `window`; empty: the file itself.
    """

    def __init__(self, code: RefusalCode, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.code: RefusalCode = code
        self.message = message
        self.field = field
