"""The written result of a benchmark (docs/benchmarks.md), from what was measured; pure."""

from collections.abc import Callable, Sequence

import msgspec

from benchmarks.gateway_profile import Profile
from benchmarks.party import GALEN
from benchmarks.results import Figure, Results
from benchmarks.rounds import Measurement
from benchmarks.scenarios import SCENARIOS
from benchmarks.targets import Target, evaluate, failed_requests

TOKEN_ERRORS = ("tok", "trunc", "done")


class RunFacts(msgspec.Struct, frozen=True):
    """Where, when and with what was measured.

    Args:
        left_out: parties that did not run, with the reason.
        notes: plain statements, one line each.
    """

    date: str
    command: str
    machine: str
    versions: dict[str, str]
    num_rounds: int
    left_out: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    notes: list[str] = msgspec.field(default_factory=list[str])


class Run(msgspec.Struct, frozen=True):
    """All of a benchmark, as it is kept in JSON."""

    facts: RunFacts
    measurements: list[Measurement]
    profiles: list[Profile] = msgspec.field(default_factory=list[Profile])


INTRODUCTION = """\
# Benchmarks

Written by `python -m benchmarks.run` (`make bench`); do not edit. Every gateway is one process
(LiteLLM one worker) on the same machine as the load generator. The peers stand before a mock engine
in C, Galen before its own worker with the fake engine and a Redis of its own, with all that guards
a request: validation, an API key with all four limits (in Redis), use counted per key, model and
day, the audit, metrics. LiteLLM checks a key. Nobody writes an access log. *direct* is the
mock engine without a gateway. Replies have 64 tokens; the load generator checks every token for
loss, doubling and order.

The loop is closed: where a gateway is saturated, its latencies are queueing. The mock engine writes
every token by itself; a gateway that puts several events into one socket write can be faster than
direct access. That is not a gain over having no gateway.
"""


def render_report(run: Run) -> str:
    """Return the whole page as Markdown."""
    results = Results(run.measurements)
    parts = [
        INTRODUCTION,
        _facts(run),
        "## Targets\n\n" + _failures(results) + render_targets(evaluate(results)),
        "T7 and T8 need a real engine: sections of their own below, by `make bench-engines`.",
        _scenarios(results),
        _processes(results),
        *(_profile(profile) for profile in run.profiles),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def render_targets(targets: Sequence[Target]) -> str:
    """Return the targets as a table."""
    rows = [
        (each.id, each.what, _bound(each), _number(each.value), _verdict(each)) for each in targets
    ]
    return _table(("", "what", "target", "value", "result"), rows)


def _facts(run: Run) -> str:
    facts = run.facts
    foreign = sorted(each.foreign_cores for each in run.measurements) or [0.0]
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    lines = [
        f"* {facts.date}, `{facts.command}`, {facts.num_rounds} round(s); figures are medians over "
        "the rounds, ratios are medians of the rounds' ratios.",
        f"* {facts.machine}",
        f"* {versions}",
        f"* Noise: other programs kept {foreign[len(foreign) // 2]:.2f} cores busy in the median "
        f"measurement and {foreign[-1]:.2f} in the worst. The same program measured twice on a "
        "shared two-core machine has differed by 1.6x: a smaller difference between two rows is "
        "not evidence. No p99 here has been repeated often enough to be a guarantee.",
        *(f"* {note}" for note in facts.notes),
        *(f"* Left out: {name}: {reason}" for name, reason in facts.left_out.items()),
    ]
    return "\n".join(lines)


def _failures(results: Results) -> str:
    failed = failed_requests(results)
    if not results.of_party(GALEN):
        return ""
    if not failed:
        return "Galen: no failed request; no token lost, doubled or out of order.\n\n"
    kinds = ", ".join(f"{kind} {count}" for kind, count in failed.items())
    is_token_error = any(kind.rpartition(" ")[2] in TOKEN_ERRORS for kind in failed)
    what = "LOST, DOUBLED OR MISORDERED TOKENS" if is_token_error else "Failed requests"
    samples = {each.load.errsample for each in results.of_party(GALEN) if each.load.errsample}
    return (
        f"**{what}: {kinds}**\n\n" + "".join(f"    {sample}\n" for sample in sorted(samples)) + "\n"
    )


def _scenarios(results: Results) -> str:
    parts = ["## Figures"]
    for scenario in SCENARIOS:
        rows = [
            _scenario_row(results, scenario.name, party) for party in results.parties(scenario.name)
        ]
        if rows:
            parts.append(f"### {scenario.title}\n\n" + _table(_SCENARIO_HEAD, rows))
    return "\n\n".join(parts)


_SCENARIO_HEAD = (
    "", "rounds", "req/s", "tok/s (min-max)", "TTFT ms p50 / p99", "total ms p50 / p99",
    "gap ms p99", "CPU us/req", "CPU us/tok", "failed",
)  # fmt: skip


def _scenario_row(results: Results, scenario: str, party: str) -> tuple[str, ...]:
    def median(figure: Figure) -> str:
        return _number(results.median(scenario, party, figure))

    def pair(first: Figure, second: Figure) -> str:
        return f"{median(first)} / {median(second)}"

    tokens = results.figures(scenario, party, lambda each: each.load.tok_s)
    failed = sum(each.load.err.total() for each in results.all(scenario, party))
    return (
        party,
        str(len(results.all(scenario, party))),
        median(lambda each: each.load.rps),
        f"{median(lambda each: each.load.tok_s)} ({_number(min(tokens))}-{_number(max(tokens))})",
        pair(lambda each: each.load.ttft_ms.p50, lambda each: each.load.ttft_ms.p99),
        pair(lambda each: each.load.total_ms.p50, lambda each: each.load.total_ms.p99),
        median(lambda each: each.load.gap_ms.p99),
        median(lambda each: each.cpu_us_per_request()),
        median(lambda each: each.cpu_us_per_token()),
        str(failed),
    )


def _processes(results: Results) -> str:
    rows: list[tuple[str, ...]] = []
    for scenario in SCENARIOS:
        for party in results.parties(scenario.name):
            rows += _process_rows(results, scenario.name, party)
    if not rows:
        return ""
    head = (
        "scenario", "", "process", "CPU us/req", "CPU us/tok", "cores", "peak RSS MB",
        "health route ms p50 / p99", "loop lag p99 ms",
    )  # fmt: skip
    text = (
        "## Processes\n\n"
        "CPU (user and system) from /proc, warm-up included. The health route is asked every 20 ms "
        "while images are sent; its time includes the wait for a core. Loop lag is the gateway's "
        "own metric."
    )
    return text + "\n\n" + _table(head, rows)


def _process_rows(results: Results, scenario: str, party: str) -> list[tuple[str, ...]]:
    measured = results.all(scenario, party)
    rows: list[tuple[str, ...]] = []
    for role in measured[0].cpu_s:
        is_first = not rows
        probe = _pair(results, scenario, party) if is_first else ""
        lag = _number(results.median(scenario, party, lambda each: each.metric_lag_p99_ms))
        rows.append(
            (
                scenario,
                party,
                role,
                _number(results.median(scenario, party, _by_role(role, "request"))),
                _number(results.median(scenario, party, _by_role(role, "token"))),
                _number(results.median(scenario, party, _by_role(role, "second"))),
                _number(max(each.peak_rss_mb.get(role, 0.0) for each in measured)),
                probe,
                lag if is_first else "",
            )
        )
    return rows


def _by_role(role: str, per: str) -> Callable[[Measurement], float | None]:
    def figure(measurement: Measurement) -> float | None:
        match per:
            case "request":
                return measurement.cpu_us_per_request(role)
            case "token":
                return measurement.cpu_us_per_token(role)
            case _:
                return measurement.cpu_s[role] / measurement.wall_s

    return figure


def _pair(results: Results, scenario: str, party: str) -> str:
    p50 = results.median(scenario, party, lambda each: each.probe.p50_ms if each.probe else None)
    p99 = results.median(scenario, party, lambda each: each.probe.p99_ms if each.probe else None)
    return f"{_number(p50)} / {_number(p99)}" if p50 is not None else ""


def _profile(profile: Profile) -> str:
    title = (
        f"## Profile of the gateway process: {profile.scenario}\n\n"
        f"py-spy, {profile.num_samples} samples; C extensions (uvloop, hiredis, msgspec) count as "
        "self time of the Python function that called them."
    )
    own = [(f"{each.self_percent:.1f}", f"{each.total_percent:.1f}", f"`{each.function}`")
           for each in profile.by_self]  # fmt: skip
    whole = [(f"{each.self_percent:.1f}", f"{each.total_percent:.1f}", f"`{each.function}`")
             for each in profile.by_total]  # fmt: skip
    head = ("self %", "total %", "function")
    return "\n\n".join(
        (
            title,
            "By self time:",
            _table(head, own),
            "Galen's own functions by total time:",
            _table(head, whole),
        )
    )


def _bound(target: Target) -> str:
    sign = ">=" if target.direction == "at_least" else "<="
    return f"{sign} {target.bound:g} {target.unit}".rstrip()


def _verdict(target: Target) -> str:
    match target.is_met:
        case None:
            return "not measured"
        case True:
            word = "met"
        case False:
            word = "**MISSED**"
    return word if target.margin is None else f"{word}, {_number(target.margin)}x of the target"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
