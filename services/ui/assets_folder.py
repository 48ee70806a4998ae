"""The files that the page shows beside its code: styles, the page of the login."""

from functools import cache
from importlib import resources
from pathlib import Path

_FOLDER = Path(str(resources.files("services.ui") / "assets"))


@cache
def text_of(name: str) -> str:
    """Return the text of a file of ours."""
    return (_FOLDER / name).read_text(encoding="utf-8")
