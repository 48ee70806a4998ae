"""What is released: the wheel holds all that runs, installs, and has the one version."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import release_version
from tests.contracts.source_tree import ROOT
from tests.deploy.compose_file import DOCKERFILES

PACKAGES = ("services", "modeling", "training", "datagen", "evaluation")
VERSION = release_version.version_of(ROOT)


def tracked() -> list[str]:
    """Return the repository's files, those that are not committed yet included."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and source archive, made from a copy: a build leaves files beside the sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in tracked():
        if name.startswith((*PACKAGES, "pyproject.toml", "README.md", "LICENSE", "NOTICE")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    out = copy / "dist"
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_the_wheel_holds_every_file_of_the_packages(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    ours = {name for name in tracked() if name.split("/")[0] in PACKAGES}

    assert wheel.name == f"galen-{VERSION}-py3-none-any.whl"
    assert ours - names == set()
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside - ours == set()
    for text in ("LICENSE", "NOTICE"):
        assert f"galen-{VERSION}.dist-info/licenses/{text}" in names


def test_the_source_archive_builds_the_same(dist: Path) -> None:
    # `build` makes the wheel from the archive: what is not in the archive is not in the wheel
    [archive] = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}

    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "services/cli.py"} <= names


def test_the_wheel_installs_and_says_its_version(dist: Path, tmp_path: Path) -> None:
    [wheel] = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path), str(wheel)], timeout=60, check=True)
    # what it needs is taken from this environment, whose own galen stands behind
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}  # noqa: TID251 - a process's own

    def run(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-P", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip

    where = run("-c", "import services.cli, modeling; print(services.cli.__file__)")
    assert where.startswith(str(tmp_path))
    assert run(str(tmp_path / "bin" / "galen"), "--version").startswith(f"galen {VERSION}, ")
    plan = run("-m", "services.cli", "plan", "llava-med-v1.5-7b", "--gpus", "1xH200")
    assert "fits" in plan


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_wheel_installs_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    [wheel] = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], timeout=120, check=True)
    programs = tmp_path / "venv" / "bin"
    pins = str(ROOT / "constraints" / "cpu.txt")
    install = [str(programs / "pip"), "install", "--quiet", "-c", pins, str(wheel)]
    subprocess.run(install, timeout=700, check=True)

    for words in (["--version"], ["up", "--engine", "fake", "--once", "--no-ui", "--port", "0"]):
        done = subprocess.run(
            [str(programs / "galen"), *words],
            cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------- version


def test_a_release_of_another_version_or_without_notes_is_refused(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    unready = release_version.problems_of(tmp_path, f"v{VERSION}")
    changes = tmp_path / "CHANGELOG.md"
    changes.write_text(changes.read_text("utf-8").replace("[Unreleased]", f"[{VERSION}] - today"))

    assert unready == [f"CHANGELOG.md has no part ## [{VERSION}]"]
    assert release_version.problems_of(tmp_path, f"v{VERSION}") == []
    [problem] = release_version.problems_of(tmp_path, "v9.9.9")
    assert "v9.9.9" in problem
    citation = tmp_path / "CITATION.cff"
    citation.write_text(citation.read_text("utf-8").replace(f"version: {VERSION}", "version: 9"))
    assert "CITATION.cff" in release_version.problems_of(tmp_path, f"v{VERSION}")[0]


def test_the_notes_are_the_changelogs_own_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert release_version.main(["--notes"]) == 0

    notes = capsys.readouterr().out
    assert "### Added" in notes
    assert "\n## [" not in notes


# -------------------------------------------------------------------------------------- workflows

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_pinned_and_may_do_little(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text("utf-8"))
    jobs = workflow["jobs"].values()
    steps = [step for job in jobs for step in job["steps"]]

    assert workflow["permissions"] == {}
    assert all("permissions" in job and "timeout-minutes" in job for job in jobs)
    actions = [step["uses"] for step in steps if "uses" in step]
    assert actions
    assert [each for each in actions if len(each.partition("@")[2]) != 40] == []
    secret = [step for step in steps if "secrets." in str(step)]
    assert all(set(re.findall(r"secrets\.(\w+)", str(step))) == {"GITHUB_TOKEN"} for step in secret)
    kept = [s for s in steps if "checkout@" in s.get("uses", "")]
    assert all(step["with"] == {"persist-credentials": False} for step in kept)


def test_workflows_call_what_there_is() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    text = "".join(path.read_text("utf-8") for path in WORKFLOWS)

    assert "./.ci/run" in text
    for target in ("make dist", "make audit", "make compose-test"):
        assert target in text
        assert f"\n{target.partition(' ')[2]}:" in makefile
    assert "scripts/release_version.py --tag" in text


def release_jobs() -> Any:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8"))[
        "jobs"
    ]


def built(matrix: Any) -> dict[str, set[str]]:
    """Return the machines that each image is for, from a matrix with `arch` or `archs`."""
    each = {"arch": lambda words: words, "archs": lambda words: words[0].split()}
    [name] = set(each) & set(matrix)
    found = {image: set(each[name](matrix[name])) for image in matrix["image"]}
    return found | {more["image"]: set(more[name].split()) for more in matrix["include"]}


def test_every_image_but_that_for_cards_is_released() -> None:
    images = built(release_jobs()["images"]["strategy"]["matrix"])
    files = {f.name.removesuffix(".Dockerfile"): f.read_text("utf-8") for f in DOCKERFILES}

    assert set(images) == set(files) - {"worker-cuda"}
    assert all(
        f"ARG {name}" in files[image] for image in images for name in ("VERSION", "REVISION")
    )
    # what needs torch is for the machines that its CPU build was seen for
    for image, machines in images.items():
        needs_torch = "ARG TORCH=" in files[image]
        assert machines == ({"amd64"} if needs_torch else {"amd64", "arm64"}), image
    assert built(release_jobs()["manifests"]["strategy"]["matrix"]) == images


def test_nothing_is_pushed_or_published_before_it_was_checked_and_let_through() -> None:
    jobs = release_jobs()
    waits = {name: set(job.get("needs", [])) for name, job in jobs.items()}

    assert waits == {
        "packages": set(),
        "images": {"packages"},
        "manifests": {"images"},
        "publish": {"packages", "manifests"},
        "index": {"publish"},
    }
    writing = {name for name, job in jobs.items() if "packages" in job["permissions"]}
    writing |= {name for name, job in jobs.items() if "contents: write" in yaml.dump(job)}
    gated = {name for name, job in jobs.items() if "environment" in job}
    # a job that is not gated itself waits for one that is
    assert all(name in gated or waits[name] & gated for name in writing | {"index"})
