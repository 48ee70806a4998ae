"""A real browser for pages that we write: what they run, fetch and show.

`make test` installs the browser where it may (the Makefile's DEBIAN_PACKAGES).
"""

import html
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

BROWSER = shutil.which("chromium")
WIDTH, HEIGHT = 1200, 2400
MARK = "it-ran"
needs_browser = [
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium; `make test` installs it"),
    pytest.mark.timeout(240),
]


class Beacon:
    """A server on the loopback that notes what is asked of it; use it as a context manager."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> "Beacon":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def evil(self) -> str:
        """HTML that runs, or calls here, wherever it is more than text."""
        at = f"http://127.0.0.1:{self.port}"
        return (
            f"</p></td></style></title><script>document.title='{MARK}'</script>"
            f"<img src={at}/image onerror=\"document.title='{MARK}'\">"
            f"<link rel=stylesheet href={at}/style><iframe src={at}/frame></iframe>"
            f"<svg onload=\"document.title='{MARK}'\"></svg><h1 id={MARK}>x</h1>"
            f"<meta http-equiv=refresh content='0;url={at}/refresh'>"
        )


def browse(tmp_path: Path, page: Path, *words: str) -> str:
    """Show a page in a browser of its own; returns what it prints."""
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    size = f"--window-size={WIDTH},{HEIGHT}"
    done = subprocess.run(
        [BROWSER, *flags, *quiet, profile, size, *words, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return done.stdout


def title_of(dom: str) -> str:
    found = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


def assert_inert(dom: str, page: Path) -> None:
    """What a browser made of a page with a beacon's HTML holds it as text alone."""
    assert title_of(dom) == title_of(page.read_text("utf-8")) != MARK
    assert f'<h1 id="{MARK}"' not in dom
    assert f"&lt;h1 id={MARK}&gt;" in dom
    assert "<script" not in dom
    assert "<iframe" not in dom


def picture_of(tmp_path: Path, page: Path, scheme: int) -> Image.Image:
    """Return what a page looks like, which is not blank and runs over no edge.

    Args:
        scheme: of colours; 0: dark, 1: light.
    """
    picture = tmp_path / "shot.png"
    chosen = f"--blink-settings=preferredColorScheme={scheme}"
    browse(tmp_path, page, chosen, f"--screenshot={picture}")
    with Image.open(picture) as image:
        shown = image.convert("RGB")
    assert shown.size == (WIDTH, HEIGHT)
    colours = shown.getcolors(WIDTH * HEIGHT)
    assert colours is not None
    assert len(colours) > 200
    assert max(num for num, _ in colours) < 0.97 * WIDTH * HEIGHT
    edge = shown.crop((WIDTH - 4, 0, WIDTH, HEIGHT)).getcolors()
    assert edge is not None
    assert len(edge) == 1  # nothing runs over the right edge
    return shown
