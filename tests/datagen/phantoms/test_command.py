"""`galen data phantoms`: what is printed, exit codes, nothing half-done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from datagen.phantoms import command

FEW = [
    word
    for name in ("shapes", "shapes-test", "text-only", "alignment", "instruct")
    for word in (f"--{name}", "2")
] + ["--vqa-train", "2", "--vqa-val", "2", "--vqa-test", "2"]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


class Tool(Protocol):
    def __call__(self, *words: str | Path) -> Done: ...


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    def run(*words: str | Path) -> Done:
        with pytest.raises(SystemExit) as end:
            command.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return run


def test_help_has_examples(tool: Tool) -> None:
    done = tool("--help")
    assert done.returncode == 0
    assert "galen data phantoms --out ./phantoms" in done.stdout
    assert "--vqa-train" in done.stdout


def test_it_says_what_was_made(tool: Tool, tmp_path: Path) -> None:
    done = tool("--out", tmp_path / "out", "--seed", "5", *FEW)
    assert done == Done(0, f"{tmp_path / 'out'}: 14 images, 2 texts, seed 5\n", "")
    assert (tmp_path / "out" / "phantoms" / "vqa" / "test.json").is_file()


def test_a_folder_that_is_there_is_refused_in_one_line(tool: Tool, tmp_path: Path) -> None:
    tool("--out", tmp_path / "out", *FEW)
    done = tool("--out", tmp_path / "out", *FEW)
    assert done.returncode == 1
    assert done.stderr.startswith(f"galen: {tmp_path / 'out'} is there already: choose another")
    assert done.stderr.count("\n") == 1
    assert tool("--out", tmp_path / "out", "--force", *FEW).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--out"),
        (["--out", "x", "--seed", "-1"], "--seed"),
        (["--out", "x", "--shapes", "many"], "--shapes"),
        (["--out", "x", "--colour", "red"], "No such option: --colour"),
    ],
)
def test_wrong_options_are_one_line(tool: Tool, words: list[str], said: str) -> None:
    done = tool(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_one_line(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = tool("--out", tmp_path / "file" / "out", *FEW)
    assert done.returncode == 1
    assert done.stderr.startswith("galen: ")
    assert done.stderr.count("\n") == 1
