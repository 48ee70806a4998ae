"""Each archive once, politely, and at any point gone on with."""

import hashlib
import json
import os
import random
import signal
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.datagen.download.archives import archive_of, line, manifest, picture, tar_of, write_list
from tests.datagen.download.calling import call, command
from tests.datagen.download.misbehaving_server import MisbehavingServer, Reply
from tests.support.program import ROOT
from tests.support.waiting import wait_until


def article(path: str, *_: object) -> Reply:
    """Three figures, the last of them behind bytes that compress badly."""
    name = path.strip("/").removesuffix(".tar.gz")
    shade = int(name.removeprefix("PMC")) % 256
    figures = {f"{name}/{figure}.jpg": picture(shade=shade) for figure in "ab"}
    filler = {f"{name}/article.pdf": random.Random(name).randbytes(20_000)}
    return Reply(archive_of({**figures, **filler, f"{name}/c.jpg": picture(shade=shade)}))


def lines_of(url: str, num: int, figures: str = "abc") -> list[dict[str, str]]:
    return [line(url, number, figure) for figure in figures for number in range(num)]


def test_each_archive_is_fetched_once_and_its_images_are_as_they_were(tmp_path: Path):
    with MisbehavingServer(article) as server:
        listed = write_list(tmp_path / "list", lines_of(server.url, 20))
        done = call(listed, tmp_path / "out", "--contact", "me@example.org")

        assert done.returncode == 0, done.stderr
        assert set(server.asked.values()) == {1}
        assert server.agents == {"galen-data-download (me@example.org)"}
    found = manifest(tmp_path / "out")
    assert len(found) == 60
    for pair_id, each in found.items():
        raw = (tmp_path / "out" / each["file"]).read_bytes()
        assert each["file"] == f"images/{pair_id}.jpg"
        assert raw == picture(shade=int(pair_id.split("_")[0]) % 256)
        assert each["sha256"] == hashlib.sha256(raw).hexdigest()
        assert (each["bytes"], each["width"], each["height"]) == (len(raw), 40, 30)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["done"], summary["waiting"], summary["failed"]) == (60, 0, 0)


@pytest.mark.parametrize("tar", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, None])
def test_the_real_format_is_told(tmp_path: Path, tar: int | None):
    kinds = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")
    # A name of several bytes in each letter, and too long for the plain header.
    folder = "\u00e9" * (70 if tar else 3)
    names = {kind: f"./PMC1/{folder}/{kind}.jpg" for kind in kinds}
    members = {name: picture(kind) for kind, name in names.items()}
    archive = archive_of(members) if tar is None else tar_of(members, tar)
    with MisbehavingServer(lambda *_: Reply(archive)) as server:
        lines = [
            {**line(server.url), "pair_id": kind, "image_file_path": name}
            for kind, name in names.items()
        ]
        done = call(write_list(tmp_path / "list", lines), tmp_path / "out")

    assert done.returncode == 0, done.stdout
    assert {name: each["format"] for name, each in manifest(tmp_path / "out").items()} == {
        kind: kind for kind in kinds
    }
    for kind in kinds:
        with Image.open(tmp_path / f"out/images/{kind}.jpg") as image:
            assert image.format == kind


def test_nothing_is_read_behind_the_last_image_that_is_wanted(tmp_path: Path):
    head = tar_of({"PMC1/a.jpg": picture(), "PMC1/end": bytes(50_000)})

    def endless():
        yield head
        while not server.done.wait(0.01):
            yield bytes(10_000)

    with MisbehavingServer(lambda *_: Reply(endless(), length=10**10)) as server:
        done = call(write_list(tmp_path / "list", [line(server.url)]), tmp_path / "out")

    assert done.returncode == 0, done.stderr


def test_one_member_that_two_lines_want_becomes_two_files(tmp_path: Path):
    with MisbehavingServer(article) as server:
        lines = [line(server.url), {**line(server.url), "pair_id": "again"}]
        done = call(write_list(tmp_path / "list", lines), tmp_path / "out")

        assert sum(server.asked.values()) == 1
    assert done.returncode == 0
    assert {file.name for file in (tmp_path / "out/images").iterdir()} == {"1_a.jpg", "again.jpg"}


def test_a_host_gets_no_more_at_once_than_it_is_said(tmp_path: Path):
    with MisbehavingServer(article) as server:
        listed = write_list(tmp_path / "list", lines_of(server.url, 40, "a"))
        call(listed, tmp_path / "out", "--per-host", "3", "--concurrency", "16")

        assert 1 <= server.most_at_once <= 3


def test_a_limit_takes_the_first_and_more_may_follow(tmp_path: Path):
    with MisbehavingServer(article) as server:
        listed = write_list(tmp_path / "list", lines_of(server.url, 10, "a"))
        first = call(listed, tmp_path / "out", "--limit", "3")
        before = manifest(tmp_path / "out")
        call(listed, tmp_path / "out")

        assert set(server.asked.values()) == {1}
    assert first.returncode == 0
    assert set(before) == {"0_a", "1_a", "2_a"}
    assert len(manifest(tmp_path / "out")) == 10


def test_a_sample_is_the_same_for_a_seed(tmp_path: Path):
    with MisbehavingServer(article) as server:
        listed = write_list(tmp_path / "list", lines_of(server.url, 50, "a"))
        drawn = []
        for name, seed, num in [("a", 1, 8), ("b", 1, 8), ("c", 2, 8), ("d", 1, 12)]:
            call(listed, tmp_path / name, "--sample", str(num), "--seed", str(seed))
            drawn.append(set(manifest(tmp_path / name)))

    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] < drawn[3]
    assert [len(each) for each in drawn] == [8, 8, 8, 12]


def test_what_was_refused_for_good_is_asked_again_when_told_only(tmp_path: Path):
    is_there = False
    with MisbehavingServer(lambda *a: article(*a) if is_there else Reply(status=404)) as server:
        listed = write_list(tmp_path / "list", [line(server.url)])
        codes = [call(listed, tmp_path / "out").returncode]
        codes.append(call(listed, tmp_path / "out").returncode)
        assert sum(server.asked.values()) == 1
        is_there = True
        codes.append(call(listed, tmp_path / "out", "--retry-failed").returncode)

    assert codes == [3, 3, 0]


def test_a_narrower_call_forgets_nothing_of_other_images(tmp_path: Path):
    def reply(path: str, *_: object) -> Reply:
        return article(path) if path.startswith("/PMC0") or "PMC1." in path else Reply(status=500)

    with MisbehavingServer(reply) as server:
        listed = write_list(tmp_path / "list", lines_of(server.url, 4))
        assert call(listed, tmp_path / "out").returncode == 3
        before = manifest(tmp_path / "out")
        assert {each["status"] for each in before.values()} == {"done", "failed"}
        (tmp_path / "out" / list(before.values())[-1].get("file", "images/none")).unlink(
            missing_ok=True
        )
        call(listed, tmp_path / "out", "--limit", "1")
    assert manifest(tmp_path / "out").keys() == before.keys()


def test_a_file_that_was_removed_comes_again(tmp_path: Path):
    with MisbehavingServer(article) as server:
        listed = write_list(tmp_path / "list", lines_of(server.url, 3, "a"))
        call(listed, tmp_path / "out")
        (tmp_path / "out/images/1_a.jpg").unlink()
        (tmp_path / "out/images/2_a.jpg").write_bytes(b"torn")
        again = call(listed, tmp_path / "out")

        assert server.asked == {"/PMC0.tar.gz": 1, "/PMC1.tar.gz": 2, "/PMC2.tar.gz": 2}
    assert "2 images are not in the folder" in again.stderr


def test_other_lists_and_other_folders_are_refused(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with MisbehavingServer(article) as server:
        listed = write_list(tmp_path / "list", lines_of(server.url, 2, "a"))
        other = write_list(tmp_path / "other", lines_of(server.url, 3, "a"))
        call(listed, tmp_path / "out")

        assert call(other, tmp_path / "out").returncode == 2
        assert call(listed, tmp_path / "mine").returncode == 1
        assert call(tmp_path / "none", tmp_path / "new").returncode == 1
        assert not (tmp_path / "new").exists()


def test_killed_at_any_moment_it_goes_on_and_every_image_is_whole(tmp_path: Path):
    num, chance = 120, random.Random(3)
    with MisbehavingServer(article) as server:
        listed = write_list(tmp_path / "list", lines_of(server.url, num))
        out = tmp_path / "out"
        for until in sorted(chance.sample(range(num * 9 // 10), 4)):
            process = subprocess.Popen(command(listed, out), cwd=ROOT, stderr=subprocess.DEVNULL)
            wait_until(lambda: len(server.asked) > until, f"{until} articles", 30)  # noqa: B023
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = call(listed, out)
        asked = Counter(server.asked)

    assert done.returncode == 0, done.stderr
    found = manifest(out)
    assert len(found) == 3 * num
    names = {f"{pair_id}.jpg" for pair_id in found}
    assert {file.name for file in (out / "images").iterdir()} == names
    for each in found.values():
        assert hashlib.sha256((out / each["file"]).read_bytes()).hexdigest() == each["sha256"]
    # What was on its way or not yet noted at one of four kills: never all over again.
    assert sum(asked.values()) < 2 * num


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_the_manifest_holds_what_came_and_the_folder_is_free_again(
    tmp_path: Path, how: signal.Signals
):
    num = 30

    def slowly(path: str, _: int) -> Reply:
        if len(server.asked) > 20 and not is_open:
            server.done.wait(30)
        return article(path)

    is_open = False
    with MisbehavingServer(slowly) as server:
        listed, out = write_list(tmp_path / "list", lines_of(server.url, num, "a")), tmp_path / "o"
        process = subprocess.Popen(
            command(listed, out, "--concurrency", "4"),
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: len(server.asked) > 20, "20 articles", 30)
        second = call(listed, out)
        os.kill(process.pid, how)
        _, said = process.communicate(timeout=30)
        before = manifest(out)
        is_open = True
        done = call(listed, out)

    assert second.returncode == 1
    assert "another process" in second.stderr
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert 10 <= len(before) <= 20
    assert done.returncode == 0
    assert len(manifest(out)) == num


def test_a_listed_config_with_an_unknown_key_is_refused(tmp_path: Path):
    config = tmp_path / "places.yaml"
    config.write_text("rewrites: []\n")
    done = call(write_list(tmp_path / "list", []), tmp_path / "out", "--config", str(config))

    assert done.returncode == 1
    assert "rewrites" in done.stderr
