"""Reports in a real browser: nothing in them runs, nothing leaves, and something is to be seen.

`make test` installs the browser where it may (the Makefile's DEBIAN_PACKAGES).
"""

import html
import json
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tests.end_to_end.launched import galen
from tests.evaluation.chat_files import chat_record, is_for_judge, write_chat
from tests.evaluation.vqa_files import question, write_set
from tests.support.stub_endpoint import StubEndpoint, completion

BROWSER = shutil.which("chromium")
WIDTH, HEIGHT = 1200, 2400
MARK = "it-ran"

pytestmark = [
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


def vqa_report(tmp_path: Path, evil: str) -> Path:
    data = write_set(tmp_path / "data")
    records = [question(evil, evil, evil, image="0.png")]
    (data / "test.json").write_text(json.dumps(records), "utf-8")
    with StubEndpoint(lambda body, number: completion(evil), models=(evil,)) as stub:
        words = ["--data", str(data), "--url", stub.url, "--model", evil]
        done = galen("evaluate", "vqa-rad", *words, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    return tmp_path / "run" / "report.html"


def judged_report(tmp_path: Path, evil: str) -> Path:
    record = chat_record(0, "mri", text=evil, gpt4_answer=evil, fig_caption=evil)
    questions = write_chat(tmp_path / "chat", [record | {"question_id": evil}, chat_record(1)])

    def says(body, number):
        return completion(f"8 7\n{evil}" if is_for_judge(body) else evil)

    with StubEndpoint(says) as stub:
        words = ["--questions", str(questions), "--out", str(tmp_path / "run"), "--url", stub.url]
        done = galen("evaluate", "chat", *words, "--swap")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run" / "report.html"


def title_of(dom: str) -> str:
    found = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


@pytest.mark.parametrize("make", [vqa_report, judged_report])
def test_in_a_report_nothing_runs_and_nothing_leaves(make, tmp_path: Path):
    with Beacon() as beacon:
        page = make(tmp_path, beacon.evil)
        dom = browse(tmp_path, page, "--dump-dom")
        assert beacon.asked == []
    assert title_of(dom) == title_of(page.read_text("utf-8")) != MARK
    assert f'<h1 id="{MARK}"' not in dom
    assert f"&lt;h1 id={MARK}&gt;" in dom
    assert "<script" not in dom
    assert "<iframe" not in dom


def test_this_browser_would_run_and_fetch_it(tmp_path: Path):
    """Without which the test above shows nothing."""
    with Beacon() as beacon:
        page = tmp_path / "page.html"
        stays = beacon.evil.partition("<meta")[0]
        page.write_text(f"<title>x</title><p>{stays}", "utf-8")
        dom = browse(tmp_path, page, "--dump-dom")
        assert {"/image", "/style", "/frame"} <= set(beacon.asked)
    assert title_of(dom) == MARK
    assert f'<h1 id="{MARK}"' in dom


@pytest.mark.parametrize("make", [vqa_report, judged_report])
@pytest.mark.parametrize("scheme", [0, 1])  # dark, light
def test_a_report_is_not_blank(make, scheme: int, tmp_path: Path):
    page = make(tmp_path, "The left lung. " * 20)
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
    assert (shown.convert("L").getpixel((2, 2)) < 60) == (scheme == 0)  # pyright: ignore[reportOperatorIssue, reportOptionalOperand] - a grey value
    edge = shown.crop((WIDTH - 4, 0, WIDTH, HEIGHT)).getcolors()
    assert edge is not None
    assert len(edge) == 1  # nothing runs over the right edge
