"""The health check of containers, against a real server and real files."""

import os
from pathlib import Path

import pytest

from services import health_check
from tests.support.browser import Beacon
from tests.support.program import free_port


def test_an_answer_of_200_is_well() -> None:
    with Beacon() as server:
        health_check.main([f"http://127.0.0.1:{server.port}/readyz"])

    assert server.asked == ["/readyz"]


def test_no_answer_is_told_in_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}/readyz"

    with pytest.raises(SystemExit) as ended:
        health_check.main([url])

    assert str(ended.value).startswith(url)
    assert "\n" not in str(ended.value)


def test_a_file_that_was_touched_is_well_for_a_while(tmp_path: Path) -> None:
    file = tmp_path / "progress"
    file.touch()
    health_check.main(["--file", str(file), "--within-s", "60"])

    long_ago = file.stat().st_mtime - 90
    os.utime(file, (long_ago, long_ago))
    with pytest.raises(SystemExit, match="was touched"):
        health_check.main(["--file", str(file), "--within-s", "60"])


def test_a_file_that_is_not_there_is_not_well(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="No such file"):
        health_check.main(["--file", str(tmp_path / "none")])
