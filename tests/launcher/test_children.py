"""A child that dies while it serves is started again after a pause, which its end cuts short."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from services.launcher.children import Family, KeptChild
from services.launcher.terminal import CommandError, Terminal
from tests.support.waiting import eventually

LONG_S = 600.0


class Kept:
    """A child that notes when it starts, and waits to be killed."""

    def __init__(self, folder: Path, pauses_s: tuple[float, float]) -> None:
        self.notes = folder / "starts"
        self.notes.touch()
        self.family = Family(Terminal(), pauses_s)
        self.ended: asyncio.Future[CommandError | None] = asyncio.get_running_loop().create_future()

    async def start(self) -> KeptChild:
        code = (
            "import signal, sys, time\n"
            f"print(time.monotonic(), file=open({str(self.notes)!r}, 'a'))\n"
            "signal.pause()"
        )
        kept = await self.family.start_kept(
            "worker", [sys.executable, "-c", code], {}, self.ended.set_result
        )
        kept.is_established = True
        return kept

    def starts(self) -> list[float]:
        return [float(line) for line in self.notes.read_text().splitlines()]

    async def kill(self, kept: KeptChild, num_starts: int) -> float:
        await eventually(lambda: len(self.starts()) == num_starts, 20.0, "the start")
        kept.child.process.kill()
        return time.monotonic()


async def test_a_child_is_started_again_after_a_pause_that_grows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept(tmp_path, (0.3, 0.9))
    child = await kept.start()
    killed = [await kept.kill(child, number) for number in (1, 2, 3)]
    death = await asyncio.wait_for(kept.ended, 20.0)

    _, second, third = kept.starts()
    assert second - killed[0] >= 0.3
    assert third - killed[1] >= 0.9
    assert death is not None
    assert death.message == "worker died 3 times within 60 s, now it was killed by SIGKILL"
    assert "was killed by SIGKILL; starting it again in 0.9 s" in capsys.readouterr().err
    await kept.family.end(asyncio.Event())


async def test_the_end_cuts_the_pause_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept(tmp_path, (LONG_S, LONG_S))
    await kept.kill(await kept.start(), 1)
    await eventually(lambda: "again in 600 s" in capsys.readouterr().err, 20.0, "the pause")
    await asyncio.wait_for(kept.family.end(asyncio.Event()), 20.0)

    assert len(kept.starts()) == 1
    assert not kept.ended.done()


async def test_a_child_that_is_to_leave_is_gone_at_once_though_it_pauses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept(tmp_path, (LONG_S, LONG_S))
    child = await kept.start()
    await kept.kill(child, 1)
    await eventually(lambda: "again in 600 s" in capsys.readouterr().err, 20.0, "the pause")
    child.leave()

    assert await asyncio.wait_for(kept.ended, 20.0) is None
    assert len(kept.starts()) == 1
    await kept.family.end(asyncio.Event())
