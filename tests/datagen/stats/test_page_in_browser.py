"""The page in a real browser: nothing in it runs, nothing leaves, and something is to be seen.

`make test` installs the browser where it may (the Makefile's DEBIAN_PACKAGES).
"""

from pathlib import Path

import pytest
from PIL import Image

from tests.datagen.stats.conversations import item, run, write_images, write_items
from tests.evaluation.test_report_in_browser import (
    BROWSER,
    HEIGHT,
    MARK,
    WIDTH,
    Beacon,
    browse,
    title_of,
)

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium; `make test` installs it"),
    pytest.mark.timeout(240),
]


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
    assert title_of(dom) == title_of(page.read_text("utf-8")) != MARK
    assert f'<h1 id="{MARK}"' not in dom
    assert f"&lt;h1 id={MARK}&gt;" in dom
    assert "<script" not in dom
    assert "<iframe" not in dom


@pytest.mark.parametrize("scheme", [0, 1])  # dark, light
def test_the_page_is_not_blank(scheme: int, tmp_path: Path) -> None:
    page = made_page(tmp_path, "Describe the left lung. " * 20)
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
