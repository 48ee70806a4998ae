from pathlib import Path

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
