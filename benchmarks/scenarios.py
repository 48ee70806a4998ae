"""The loads: what is sent, to whom, for how long.

Replies have 64 tokens. "slow" durations are for LiteLLM, whose first answers to 64 streams take
seconds; a shorter window would measure its start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.party import DIRECT, GALEN, Party

LONG_S = 6.0  # 1000 streams x 100 ms x 64 tokens take 6.4 s each


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a measurement: the first `warm_s` are cut."""

    warm_s: float
    measured_s: float

    def args(self) -> tuple[str, ...]:
        """Return the load generator's options."""
        return ("--warm", f"{self.warm_s:g}", "-d", f"{self.measured_s:g}")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load.

    Args:
        args: options of the load generator.
        slow: warm-up and least measured time for slow parties.
        image: every request carries a 1 MB image: the same, or each another.
        is_paced: the engine sets the pace; the streams last longer than a short window.
        once_for_peers: peers run it in the first of several rounds only.
    """

    name: str
    title: str
    args: tuple[str, ...]
    slow: Timing
    image: Literal["same", "distinct"] | None = None
    is_paced: bool = False
    once_for_peers: bool = False

    def timing(self, party: Party, secs: float) -> Timing:
        """Return how long `party` is measured where `secs` is the ordinary time."""
        if self.is_paced:
            return Timing(2.5, max(secs, LONG_S))
        if party.is_slow:
            share = min(1.0, max(2 / 3, secs / 3))
            return Timing(self.slow.warm_s, self.slow.measured_s * share)
        return Timing(0.7, min(secs, 2.0) if party.name == DIRECT else secs)

    def includes(self, party: Party, round_index: int, num_rounds: int) -> bool:
        """Tell whether `party` runs it in this round (a single round is a quick look)."""
        if not self.once_for_peers or party.name in (DIRECT, GALEN):
            return True
        return round_index == 0 and num_rounds > 1


C1_WHOLE, C1_STREAM = "c1_whole", "c1_stream"
C64_WHOLE, C64_STREAM, C256_STREAM = "c64_whole", "c64_stream", "c256_stream"
C1000_100MS, C1000_20MS = "c1000_100ms", "c1000_20ms"
IMAGE_SAME, IMAGE_DISTINCT = "image_same", "image_distinct"

SCENARIOS = (
    Scenario(C1_WHOLE, "1 client, not streamed", ("-c", "1"), Timing(0.7, 3)),
    Scenario(C1_STREAM, "1 client, streamed", ("-c", "1", "--stream"), Timing(0.7, 3)),
    Scenario(C64_WHOLE, "64 clients, not streamed", ("-c", "64"), Timing(1.5, 4)),
    Scenario(C64_STREAM, "64 clients, streamed", ("-c", "64", "--stream"), Timing(2.5, 6)),
    Scenario(C256_STREAM, "256 clients, streamed", ("-c", "256", "--stream"), Timing(2.5, 6)),
    Scenario(
        C1000_100MS,
        "1000 clients, streamed, a token every 100 ms (10,000 tok/s offered)",
        ("-c", "1000", "--stream", "--itl", "100", "--ramp", "1000"),
        Timing(2.5, LONG_S),
        is_paced=True,
        once_for_peers=True,
    ),
    Scenario(
        C1000_20MS,
        "1000 clients, streamed, a token every 20 ms (50,000 tok/s offered)",
        ("-c", "1000", "--stream", "--itl", "20", "--ramp", "1000"),
        Timing(2.5, LONG_S),
        is_paced=True,
        once_for_peers=True,
    ),
    Scenario(
        IMAGE_SAME,
        "16 clients, 1 MB body, the same image",
        ("-c", "16"),
        Timing(1.5, 4),
        image="same",
    ),
    Scenario(
        IMAGE_DISTINCT,
        "16 clients, 1 MB body, every image another",
        ("-c", "16"),
        Timing(1.5, 4),
        image="distinct",
    ),
)


def choose_scenarios(names: Sequence[str]) -> tuple[Scenario, ...]:
    """Return the scenarios called `names`, in our order; all where none is named.

    Raises:
        ValueError: a name is unknown.
    """
    known = {scenario.name for scenario in SCENARIOS}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"unknown scenario {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return tuple(scenario for scenario in SCENARIOS if not names or scenario.name in names)
