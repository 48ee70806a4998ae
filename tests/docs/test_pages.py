"""Pages say what is: each error code has its advice, messages and outputs are real."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from services.launcher.settings_check import SERVICES
from services.protocol.errors import ErrorCode
from tests.contracts.source_tree import ROOT
from tests.docs.blocks import PAGES, words_of
from tests.end_to_end.launched import galen

VARIABLE = r"GALEN_[A-Z0-9]+(?:_[A-Z0-9]+)*"
OF_THE_PAGES = {"GALEN_PG", "GALEN_PG_NEW"}
"""Of a shell that follows docs/recovery.md."""
SOURCES = ("services", "modeling", "training", "evaluation", "datagen", "scripts")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_every_error_code_has_a_cause_and_an_advice() -> None:
    table, _, _ = page("troubleshooting.md").partition("## What commands say")
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]{5,}) \| ([^|]{5,}) \|$", table, re.MULTILINE)
    told = [code for codes, _, _ in rows for code in re.findall(r"`([a-z_]+)`", codes)]

    assert sorted(told) == sorted(code.value for code in ErrorCode)


@cache
def texts() -> str:
    """Return every text in our sources, one after another, as it is printed."""
    files = [path for name in SOURCES for path in (ROOT / name).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_bytes()))]
    found = [node.value for node in nodes if isinstance(node, ast.Constant)]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return "\n".join([text for text in found if isinstance(text, str)] + [makefile])


def known_variables() -> set[str]:
    names = {
        f"{settings.model_config.get('env_prefix', '')}{name}".upper()
        for settings in SERVICES
        for name in settings.model_fields
    }
    # beside the services': of the command, and of the containers
    sources = [ROOT / "services" / "settings_guard.py", ROOT / "docker-compose.yml"]
    sources += [*(ROOT / "deploy").rglob("*.*"), ROOT / ".env.example"]
    ours = [path for path in sources if path.is_file() and path.suffix not in {".whl", ".pyc"}]
    found = [path.read_text("utf-8") for path in ours]
    return names | set(re.findall(VARIABLE, "".join(found))) | OF_THE_PAGES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_variables_that_a_page_names_exist(path: Path) -> None:
    known = known_variables()
    named = set(re.findall(VARIABLE, path.read_text(encoding="utf-8")))

    wrong = [each for each in named if each not in known]
    assert [each for each in wrong if not any(name.startswith(f"{each}_") for name in known)] == []


def messages() -> list[str]:
    _, _, rest = page("troubleshooting.md").partition("## What commands say")
    table, _, _ = rest.partition("## What is slow or odd")
    return re.findall(r"^\| `([^|]+)` \| [^|]{5,} \| [^|]{5,} \|$", table, re.MULTILINE)


def test_there_are_messages() -> None:
    assert len(messages()) >= 25


@pytest.mark.parametrize("message", messages())
def test_a_message_is_one_that_commands_print(message: str) -> None:
    parts = [part for part in message.split("…") if part.strip()]

    assert [part for part in parts if part.strip() not in texts()] == []


def test_outputs_of_the_planner_are_those_of_this_planner() -> None:
    fences = re.findall(r"```(sh|text)\n(.*?)```", page("install.md"), re.DOTALL)
    printed = ""
    checked = 0
    for language, body in fences:
        if language == "text":
            rows = [line.rstrip() for line in body.splitlines()]
            assert [row for row in rows if row not in printed] == []
            checked += len(rows)
            continue
        commands = [words[1:] for line in body.splitlines() for words in words_of(line)]
        outputs = [galen(*words).stdout for words in commands]
        lines = [line.rstrip() for output in outputs for line in output.splitlines()]
        printed = "\n".join(lines)

    assert checked >= 10


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_nobody_is_told_to_install_what_others_may_publish_under_our_name(path: Path) -> None:
    """Nothing is on the package index yet; a clone is (`pip install '.[ui]'`)."""
    text = path.read_text(encoding="utf-8")

    assert re.findall(r"pip install [^`|\n]*?(?<![/\w.-])galen(?![\w-])", text) == []
