"""Why a model that was loaded later did not start, read from its worker's log."""

import structlog

from services.launcher.fleet import _cause_in

EVENT = "engine.start.refused"
CAUSES = (
    '/models/a does not load (ValueError: Couldn\'t read "it")',
    "it's damaged: 'lm_head.weight' holds NaN; copy it again",
    "plain words, cause=nothing",
)


def test_cause_is_found_in_both_formats_of_a_log() -> None:
    json_lines = structlog.processors.JSONRenderer()
    console = structlog.dev.ConsoleRenderer(colors=False)
    for cause in CAUSES:
        for render in (json_lines, console):
            line = render(None, "error", {"event": EVENT, "cause": cause, "service": "worker"})
            assert _cause_in(["noise", str(line), "engine.died exit_code=3"]) == cause


def test_death_without_a_cause_has_none() -> None:
    assert _cause_in([]) == ""
    assert (
        _cause_in(["engine.died cause='x'", f"{{{EVENT}", f'"{EVENT}"', f"{EVENT} cause=''"]) == ""
    )
