from pathlib import Path

from benchmarks.ours import REPOSITORY
from benchmarks.page_sections import keep_sections, replace_section


def test_a_section_is_replaced_in_its_place_and_kept_behind_a_new_text(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    replace_section(page, "engines-100m-cpu", "old")
    replace_section(page, "other", "stays")

    replace_section(page, "engines-100m-cpu", "new")

    sections = (
        "<!-- begin engines-100m-cpu -->\nnew\n<!-- end engines-100m-cpu -->\n",
        "<!-- begin other -->\nstays\n<!-- end other -->\n",
    )
    assert page.read_text() == "\n".join(["# Page\n", *sections])
    assert keep_sections(page, "# Anew") == "\n".join(["# Anew\n", *sections])


def test_the_page_of_this_repository_has_nothing_that_a_run_would_lose() -> None:
    page = REPOSITORY / "docs" / "benchmarks.md"

    kept = keep_sections(page, "")

    own = page.read_text("utf-8").index("<!-- begin")
    assert headings(kept) == headings(page.read_text("utf-8")[own:])


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]
