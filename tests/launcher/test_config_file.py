"""A service's settings from a file: option before variable before file before default."""

import json
import sys
from pathlib import Path

import pytest
import typer

from services.launcher.config_file import read_config
from services.worker.settings import WorkerSettings
from tests.end_to_end.launched import galen


def write(folder: Path, text: str) -> Path:
    file = folder / "worker.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_values_are_those_of_the_settings(tmp_path: Path) -> None:
    file = write(
        tmp_path, 'engine = "fake"\nslots = 3\nstep_timeout_s = 1.5\nenforce_eager = true\n'
    )
    read = WorkerSettings(**read_config(file, WorkerSettings))  # pyright: ignore[reportArgumentType]

    assert (read.engine, read.slots, read.step_timeout_s, read.enforce_eager) == (
        "fake",
        3,
        1.5,
        True,
    )


def test_paths_begin_at_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'model_path = "m"\nadapters_dir = "/a"\n')

    assert read_config(file, WorkerSettings) == {
        "model_path": str(tmp_path / "m"),
        "adapters_dir": "/a",
    }


def test_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALEN_WORKER_SLOTS", "5")

    assert read_config(write(tmp_path, "slots = 3\n"), WorkerSettings) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sltos = 3\n", "unknown setting sltos; did you mean slots?"),
        ("slots = [3]\n", "slots must be text, a number or a boolean"),
        ("slots = \n", "cannot be read as TOML"),
    ],
)
def test_mistake_in_the_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        read_config(write(tmp_path, text), WorkerSettings)


def test_option_wins_over_the_file_and_the_worker_gets_both(tmp_path: Path) -> None:
    file = write(tmp_path, 'engine = "transformers"\nlog_format = "console"\nslots = 3\n')
    done = galen("worker", "--config", str(file), "--log-format", "json")

    assert done.returncode == 3, sys.stderr.write(done.stderr)  # no checkpoint
    assert "galen worker --model-path DIR" in json.loads(done.stdout.splitlines()[0])["cause"]


def test_bad_value_in_the_file_is_one_line(tmp_path: Path) -> None:
    done = galen("worker", "--config", str(write(tmp_path, "slots = 0\n")))

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "slots" in done.stderr
