"""The bill of materials of this environment: each pinned package with version and licence.

    .venv/bin/python scripts/bill_of_materials.py >sbom.cdx.json

In CycloneDX's JSON. What does *not* live here: which licences are let in
(`tests/contracts/test_licences.py`), and the images' own bills, made when they are built.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from release_version import ROOT, version_of

_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==", re.MULTILINE)
_CLASSIFIER = "License :: "
_LONGEST_NAME = 60  # some put the whole text into the field
# Releases whose metadata say nothing; from the licence file inside each.
_UNSAID: Mapping[str, str] = {
    "atheris": "Apache-2.0",
    "axe-playwright-python": "MIT",
    "promql-parser": "MIT",
    "setuptools": "MIT",
}


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned_packages(root: Path = ROOT) -> Iterator[Distribution]:
    """Return what is installed here and pinned in constraints/cpu.txt, by name."""
    pins = {
        canonical(n) for n in _PIN.findall((root / "constraints" / "cpu.txt").read_text("utf-8"))
    }
    found = {canonical(each.metadata["Name"]): each for each in distributions()}
    return (found[name] for name in sorted(found) if name in pins)


def licence_of(package: Distribution) -> str:
    """Return what a package says of its licence; "" where it says nothing."""
    said = package.metadata
    if expression := said.get_all("License-Expression"):
        return str(expression[0])
    classifiers = [str(line) for line in said.get_all("Classifier") or []]
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith(_CLASSIFIER)]
    if names := [name for name in names if name not in {"OSI Approved", "DFSG approved"}]:
        return " OR ".join(names)
    name = str((said.get_all("License") or [""])[0]).strip()
    if name and "\n" not in name and len(name) <= _LONGEST_NAME:
        return name
    return _UNSAID.get(canonical(said["Name"]), "")


def bill() -> dict[str, Any]:
    """Return the bill; the same for the same environment: it has no date and no number."""
    galen = _component("application", "galen", version_of(ROOT), "Apache-2.0")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": galen},
        "components": [
            _component("library", canonical(p.metadata["Name"]), p.version, licence_of(p))
            for p in pinned_packages()
        ],
    }


def _component(kind: str, name: str, version: str, licence: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    return {
        "type": kind,
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": [{"license": {"name": licence or "unknown"}}],
    }


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=1)
