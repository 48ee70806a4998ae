"""Accelerators to plan for: those of this machine, or those that a user names. No torch."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml  # pyright: ignore[reportMissingTypeStubs] - it has none

_MIB = 1 << 20
# Total memory as nvidia-smi prints it, MiB (with ECC where it is on by default).
_KNOWN_MIB = {
    "RTX3090": 24_576,
    "RTX4090": 24_564,
    "A10": 23_028,
    "A10G": 23_028,
    "L4": 23_034,
    "L40S": 46_068,
    "A100-40GB": 40_960,
    "A100-80GB": 81_920,
    "H100": 81_559,
    "H200": 143_771,
}
_COUNT = re.compile(r"(\d{1,4})x(?=.)", re.IGNORECASE)
_SIZE = re.compile(r"(\d{1,6}(?:\.\d+)?)(GB|GIB)", re.IGNORECASE)
_MOST_CARDS = 64
_CGROUP = Path("/sys/fs/cgroup")
# Limit and use; statistics with the name of the page cache that can be dropped: version 2, then 1.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
        "total_inactive_file",
    ),
)  # fmt: skip


class CardsError(Exception):
    """A description of cards is no such; the message is one line."""


@dataclass(frozen=True, slots=True)
class Card:
    """Memory to run a model in: a card's, or the machine's where it has none.

    Args:
        free_bytes: what nobody uses now.
        index: the driver's number of it.
    """

    name: str
    total_bytes: int
    free_bytes: int
    index: int = 0


def parse_cards(text: str) -> list[Card]:
    """Return the cards of a list such as `2x24GB`, `24GiB,48GiB` or `1xA10G`, empty ones.

    GB are 10^9 bytes: a card sold as 24 GB has at least that. GiB are 2^30 bytes. A named card
    counts as its driver says.

    Raises:
        CardsError: it is no such list.
    """
    cards: list[Card] = []
    for item in re.split(r"[,+]", text):
        word = item.strip()
        found = _COUNT.match(word)
        count = int(found[1]) if found else 1
        name, num_bytes = _named(word[found.end() :] if found else word)
        if not 1 <= count <= _MOST_CARDS or len(cards) + count > _MOST_CARDS:
            raise CardsError(f"--gpus {text!r}: from 1 to {_MOST_CARDS} cards")
        cards += [Card(name, num_bytes, num_bytes, len(cards) + i) for i in range(count)]
    return cards


def _named(word: str) -> tuple[str, int]:
    """Return the name and the bytes of one card."""
    sized = _SIZE.fullmatch(word)
    if sized and float(sized[1]) > 0:
        unit = "GiB" if sized[2].upper() == "GIB" else "GB"
        num_bytes = int(float(sized[1]) * (1 << 30 if unit == "GiB" else 10**9))
        return f"{sized[1]} {unit}", num_bytes
    known = {_plain(name): name for name in _KNOWN_MIB}
    if _plain(word) in known:
        name = known[_plain(word)]
        return name, _KNOWN_MIB[name] * _MIB
    near = difflib.get_close_matches(_plain(word), known, n=1)
    hint = f"; did you mean {known[near[0]]}?" if near else ""
    raise CardsError(
        f"{word!r} is no card{hint} (write 24GB, 2x24GB, 24GiB,48GiB, "
        f"or a name: {', '.join(_KNOWN_MIB)})"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]|nvidia|geforce", "", name.lower())


def cards_present(visible: str | None = None) -> list[Card]:
    """Return this machine's NVIDIA cards with their free memory as of now; [] without any.

    Args:
        visible: what CUDA_VISIBLE_DEVICES says; where it names cards otherwise than by number,
            none is known.
    """
    try:
        wanted = None if visible is None else [int(each) for each in visible.split(",")]
        pynvml.nvmlInit()
    except (ValueError, pynvml.NVMLError):
        return []
    try:
        there = range(pynvml.nvmlDeviceGetCount())
        return [_card(index) for index in (there if wanted is None else wanted) if index in there]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def main_memory(cgroup: Path = _CGROUP) -> Card:
    """Return the machine's own memory, or what its control group leaves of it."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    for limit_file, used_file, statistics, droppable in _CGROUP_FILES:
        try:
            limit = int((cgroup / limit_file).read_text())
            used = int((cgroup / used_file).read_text())
            lines = dict(line.split() for line in (cgroup / statistics).read_text().splitlines())
        except (OSError, ValueError):  # no such version; or "max"
            continue
        if limit < total:
            free = min(free, limit - used + int(lines.get(droppable, 0)))
            total = limit
    return Card("CPU", total, max(0, free))


def _card(index: int) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)  # pyright: ignore[reportUnknownMemberType]
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)  # pyright: ignore[reportUnknownMemberType]
    name = str(pynvml.nvmlDeviceGetName(handle))  # pyright: ignore[reportUnknownMemberType]
    return Card(name, int(memory.total), int(memory.free), index)
