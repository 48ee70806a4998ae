"""Every command of the documents is run, or is known to fit and has a test or a reason."""

import ast
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.contracts.named_tests import TESTS, is_there, text_of
from tests.docs.blocks import (
    PAGES,
    REASONS,
    Block,
    Way,
    blocks_of,
    indented_commands,
    inline_commands,
    words_of,
)
from tests.docs.command_lines import mistake_in
from tests.docs.place import Place
from tests.end_to_end.launched import LaunchedUp

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [page for page in PAGES if any(block.way is Way.RUN for block in blocks_of(page))]
MARK = "<!-- commands: run -->\n"


def name_of(page: Path) -> str:
    return page.name


def file_of(test: str) -> str:
    """Return the text of the module of a test; its helpers call the commands."""
    return (TESTS / test.partition("::")[0]).read_text(encoding="utf-8")


def leaf_of(words: Sequence[str]) -> str:
    """Return the sub-command that does the work: `stats` of `galen datagen stats`."""
    return words[2] if words[1] in {"data", "datagen"} else words[1]


def mistakes(block: Block) -> list[str]:
    """Return what is wrong with the commands and the mark of a block."""
    commands = [words for command in block.commands for words in words_of(command)]
    found = [each for words in commands if (each := mistake_in(words))]
    match block.way:
        case None:
            found.append("no mark says how its commands are known to be right")
        case Way.NOT_RUN if block.reason not in REASONS:
            found.append(f"{block.reason!r} is no reason of tests/docs/blocks.py")
        case Way.TESTED:
            found += [f"there is no test {test}" for test in block.tests if not is_there(test)]
        case _:
            pass
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_fits_the_commands_that_there_are_and_is_marked(page: Path) -> None:
    found = {block.place: mistakes(block) for block in blocks_of(page)}

    assert {place: wrong for place, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_fit_those_that_there_are(page: Path) -> None:
    parts = [words for command in inline_commands(page) for words in words_of(command)]

    assert [each for words in parts if (each := mistake_in(words, is_whole=False))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_stand_in_fences_where_they_can_be_marked(page: Path) -> None:
    assert indented_commands(page) == []
    assert [block.place for block in blocks_of(page) if not block.language] == []


def test_a_test_that_is_named_says_the_command() -> None:
    missing: list[str] = []
    for block in BLOCKS:
        if block.way is Way.TESTED:
            text = "".join(file_of(test) for test in block.tests)
            parts = [words for command in block.commands for words in words_of(command)]
            names = {leaf_of(words) for words in parts if words[0] == "galen"}
            missing += [f"{block.place}: {name}" for name in names if name not in text]
            told = "".join(text_of(test) for test in block.tests)
            targets = {f"make {t}" for w in parts if w[0] == "make" for t in w[1:] if "=" not in t}
            missing += [f"{block.place}: {each}" for each in targets if each not in told]

    assert missing == []


def run_by(test: str) -> set[tuple[str, str]]:
    """Return the page and the beginning of each block that a test runs as it stands."""
    calls = [node for node in ast.walk(ast.parse(text_of(test))) if isinstance(node, ast.Call)]
    ours = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "run_documented"]
    words = [[a.value for a in c.args if isinstance(a, ast.Constant)] for c in ours]
    return {(str(page), str(start)) for page, start in words}


def test_a_test_that_a_block_for_docker_names_runs_the_very_block() -> None:
    """A mark that names a test of something else is found: the test names page and block."""
    blocks = [b for b in BLOCKS if b.way is Way.TESTED and b.is_of_compose]
    unrun = [
        f"{block.place}: {test}"
        for block in blocks
        for test in block.tests
        if not any(
            Path(block.page).name == page and block.text.startswith(start)
            for page, start in run_by(test)
        )
    ]

    assert len(blocks) >= 9
    assert unrun == []
    assert run_by("compose/test_work.py::test_setup_makes_nothing_twice") == set()


def test_what_the_tests_run_of_the_documents_is_marked_as_theirs() -> None:
    marked = {(test, Path(b.page).name, b.text) for b in BLOCKS for test in b.tests}
    files = (TESTS / "compose").glob("test_*.py")
    functions = [
        f"compose/{file.name}::{node.name}"
        for file in files
        for node in ast.parse(file.read_bytes()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
    unmarked = [
        (test, page, start)
        for test in functions
        for page, start in run_by(test)
        if not any(t == test and p == page and x.startswith(start) for t, p, x in marked)
    ]

    assert unmarked == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (f"{MARK}```sh\ngalen up --modle x\n```\n", "--modle"),
        (f"{MARK}```sh\ngalen upp\n```\n", "upp"),
        (f"{MARK}```sh\ngalen up --engine turbo\n```\n", "engine"),
        (f"{MARK}```sh\ngalen plan --gpus 2x24GB\n```\n", "model"),
        (f"{MARK}```sh\nA=b galen data phantoms \\\n  --outt x\n```\n", "--outt"),
        (f"{MARK}```sh\nmake coffee\n```\n", "coffee"),
        (f'{MARK}```sh\nmake test ARGS="-q tests/none.py"\n```\n', "tests/none.py"),
        (f"{MARK}```sh\ngalen worker --slot 3\n```\n", "--slot"),
        (f"{MARK}```sh\ndocker compose up --detached\n```\n", "--detached"),
        (f"{MARK}```sh\ndocker compose upp\n```\n", "upp"),
        (f"{MARK}```sh\nA=b docker compose up --detach wroker\n```\n", "wroker"),
        (f"{MARK}```sh\ndocker compose up --scale wroker=2\n```\n", "wroker"),
        (f"{MARK}```sh\ndocker compose exec -T gateway galen kees list\n```\n", "kees"),
        (f"{MARK}```sh\ndocker compose run --rm training trian\n```\n", "trian"),
        ("```sh\ngalen up\n```\n", "no mark"),
        ("<!-- commands: not run, I was lazy -->\n```sh\ngalen up\n```\n", "lazy"),
        ("<!-- commands: tested by test_cli.py::test_no -->\n```sh\ngalen up\n```\n", "test_no"),
    ],
)
def test_a_seeded_mistake_is_found(tmp_path: Path, text: str, word: str) -> None:
    [block] = blocks_of(tmp_path / "page.md", f"# Page\n\n{text}")

    [mistake] = mistakes(block)
    assert word in mistake


# --------------------------------------------------------------------------------- run as they are


@pytest.fixture(scope="module")
def platform() -> Iterator[tuple[str, Path]]:
    """A platform with the demo's model, as `galen up` makes it: its address and its folder."""
    temporary = Path(tempfile.mkdtemp(prefix="docs-"))
    with LaunchedUp(temporary, "--port", "0", "--no-ask") as up:
        yield up.url(), temporary
        up.end(signal.SIGTERM)
    shutil.rmtree(temporary)


@pytest.mark.e2e
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_commands_run_as_they_stand(page: Path, platform: tuple[str, Path], tmp_path: Path) -> None:
    place = Place(tmp_path, *platform)

    for block in blocks_of(page):
        if block.way is Way.RUN:
            done = place.run(block)
            assert done.returncode == 0, f"{block.place}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.e2e
def test_a_command_that_fails_is_noticed(platform: tuple[str, Path], tmp_path: Path) -> None:
    place = Place(tmp_path, *platform)
    text = f"{MARK}```sh\ngalen ask --model none-such 'Why?'\necho done\n```\n"
    [block] = blocks_of(tmp_path / "page.md", text)

    done = place.run(block)

    assert done.returncode == 1
    assert "model_not_found" in done.stderr
    assert "done" not in done.stdout
