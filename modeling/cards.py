"""Accelerators to plan for: those of this machine, or those that a user names. No torch."""

import difflib
import re
from collections.abc import Sequence
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
_NO_CARD = ("", "-1", "NoDevFiles")
"""CUDA_VISIBLE_DEVICES that means to hide all cards; the last is what Slurm writes."""
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
    """A description of cards is no such, or names none; the message is one line."""


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
        visible: what CUDA_VISIBLE_DEVICES says: these, in its order.

    Raises:
        CardsError: there are cards, but `visible` names none of them (a slice of a card, too, is
            none that we know): what they are to do is unknown.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        uuids = [_uuid(index) for index in range(pynvml.nvmlDeviceGetCount())]
        chosen = visible_indices(visible, uuids)
        if uuids and not chosen and visible is not None and visible.strip() not in _NO_CARD:
            raise CardsError(
                f"CUDA_VISIBLE_DEVICES={visible!r} names none of this machine's {len(uuids)} "
                f"card(s): write numbers from 0 to {len(uuids) - 1} or beginnings of UUIDs "
                "(nvidia-smi -L), each card once; slices (MIG) are not known here"
            )
        return [_card(index) for index in chosen]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def visible_indices(visible: str | None, uuids: Sequence[str]) -> list[int]:
    """Return which cards CUDA_VISIBLE_DEVICES names, in its order, as CUDA and torch read it.

    That is numbers, or beginnings of UUIDs that fit one card only. What stands behind the first
    that is neither is not seen, and a list that names a card twice names none
    (https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables;
    torch.cuda._parse_visible_devices).

    Args:
        visible: None: all cards.
        uuids: of the machine's cards, by number.
    """
    if visible is None:
        return list(range(len(uuids)))
    names = [name.strip() for name in visible.split(",")]
    has_uuids = names[0].startswith("GPU-")
    chosen: list[int] = []
    for name in names:
        if has_uuids:
            found = [i for i, uuid in enumerate(uuids) if name and uuid.startswith(name)]
        else:
            found = [i for i in range(len(uuids)) if name.isdecimal() and int(name) == i]
        if len(found) != 1:
            break
        if found[0] in chosen:
            return []
        chosen += found
    return chosen


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


def _uuid(index: int) -> str:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)  # pyright: ignore[reportUnknownMemberType]
    return str(pynvml.nvmlDeviceGetUUID(handle))  # pyright: ignore[reportUnknownMemberType]


def _card(index: int) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)  # pyright: ignore[reportUnknownMemberType]
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)  # pyright: ignore[reportUnknownMemberType]
    name = str(pynvml.nvmlDeviceGetName(handle))  # pyright: ignore[reportUnknownMemberType]
    return Card(name, int(memory.total), int(memory.free), index)
