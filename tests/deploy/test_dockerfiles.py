"""Dockerfiles: rules that need no engine. What is in the images: tests/compose/test_images.py."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.compose_file import DOCKERFILES, instructions, last_stage
from tests.support.program import ROOT

NAMES = {file.name.removesuffix(".Dockerfile"): file for file in DOCKERFILES}
IMPORTED = {
    "gateway": "services.gateway.main, services.gateway.media.decode_process, services.cli, "
    "services.launcher.key_commands, services.launcher.audit_command, "
    "services.launcher.admin_options, services.launcher.admin_client, services.health_check, "
    "services.tracing.otel",
    "ui": "services.ui.main, services.health_check, services.ui.benchmark_files, "
    "services.ui.chat_tab as c; c.example_cards()",
    "worker": "services.worker.main, services.worker.engine_process, services.health_check, "
    "services.worker.engines.fake_engine, services.tracing.otel",
    "worker-cuda": "services.worker.main, services.worker.engine_process, services.health_check, "
    "services.tracing.otel",
    "evaluation": "evaluation.jobs.main, evaluation.jobs.consumer, evaluation.jobs.health",
    "training": "services.cli, training.command, datagen.postprocess, evaluation.command",
}
"""What each image runs, as `import` takes it."""
BUILDKIT_ONLY = re.compile(
    r"^(RUN|COPY|ADD)\s+--(mount|link|parents|exclude|network|security)|<<", re.MULTILINE
)
PINNED = re.compile(r"[\w./-]+:[\w.-]*\d[\w.-]*$")


def test_every_image_of_the_platform_has_its_dockerfile() -> None:
    assert set(NAMES) == {*IMPORTED, "proxy"}


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "hadolint is missing: make setup"
    config = str(ROOT / "deploy" / "docker" / ".hadolint.yaml")
    done = subprocess.run(
        [hadolint, "--config", config, *map(str, DOCKERFILES)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck is not None, "shellcheck is missing: make setup"
    scripts = sorted(map(str, (ROOT / "deploy").glob("[!s]*/**/*.sh")))
    done = subprocess.run(
        [shellcheck, "--severity", "warning", *scripts],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert len(scripts) >= 5
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_the_legacy_builder_understands_it(file: Path) -> None:
    text = file.read_text(encoding="utf-8")

    assert not BUILDKIT_ONLY.search(text)
    assert not text.startswith("# syntax=")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_base_images_are_pinned_and_the_user_is_not_root(file: Path) -> None:
    bases = [
        each.words.partition("=")[2]
        for each in instructions(file)
        if each.name == "ARG" and "IMAGE=" in each.words
    ]
    users = [each.words for each in last_stage(file) if each.name == "USER"]

    assert bases
    assert all(PINNED.match(base) for base in bases), bases
    assert users == ["10001:10001"]


@pytest.mark.parametrize("name", sorted(IMPORTED))
def test_a_service_has_a_health_check(name: str) -> None:
    has_check = any(each.name == "HEALTHCHECK" for each in last_stage(NAMES[name]))

    assert has_check == (name != "training")


@pytest.mark.parametrize("name", sorted(IMPORTED))
def test_what_is_copied_is_all_that_it_imports(name: str, tmp_path: Path) -> None:
    app = tmp_path / "app"
    for each in last_stage(NAMES[name]):
        if each.name == "COPY" and not each.words.startswith("--"):
            _copy(*each.words.split(), app=app)

    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import {IMPORTED[name]}"],
        cwd=tmp_path, env={"PYTHONPATH": str(app), "PATH": "/usr/bin"}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]


def _copy(*words: str, app: Path) -> None:
    *sources, target = words
    for pattern in sources:
        found = sorted(ROOT.glob(pattern))
        assert found, f"COPY {pattern}: there is no such file"
        for path in found:
            goal = app / target / path.name if target.endswith("/") else app / target
            if path.is_dir():
                shutil.copytree(path, goal, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, goal)
