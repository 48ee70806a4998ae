"""The documents as a site: it builds, its links lead somewhere, it loads nothing of elsewhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import check_site
from tests.contracts.source_tree import ROOT
from tests.docs.blocks import PAGES, blocks_of, inline_commands

START = "<!doctype html><html><body>"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_is_whole_and_loads_nothing_from_elsewhere(site: Path) -> None:
    assert check_site.problems_of(site) == []


def test_every_page_is_there_and_is_found_by_the_search(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    pages = {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")}

    assert pages <= {path.name for path in site.glob("*.html")}
    assert pages <= found
    decisions = (ROOT / "docs" / "decisions").glob("[0-9]*.md")
    listed = (site / "decisions" / "index.html").read_text("utf-8")
    assert [each.stem for each in decisions if f"{each.stem}.html" not in listed] == []


def test_no_page_stands_twice_in_the_navigation() -> None:
    _, _, navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")
    pages = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)

    assert len(pages) > 20
    assert sorted(pages) == sorted(set(pages))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<a href="none.html">x</a>', "none.html"),
        ('<a href="#none">x</a>', "#none"),
        ('<a href="other.html#none">x</a>', "other.html#none"),
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example"),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', "loads //fonts.example"),
        ('<p style="background: url(https://cdn.example/x.png)">', "loads https://cdn.example"),
        ('<img src="none.png">', "none.png"),
    ],
)
def test_what_is_wrong_with_a_site_is_found(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "index.html").write_text(f"{START}{body}", "utf-8")
    (tmp_path / "other.html").write_text(f'{START}<h2 id="here">x</h2>', "utf-8")

    [problem] = check_site.problems_of(tmp_path)
    assert said in problem


def test_what_is_right_is_let_through(tmp_path: Path) -> None:
    body = '<a href="https://example.org/"></a><a href="other.html#here"></a><a id="a" href="#a">'
    (tmp_path / "index.html").write_text(f"{START}{body}", "utf-8")
    (tmp_path / "other.html").write_text(f'{START}<h2 id="here">x</h2>', "utf-8")
    (tmp_path / "style.css").write_text("a { background: url(data:image/png;base64,AA) }", "utf-8")

    assert check_site.problems_of(tmp_path) == []
    assert check_site.problems_of(tmp_path / "empty") != []


def test_anchors_of_the_readme_are_headings_of_the_pages(site: Path) -> None:
    links = re.findall(r"\]\(docs/([a-z-]+)\.md#([^)]+)\)", (ROOT / "README.md").read_text("utf-8"))

    assert links
    for page, anchor in links:
        assert f'id="{anchor}"' in (site / f"{page}.html").read_text("utf-8"), (page, anchor)


def test_the_count_of_commands_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    total = done.stdout.splitlines()[-1]
    numbers = [int(number) for number in re.findall(r"\d+", total)]
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert sum(numbers) == sum(len(block.commands) or 1 for block in blocks)
    assert all(numbers)
    assert any(inline_commands(page) for page in PAGES)
