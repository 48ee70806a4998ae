"""Install the Debian packages that tests need; never skips: it installs them, or it fails.

    python3.11 scripts/system_packages.py [PACKAGE ...]

Run by `make test` with the Makefile's list. As root, or with a sudo that asks no password, missing
packages are installed; otherwise one line names the command. Only the standard library.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

APT_DEADLINE_S = 600
QUERY_DEADLINE_S = 30
# seconds without a byte before apt gives a mirror up, and how often it tries again
APT_OPTIONS = ("-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=2")


def missing_packages(wanted: Sequence[str], installed: frozenset[str]) -> list[str]:
    """Return what has to be installed, in the order of the list."""
    return [package for package in wanted if package not in installed]


def installed_packages(listing: str) -> frozenset[str]:
    """Read lines of dpkg-query's `${Package} ${db:Status-Status}`."""
    rows = (line.split() for line in listing.splitlines())
    return frozenset(row[0] for row in rows if row[1:] == ["installed"])


def install_commands(packages: Sequence[str], prefix: Sequence[str]) -> list[list[str]]:
    """Return what installs `packages`; `prefix` is how the commands become root's."""
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *APT_OPTIONS]
    return [
        [*apt, "update"],
        [*apt, "install", "--yes", "--no-install-recommends", *packages],
    ]


def root_prefix() -> list[str] | None:
    """Return what makes a command root's without asking, None where nothing does."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and _run([sudo, "-n", "true"], QUERY_DEADLINE_S).returncode == 0:
        return [sudo, "-n"]
    return None


def ensure(wanted: Sequence[str]) -> str | None:
    """Install what is missing; returns None, or one line that says what to do."""
    if not wanted:
        return None
    if shutil.which("dpkg-query") is None or shutil.which("apt-get") is None:
        return f"the tests need these Debian packages, or what they hold: {' '.join(wanted)}"
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted]
    installed = installed_packages(_run(query, QUERY_DEADLINE_S).stdout)
    # A machine of CI may have the program itself, and no package of that name: chromium on Ubuntu.
    missing = [each for each in missing_packages(wanted, installed) if shutil.which(each) is None]
    if not missing:
        return None
    by_hand = f"run: sudo apt-get update && sudo apt-get install {' '.join(missing)}"
    prefix = root_prefix()
    if prefix is None:
        return f"the tests need {' '.join(missing)}; {by_hand}"
    print(f"[setup] installing Debian packages: {' '.join(missing)} ...", flush=True)
    for command in install_commands(missing, prefix):
        done = _run(command, APT_DEADLINE_S)
        if done.returncode != 0:
            last = (done.stdout.strip().splitlines() or ["no output"])[-1]
            return f"`{' '.join(command[-3:])}` failed ({last}); {by_hand}"
    return None


def _run(command: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end or to `limit_s`; what it prints comes back as one text."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(command), 124, f"not done after {limit_s:.0f} s")


def main(wanted: Sequence[str]) -> int:
    problem = ensure(wanted)
    if problem is not None:
        print(f"[setup] ERROR: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
