"""Whether a service of this machine is well: exit code 0, else 1 and a line. For health checks.

    python -m services.health_check http://127.0.0.1:8000/readyz
    python -m services.health_check --file /data/work/jobs-1.progress --within-s 60

Only the standard library, as it runs every few seconds, in images that hold no curl. What does
*not* live here: what being well means (each service's own route or file).
"""

import argparse
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

_TIMEOUT_S = 3.0


def main(arguments: Sequence[str] | None = None) -> None:
    """End with 0 where the service is well."""
    parser = argparse.ArgumentParser(description="Say whether a service is well.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("url", nargs="?", help="it answers with 200")
    what.add_argument("--file", type=Path, help="it was touched a short time ago")
    parser.add_argument("--within-s", type=float, default=60.0, help="how short")
    options = parser.parse_args(arguments)
    if options.url is None:
        problem = _why_not_fresh(options.file, options.within_s)
    else:
        problem = _why_no_answer(options.url)
    if problem:
        sys.exit(problem)


def _why_no_answer(url: str) -> str:
    # A proxy in the environment is not on the way to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as response:
            return "" if response.status == HTTPStatus.OK else f"{url}: {response.status}"
    except (OSError, urllib.error.URLError, ValueError) as error:
        return f"{url}: {error}"


def _why_not_fresh(file: Path, within_s: float) -> str:
    try:
        touched = datetime.fromtimestamp(file.stat().st_mtime, tz=UTC)
    except OSError as error:
        return f"{file}: {error.strerror}"
    age_s = (datetime.now(tz=UTC) - touched).total_seconds()
    return "" if age_s <= within_s else f"{file} was touched {age_s:.0f} s ago"


if __name__ == "__main__":
    main()
