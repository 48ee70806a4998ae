"""An image as a user names it: a file of this machine, or a URL that the gateway fetches.

Light, since every command loads it. What does *not* live here: what a file is (`image_files.py`).
"""

from pathlib import Path

import typer

_SCHEMES = ("https://", "http://")


def is_image_url(text: str) -> bool:
    """Whether it is passed on to the gateway, which fetches from hosts that its operator lists."""
    return text.lower().startswith(_SCHEMES)


def image_argument(text: str) -> str:
    """Return a URL or a file's path as it is; raises BadParameter where it is neither."""
    if is_image_url(text):
        return text
    if "://" in text:
        raise typer.BadParameter(f"{text!r} is neither a file nor an https URL")
    if not Path(text).is_file():
        raise typer.BadParameter(f"there is no file {text!r}")
    return text
