"""The version, from its one place in pyproject.toml, and what the changelog says of it.

    python scripts/release_version.py                   prints the version
    python scripts/release_version.py --tag v1.2.3      fails where tag, citation, changelog differ
    python scripts/release_version.py --notes           prints the changelog's part

Only the standard library.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_UNRELEASED = "Unreleased"


def version_of(root: Path) -> str:
    """Return the version that everything else is made of."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def notes_of(root: Path, name: str) -> str:
    """Return what the changelog says under `## [name]`; "" where it says nothing."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(
        rf"^## \[{re.escape(name)}\][^\n]*\n(.*?)(?=^## \[|\Z)", text, re.MULTILINE | re.DOTALL
    )
    return found[1].strip() if found else ""


def problems_of(root: Path, tag: str) -> list[str]:
    """Return a line for each thing that a release of this tag would get wrong."""
    version = version_of(root)
    found: list[str] = []
    if tag != f"v{version}":
        found.append(f"the tag {tag} is not v{version} of pyproject.toml")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    if f"\nversion: {version}\n" not in citation:
        found.append(f"CITATION.cff does not say version: {version}")
    if not notes_of(root, version):
        found.append(f"CHANGELOG.md has no part ## [{version}]")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Print the version, or check a release.")
    parser.add_argument("--tag", help="of the release: v and the version")
    parser.add_argument("--notes", action="store_true", help="print the changelog's part")
    options = parser.parse_args(arguments)
    if options.tag:
        found = problems_of(ROOT, options.tag)
        for line in found:
            print(line, file=sys.stderr)
        return 1 if found else 0
    version = version_of(ROOT)
    if options.notes:
        print(notes_of(ROOT, version) or notes_of(ROOT, _UNRELEASED))
    else:
        print(version)
    return 0


if __name__ == "__main__":
    sys.exit(main())
