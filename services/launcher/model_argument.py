"""`[NAME=]DIR`: how commands take a checkpoint, and the name under which it is to be served."""

from pathlib import Path


def name_and_folder(value: str) -> tuple[str | None, str]:
    """Return the name, where one is said, and the folder, absolute.

    What is a folder as a whole is one, whatever signs are in its name.
    """
    name, has_name, folder = value.partition("=")
    if not has_name or _is_folder(value):
        return None, absolute_path(value)
    return name, absolute_path(folder)


def absolute_path(path: str | Path) -> str:
    """Return a path on this machine as a launcher or a gateway wants it."""
    return str(Path(path).expanduser().resolve())


def _is_folder(value: str) -> bool:
    try:
        return Path(value).is_dir()
    except OSError:  # a name that is too long
        return False
