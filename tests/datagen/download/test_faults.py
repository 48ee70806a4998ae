"""Servers that misbehave cost what they spoil alone, and the manifest says what it was."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datagen.download.archives import archive_of, line, manifest, picture, tar_of, write_list
from tests.datagen.download.calling import call, command
from tests.datagen.download.misbehaving_server import MisbehavingServer, Reply
from tests.support.program import ROOT, free_port
from tests.support.waiting import wait_until

GOOD = archive_of({"PMC1/a.jpg": picture(), "PMC1/b.nxml": b"x" * 9000})


def outcome_of(tmp_path: Path, reply: Callable[[int], Reply], *more: str) -> dict[str, object]:
    """What becomes of one image whose archive is answered so, attempt by attempt."""
    with MisbehavingServer(lambda _, number: reply(number)) as server:
        out = tmp_path / "out"
        done = call(write_list(tmp_path / "list", [line(server.url)]), out, *more)
        found = manifest(out)["1_a"]
        assert done.returncode == (0 if found["status"] == "done" else 3), done.stderr
        return {**found, "asked": sum(server.asked.values())}


@pytest.mark.parametrize(
    ("reply", "status", "reason", "asked"),
    [
        (Reply(status=404), "missing", "http-404", 1),
        (Reply(status=410), "missing", "http-410", 1),
        (Reply(status=403), "failed", "http-403", 1),
        (Reply(status=500), "failed", "http-500", 3),
        (Reply(b"<html>moved, sorry</html>"), "failed", "no-archive", 2),
        (Reply(b"<html>moved, sorry</html>" * 99), "failed", "no-archive", 2),
        (Reply(b""), "failed", "no-archive", 2),
        (Reply(GOOD[:99] + b"\xff" * 99), "failed", "archive-corrupt", 2),
        (Reply(archive_of({"PMC1/b.jpg": picture()})), "missing", "member-missing", 1),
        (Reply(archive_of({"PMC1/a.jpg": b"GIF89a, not"})), "failed", "no-image", 1),
        (Reply(archive_of({"PMC1/a.jpg": picture()[:-40]})), "failed", "no-image", 1),
        (Reply(archive_of({"PMC1/a.jpg": b""})), "failed", "no-image", 1),
        (Reply(GOOD[:200], length=len(GOOD)), "failed", "connection-cut", 3),
        (Reply(status=302, headers={"Location": "file:///a"}), "failed", "bad-redirect", 3),
        (Reply(status=302, headers={"Location": "/again"}), "failed", "bad-redirect", 18),
    ],
)  # fmt: skip
def test_a_fault_has_a_reason(tmp_path: Path, reply: Reply, status: str, reason: str, asked: int):
    found = outcome_of(tmp_path, lambda _: reply, "--retries", "2")

    assert (found["status"], found["reason"], found["asked"]) == (status, reason, asked)
    assert not list((tmp_path / "out/images").iterdir())


@pytest.mark.parametrize(
    "first",
    [
        Reply(status=500),
        Reply(status=429),
        Reply(GOOD[:200], length=len(GOOD)),
        Reply(GOOD[:99] + b"\xff" * 99),
    ],
)
def test_what_passes_is_tried_again(tmp_path: Path, first: Reply):
    found = outcome_of(tmp_path, lambda number: first if number == 0 else Reply(GOOD))

    assert (found["status"], found["asked"]) == ("done", 2)


def test_retry_after_is_waited_for(tmp_path: Path):
    times: list[float] = []

    def reply(number: int) -> Reply:
        times.append(time.monotonic())
        return Reply(status=429, headers={"Retry-After": "1"}) if number == 0 else Reply(GOOD)

    assert outcome_of(tmp_path, reply)["status"] == "done"
    assert times[1] - times[0] >= 1


def test_a_host_that_asks_for_time_does_not_keep_another_waiting(tmp_path: Path):
    """The other host's articles stand in the list behind more than are looked at otherwise."""
    full = Reply(status=429, headers={"Retry-After": "600"})
    with (
        MisbehavingServer(lambda *_: full) as busy,
        MisbehavingServer(lambda *_: Reply(status=404)) as other,
    ):
        lines = [line(busy.url, number) for number in range(600)]
        lines += [line(other.url, 1000 + number) for number in range(20)]
        listed = write_list(tmp_path / "list", lines)
        process = subprocess.Popen(command(listed, tmp_path / "out"), cwd=ROOT)
        try:
            wait_until(lambda: len(other.asked) == 20, "the other host to be asked", 60)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert sum(busy.asked.values()) < 100


def test_a_server_that_falls_silent_is_left(tmp_path: Path):
    with MisbehavingServer(lambda *_: Reply(silence(), length=len(GOOD))) as server:

        def silence():
            yield GOOD[:100]
            server.done.wait()

        listed = write_list(tmp_path / "list", [line(server.url)])
        call(listed, tmp_path / "out", "--stall", "0.2", "--retries", "1")

    assert manifest(tmp_path / "out")["1_a"]["reason"] == "stalled"


def test_a_server_that_drips_is_left(tmp_path: Path):
    with MisbehavingServer(lambda *_: Reply(drips(), length=10**9)) as server:

        def drips():
            yield archive_of({"PMC1/b.jpg": b"x" * 99})[:20]
            while not server.done.wait(0.02):
                yield b"\0"

        listed = write_list(tmp_path / "list", [line(server.url)])
        call(listed, tmp_path / "out", "--article-time", "1", "--retries", "0")

    assert manifest(tmp_path / "out")["1_a"]["reason"] in {"too-slow", "archive-corrupt"}


def test_members_with_dangerous_names_write_nothing_outside(tmp_path: Path):
    evil = {"../evil.jpg": picture(), "/tmp/evil.jpg": picture(), "PMC1/../../evil.jpg": picture()}
    archive = archive_of({**evil, "PMC1/a.jpg": picture()})
    lines = [
        {"pair_id": f"evil{number}", "pmc_tar_url": "URL/PMC1.tar.gz", "image_file_path": name}
        for number, name in enumerate(evil)
    ]
    lines.append({**lines[0], "pair_id": "../up", "image_file_path": "PMC1/a.jpg"})
    lines.append({**lines[0], "pair_id": "/abs", "image_file_path": "PMC1/a.jpg"})
    with MisbehavingServer(lambda *_: Reply(archive)) as server:
        for each in lines:
            each["pmc_tar_url"] = f"{server.url}/PMC1.tar.gz"
        listed = write_list(tmp_path / "list", [*lines, line(server.url)])
        done = call(listed, tmp_path / "out")

    reasons = {name: each.get("reason") for name, each in manifest(tmp_path / "out").items()}
    assert reasons == {
        **dict.fromkeys(("evil0", "evil1", "evil2"), "unsafe-member"),
        **dict.fromkeys(("../up", "/abs"), "unsafe-name"),
        "1_a": None,
    }
    assert done.returncode == 3
    assert [file.name for file in tmp_path.rglob("*.jpg")] == ["1_a.jpg"]


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (archive_of({"PMC1/big": bytes(3_000_000), "PMC1/a.jpg": picture()}), "archive-too-large"),
        (tar_of({"PMC1/big": bytes(3_000_000), "PMC1/a.jpg": picture()}), "archive-too-large"),
        (archive_of({"PMC1/a.jpg": bytes(1_500_000)}), "member-too-large"),
    ],
)
def test_what_is_too_large_is_refused_while_it_comes(tmp_path: Path, archive: bytes, reason: str):
    limits = ("--archive-mb", "2", "--member-mb", "1")
    found = outcome_of(tmp_path, lambda _: Reply(archive), *limits)

    assert (found["reason"], found["asked"]) == (reason, 1)


def test_a_dead_host_is_told_of_once_and_its_mirror_serves(tmp_path: Path):
    dead = f"http://127.0.0.1:{free_port()}"
    config = tmp_path / "places.yaml"
    with MisbehavingServer(lambda *_: Reply(GOOD)) as server:
        config.write_text(f"mirrors: [{{from: '{dead}/', to: ['{server.url}/']}}]\n")
        lines = [{**line(dead), "pair_id": f"n{n}", "pmc_tar_url": f"{dead}/{n}"} for n in range(9)]
        listed = write_list(tmp_path / "list", lines)
        alone = call(listed, tmp_path / "a", "--dead-after", "2", "--retries", "0")
        mirrored = call(listed, tmp_path / "b", "--config", str(config), "--retries", "0")
        told = ("--rewrite", f"{dead}/={server.url}/")
        rewritten = call(listed, tmp_path / "a", *told)

    assert alone.returncode == 3
    assert alone.stderr.count("cannot be reached") == 1
    assert "--rewrite" in alone.stderr
    assert mirrored.returncode == 0, mirrored.stderr
    assert rewritten.returncode == 0, rewritten.stderr
    assert all(each["url"].startswith(server.url) for each in manifest(tmp_path / "a").values())


def test_lines_that_are_none_are_counted_and_listed(tmp_path: Path):
    with MisbehavingServer(lambda *_: Reply(GOOD)) as server:
        good = line(server.url)
        content = b"\xef\xbb\xbf" + b"\n".join(
            [
                json.dumps(good).encode(),
                json.dumps(good).encode(),
                json.dumps({**good, "image_file_path": "PMC1/b.jpg"}).encode(),
                json.dumps({**good, "pair_id": 7}).encode(),
                json.dumps({**good, "pair_id": "ftp", "pmc_tar_url": "ftp://a/b"}).encode(),
                b'{"question_id": 1}',
                b"not JSON",
                b"[1]",
                b'{"pair_id": "torn',
            ]
        )
        (tmp_path / "list").write_bytes(content)
        done = call(tmp_path / "list", tmp_path / "out")

    problems = [
        json.loads(text) for text in (tmp_path / "out/problems.jsonl").read_text().splitlines()
    ]
    assert [(each["line"], each["problem"]) for each in problems] == [
        (2, "repeated line"),
        (3, "pair_id of another image"),
        (4, "no image of an article"),
        (6, "no image of an article"),
        (7, "no JSON"),
        (8, "no object"),
        (9, "torn last line"),
    ]
    assert manifest(tmp_path / "out")["ftp"]["reason"] == "bad-url"
    assert done.returncode == 3
