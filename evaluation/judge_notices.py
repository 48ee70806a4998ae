"""What every command that asks a judge says and checks before, and shows afterwards.

What does *not* live here: options (`options.py`), judging (`judging/`).
"""

from collections.abc import Sequence

import typer

from evaluation.judging.asking import Judgement, estimated_cost
from evaluation.judging.report import group_rows
from evaluation.judging.running import Judged, check_texts
from evaluation.options import EXIT_INCOMPLETE
from evaluation.tables import aligned
from modeling.tool_errors import say
from services.endpoint_client.budget import Prices
from services.endpoint_client.client import Endpoint
from services.endpoint_client.endpoint_options import is_external


def prices_of(price_prompt: float, price_completion: float, most_cost: float | None) -> Prices:
    """Return the prices; raises typer.BadParameter for a ceiling that nothing is measured by."""
    if most_cost is not None and not (price_prompt or price_completion):
        raise typer.BadParameter("--most-cost needs --price-prompt, --price-completion, or both")
    return Prices(price_prompt, price_completion)


def check_and_announce(
    asked: Sequence[Judgement], endpoint: Endpoint, prices: Prices, *, may_name: bool
) -> None:
    """Say how much goes to the judge, to whom, at about what cost.

    Args:
        may_name: send texts that seem to name a patient, too.

    Raises:
        EvaluationError: they do, and would leave this machine.
    """
    if is_external(endpoint.url) and not may_name:
        check_texts(asked, endpoint.url)
    say(
        f"{len(asked)} questions with their answers go to {endpoint.url} ({endpoint.model}); about "
        f"{sum(each.prompt_tokens for each in asked):,.0f} tokens of prompts, "
        f"cost about {estimated_cost(asked, prices):.2f}"
    )


def judged_table(found: Judged) -> str:
    """Return the table by type and domain."""
    header = ["", "version", "relative %", "95 % interval", "model", "reference", "n"]
    return aligned(header, group_rows(found.groups))


def say_unscored(found: Judged, num_items: int) -> int:
    """Say how many scores are missing, and why, or to be looked at; returns the exit code."""
    if found.num_addressing:
        say(
            f"{found.num_addressing} answers seem to tell the judge what to do; the receipt names "
            "them under addressing_judge, look at their scores"
        )
    if not found.num_unscored:
        return 0
    why = f": {found.why}" if found.why else ""
    say(f"{found.num_unscored} of {num_items} questions are unscored{why}")
    return EXIT_INCOMPLETE
