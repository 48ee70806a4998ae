"""Sessions of the page: what they have, and what goes with them."""

import os
from pathlib import Path

from services.ui.sessions import Sessions, remove_strays


def sessions() -> Sessions:
    return Sessions(60, 60, 60)


def test_strays_go_and_what_somebody_has_stays(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("owned", "stray", "new")]
    for file in files:
        file.touch()
    for old in files[:2]:
        os.utime(old, (1, 1))
    (tmp_path / "empty").mkdir()

    remove_strays(tmp_path, {files[0]}, age_s=60)

    assert sorted(each.name for each in tmp_path.iterdir()) == ["new", "owned"]


def test_the_end_of_a_session_leaves_what_is_everybodys(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    everyone, session = sessions(), None
    everyone.public_files = frozenset({shared})
    session = everyone.start(None, "")
    for file in (shared, own):
        file.touch()
        everyone.keep_file(session, file)

    everyone.end(session)

    assert shared.exists()
    assert not own.exists()


def test_a_page_belongs_to_who_used_it_first() -> None:
    everyone = sessions()
    first, second = everyone.start(None, ""), everyone.start(None, "")

    assert everyone.claim_page(first, "a")
    assert not everyone.claim_page(second, "a")
    everyone.end(first)
    assert everyone.claim_page(second, "a")


def test_a_session_has_a_share_of_the_disk(tmp_path: Path) -> None:
    everyone = sessions()
    session = everyone.start(None, "")
    file = tmp_path / "upload"
    file.write_bytes(b"x")
    everyone.keep_file(session, file)

    assert everyone.has_room(session, (1 << 30) - 1)
    assert not everyone.has_room(session, 1 << 30)
