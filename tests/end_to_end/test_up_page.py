"""`galen up` brings the page, and goes on without it."""

import signal
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.launched import LaunchedUp
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

FAKE = ("--engine", "fake", "--model", "m", "--no-ask", "--port", "0")


def page_of(up: LaunchedUp) -> str:
    return up.line_with("in a browser").split()[1]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_page_that_is_killed_comes_again(short_folder: Path) -> None:
    with LaunchedUp(short_folder, *FAKE, "--ui", "--ui-port", "0") as up:
        url = page_of(up)
        page = httpx.get(url)
        api = up.line_with("Serving m at").split()[3]
        [process] = [
            each
            for each in psutil.Process(up.process.pid).children(recursive=True)
            if each.name() == "galen ui"
        ]
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(process.pid), "its end", 10)
        models = httpx.get(f"{api}/models").json()["data"]
        wait_until(lambda: answers(url), "the page", 40)

    assert page.status_code == 200
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert [model["id"] for model in models] == ["m"]


def test_a_port_of_the_page_that_is_taken_is_said(short_folder: Path) -> None:
    with LaunchedUp(short_folder, *FAKE, "--ui", "--ui-port", "0") as up:
        port = page_of(up).rsplit(":", 1)[1].strip("/")
        other = short_folder / "other"
        other.mkdir()
        with LaunchedUp(other, *FAKE, "--ui", "--ui-port", port) as second:
            line = second.line_with("--ui-port")

    assert f"port {port} is in use" in line
