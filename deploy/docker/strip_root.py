"""In a stage of its own: of a Debian file system, leave what a Python program needs.

No shell, no package manager, no pip: who breaks into a service finds no tools, and the image is
smaller. The list of Debian's packages stays, for scanners, and so do their licences. Afterwards the
stage's `/` is copied into an empty image.

    RUN ["python3", "deploy/docker/strip_root.py"]
"""

import os
import shutil
from pathlib import Path

UID = 10001
PROGRAM_FOLDERS = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin")
NEEDED_PROGRAM = "python"
LICENCE = "copyright"
UNUSED = (
    "build",
    "etc/apt",
    "etc/perl",
    "root",
    "usr/include",
    "usr/lib/apt",
    "usr/lib/git-core",
    "usr/lib/python3/dist-packages",
    "usr/lib/systemd",
    "usr/lib/*-linux-gnu/gconv",
    "usr/lib/*-linux-gnu/libapt-*",
    "usr/lib/*-linux-gnu/libperl*",
    "usr/lib/*-linux-gnu/perl*",
    "usr/local/lib/python3*/ensurepip",
    "usr/local/lib/python3*/idlelib",
    "usr/local/lib/python3*/site-packages",
    "usr/local/lib/python3*/test",
    "usr/lib/python3*/ensurepip",
    "usr/lib/python3*/idlelib",
    "usr/lib/python3*/test",
    "usr/share/bash-completion",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl*",
    "usr/share/python-wheels",
    "usr/share/zoneinfo/right",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg/info",
    "var/log",
)


def main() -> None:
    """Take everything else away; the interpreter that runs this stays."""
    root = Path("/")
    for pattern in UNUSED:
        for path in root.glob(pattern):
            _remove(path)
    for path in list(root.glob("usr/share/doc/*/*")):
        if path.name != LICENCE and not path.parent.is_symlink():
            _remove(path)
    for folder in {(root / each).resolve() for each in PROGRAM_FOLDERS}:
        for path in folder.iterdir():
            if not path.name.startswith(NEEDED_PROGRAM):
                _remove(path)
    with (root / "etc/passwd").open("a", encoding="utf-8") as passwd:
        passwd.write(f"galen:x:{UID}:{UID}:galen:/tmp:/none\n")
    with (root / "etc/group").open("a", encoding="utf-8") as group:
        group.write(f"galen:x:{UID}:\n")
    data = root / "data"
    data.mkdir()
    os.chown(data, UID, UID)
    data.chmod(0o700)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


if __name__ == "__main__":
    main()
