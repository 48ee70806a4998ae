"""The streaming reader finds what `tarfile` finds, and no bytes make it fail otherwise or grow."""

import contextlib
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.download.tar_stream import ArchiveError, TarStream, Unpacked
from tests.datagen.download.archives import archive_of, tar_of

NAMES = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1
).filter(lambda name: name not in {".", ".."} and not name.startswith("./"))
MEMBERS = st.dictionaries(NAMES, st.binary(max_size=2000), min_size=1, max_size=5)


def pieces(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[start : start + size] for start in range(0, len(raw), size))


def read(raw: bytes, size: int = 1000, most_bytes: int = 1 << 20) -> dict[str, bytes]:
    archive = TarStream(Unpacked(pieces(raw, size), most_bytes))
    return {each.name: b"".join(archive.content()) for each in archive if each.is_file}


@settings(deadline=None, max_examples=60)
@given(
    MEMBERS, st.integers(1, 5000), st.booleans(),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)  # fmt: skip
def test_members_are_those_that_were_put_in(
    members: dict[str, bytes], size: int, is_gzip: bool, kind: int
):
    raw = tar_of(members, kind)

    assert read(gzip.compress(raw) if is_gzip else raw, size) == members


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damage_ends_in_an_error_of_ours_or_in_nothing(data: st.DataObject):
    raw = bytearray(tar_of({"a": b"x" * 700, "é" * 120: b"y" * 30, "c": b""}))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    with contextlib.suppress(ArchiveError):
        read(bytes(raw[:cut]))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=3000))
def test_any_bytes_behind_a_gzip_header_end_in_an_error_of_ours(rest: bytes):
    with pytest.raises(ArchiveError):
        read(gzip.compress(b"")[:10] + b"\x07" + rest)


def test_a_bomb_ends_at_the_limit_without_being_held():
    packer = zlib.compressobj(9, wbits=31)
    head = tar_of({"big": b""})[:512]
    bomb = packer.compress(head) + packer.compress(bytes(100_000_000)) + packer.flush()
    assert len(bomb) < 200_000

    with pytest.raises(ArchiveError, match="archive-too-large"):
        for _ in Unpacked(iter([bomb]), 1_000_000).take(100_000_000):
            pass


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_gigabytes_is_refused_before_they_come(kind: bytes):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 8 << 30

    def endless() -> Iterator[bytes]:
        yield info.tobuf(tarfile.GNU_FORMAT)
        raise AssertionError("more was read")

    with pytest.raises(ArchiveError, match="archive-corrupt"):
        list(TarStream(Unpacked(endless(), 1 << 40)))


def test_links_are_no_files_and_archives_of_two_gzip_parts_are_one():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("file")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    raw = content.getvalue()
    both = gzip.compress(raw[:700]) + gzip.compress(raw[700:])

    assert read(both) == {"file": b"abc"}
    assert read(archive_of({"./PMC1/a": b"1"})) == {"PMC1/a": b"1"}
