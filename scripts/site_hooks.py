"""What the documents' site needs beside mkdocs: files of the root as pages, a list of decisions.

mkdocs calls these functions by their names (`hooks:` in mkdocs.yml). What does *not* live here: the
check of the built pages (`scripts/check_site.py`).
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parent.parent
_ROOT_PAGES = {"SECURITY.md": "security-policy.md", "CHANGELOG.md": "changes.md"}
_DECISIONS = "decisions/index.md"
_ELSEWHERE = re.compile(r"\[(?P<words>[^\]]+)\]\((?P<link>\.\./(?!\.\.)[^)#\s]*)\)")
_LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's documents, and the list of decisions."""
    for name, page in _ROOT_PAGES.items():
        text = (_ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_from_root, text)))
    files.append(File.generated(config, _DECISIONS, content=_list_of_decisions()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to the root's documents, and to the folder of decisions, lead to their pages.

    Other files of the repository are no part of the site: their links become words.
    """
    _ = page, config, files
    for name, target in _ROOT_PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({target}")
    markdown = markdown.replace("](decisions)", f"]({_DECISIONS})")
    return _ELSEWHERE.sub(_words_of_a_file, markdown)


def _words_of_a_file(found: re.Match[str]) -> str:
    is_file = (_ROOT / "docs" / found["link"]).exists()
    return found["words"] if is_file else found[0]


def _from_root(found: re.Match[str]) -> str:
    link = found[0]
    return _ROOT_PAGES.get(link, link.removeprefix("docs/"))


def _list_of_decisions() -> str:
    lines = ["# Decisions", ""]
    for file in sorted((_ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}]({file.name})")
    return "\n".join(lines) + "\n"
