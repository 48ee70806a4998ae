"""Reports in a real browser: nothing in them runs, nothing leaves, and something is to be seen.

`make test` installs the browser where it may (the Makefile's DEBIAN_PACKAGES).
"""

import json
from pathlib import Path

import pytest

from tests.end_to_end.launched import galen
from tests.evaluation.chat_files import chat_record, is_for_judge, write_chat
from tests.evaluation.vqa_files import question, write_set
from tests.support.browser import (
    MARK,
    Beacon,
    assert_inert,
    browse,
    needs_browser,
    picture_of,
    title_of,
)
from tests.support.stub_endpoint import StubEndpoint, completion

pytestmark = needs_browser


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


@pytest.mark.parametrize("make", [vqa_report, judged_report])
def test_in_a_report_nothing_runs_and_nothing_leaves(make, tmp_path: Path):
    with Beacon() as beacon:
        page = make(tmp_path, beacon.evil)
        dom = browse(tmp_path, page, "--dump-dom")
        assert beacon.asked == []
    assert_inert(dom, page)


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
    shown = picture_of(tmp_path, page, scheme)
    assert (shown.convert("L").getpixel((2, 2)) < 60) == (scheme == 0)  # pyright: ignore[reportOperatorIssue, reportOptionalOperand] - a grey value
