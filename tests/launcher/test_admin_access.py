"""Where the commands find a running `galen up` and its key."""

import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.launcher.admin_access import AdminAccess, find_access, leave_access, new_key
from services.launcher.run_folder import run_folder
from services.launcher.terminal import CommandError

ONE = AdminAccess("http://127.0.0.1:1/v1", "key-of-one")
TWO = AdminAccess("http://127.0.0.1:2/v1", "key-of-two")


@pytest.fixture
def runs(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    """Runs of launchers of this process, which end with the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    with ExitStack() as runs:
        yield runs


def begin(runs: ExitStack, access: AdminAccess) -> Path:
    folder = runs.enter_context(run_folder())
    leave_access(folder, access)
    return folder


def test_only_launcher_is_found_without_a_word(runs: ExitStack) -> None:
    folder = begin(runs, ONE)

    assert find_access(None, None) == ONE
    assert find_access(None, "another key") == AdminAccess(ONE.url, "another key")
    assert stat.S_IMODE((folder / "admin.json").stat().st_mode) == 0o600


def test_of_several_launchers_one_must_be_named(runs: ExitStack) -> None:
    begin(runs, ONE)
    begin(runs, TWO)

    with pytest.raises(CommandError, match="say which with --url") as caught:
        find_access(None, None)
    assert caught.value.details == (ONE.url, TWO.url)
    assert find_access(TWO.url + "/", None) == TWO
    assert find_access(TWO.url.removesuffix("/v1"), None) == TWO


def test_nobody_is_needed_where_all_is_said(runs: ExitStack) -> None:
    for url in ("http://far/v1/", "http://far"):
        assert find_access(url, "k") == AdminAccess("http://far/v1", "k")
    with pytest.raises(CommandError, match="was found on this machine"):
        find_access("http://far/v1", None)


def test_what_a_dead_launcher_left_is_no_access(runs: ExitStack, short_folder: Path) -> None:
    dead = short_folder / "galen-up-dead"
    dead.mkdir(mode=0o700)
    leave_access(dead, ONE)

    with pytest.raises(CommandError, match="was found on this machine"):
        find_access(None, None)


def test_launcher_that_is_just_starting_or_spoilt_is_passed_over(runs: ExitStack) -> None:
    runs.enter_context(run_folder())
    spoilt = runs.enter_context(run_folder())
    (spoilt / "admin.json").write_text("[1", encoding="utf-8")
    begin(runs, TWO)

    assert find_access(None, None) == TWO


def test_access_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "admin.json").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        leave_access(tmp_path, ONE)
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_keys_differ_and_are_long_enough_for_the_gateway() -> None:
    assert new_key() != new_key()
    assert len(new_key()) >= 16
