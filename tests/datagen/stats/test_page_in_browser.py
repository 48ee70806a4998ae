"""The page in a real browser: nothing in it runs, nothing leaves, and something is to be seen.

`make test` installs the browser where it may (the Makefile's DEBIAN_PACKAGES).
"""

from pathlib import Path

import pytest

from tests.datagen.stats.conversations import item, run, write_images, write_items
from tests.support.browser import Beacon, assert_inert, browse, needs_browser, picture_of

pytestmark = needs_browser


def made_page(tmp_path: Path, text: str) -> Path:
    records = [
        item(number, f"<image>\n{text}", text, domain=domain)
        for number, domain in enumerate(("mri", "ct_scan", "gross"))
    ]
    records[1]["id"] = text
    records[2]["image"] = text
    images = write_images(tmp_path / "images", 2)
    file = write_items(tmp_path / "x.json", records)
    assert run(file, "--out", tmp_path / "out", "--images", images) == 0
    return tmp_path / "out" / "stats.html"


def test_in_the_page_nothing_runs_and_nothing_leaves(tmp_path: Path) -> None:
    with Beacon() as beacon:
        page = made_page(tmp_path, beacon.evil)
        dom = browse(tmp_path, page, "--dump-dom")
        assert beacon.asked == []
    assert_inert(dom, page)


@pytest.mark.parametrize("scheme", [0, 1])  # dark, light
def test_the_page_is_not_blank(scheme: int, tmp_path: Path) -> None:
    page = made_page(tmp_path, "Describe the left lung. " * 20)
    picture_of(tmp_path, page, scheme)
