import os
from pathlib import Path

import pytest

from services.store.file_store import FileStore, StorageFullError


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    """A folder, and another kind of store that fsspec has."""
    return FileStore(
        str(tmp_path / "files") if request.param == "local" else f"memory://{tmp_path}"
    )


def test_what_was_written_is_read(store: FileStore) -> None:
    with store.writer("files/a") as out:
        out.write(b"one\n")
        out.write(b"two\n")

    assert b"".join(store.pieces("files/a")) == b"one\ntwo\n"


def test_a_file_is_replaced_wholly(store: FileStore, tmp_path: Path) -> None:
    for text in (b"long before", b"now"):
        (tmp_path / "source").write_bytes(text)
        store.put("files/a", tmp_path / "source")

    assert b"".join(store.pieces("files/a")) == b"now"


def test_a_folder_is_removed_with_what_it_holds_and_again(store: FileStore) -> None:
    for key in ("jobs/1/parts/0", "jobs/1/parts/1", "jobs/2/parts/0"):
        with store.writer(key) as out:
            out.write(b"x")

    store.remove("jobs/1")
    store.remove("jobs/1")

    with pytest.raises(FileNotFoundError):
        store.open("jobs/1/parts/0")
    assert b"".join(store.pieces("jobs/2/parts/0")) == b"x"


@pytest.mark.parametrize("key", ["../a", "a/../b", "/a", "a//b", "", "a/."])
def test_a_key_never_leaves_the_store(store: FileStore, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        store.open(key)


def test_an_unfinished_file_replaces_nothing(store: FileStore) -> None:
    with store.writer("files/a") as out:
        out.write(b"whole")

    def write_half() -> None:
        with store.writer("files/a") as out:
            out.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()

    assert b"".join(store.pieces("files/a")) == b"whole"
    with pytest.raises(FileNotFoundError):
        store.open("files/b")


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))

    def write_much() -> None:
        with store.writer("files/a") as out:
            os.dup2(os.open("/dev/full", os.O_WRONLY), out.fileno())  # no room from here on
            out.write(b"x" * (1 << 20))

    with pytest.raises(StorageFullError):
        write_much()
    assert list((tmp_path / "files").iterdir()) == []
