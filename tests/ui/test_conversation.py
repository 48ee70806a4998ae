"""A conversation as it is shown and saved."""

from datetime import UTC, datetime

import pytest

from services.ui.conversation import Conversation, Turn, as_markdown, harmless

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (Turn("q", answer="half", state="stopped"), "> Stopped."),
        (Turn("q", answer="half", state="complete", finish_reason="length"), "> Cut at the"),
    ],
)
def test_a_saved_answer_says_that_it_is_not_whole(turn: Turn, said: str) -> None:
    assert f"half\n\n{said}" in as_markdown(Conversation((turn,)), MOMENT)


def test_a_saved_answer_that_is_whole_says_nothing() -> None:
    turn = Turn("q", answer="whole", state="complete", finish_reason="stop")

    assert as_markdown(Conversation((turn,)), MOMENT).endswith("whole\n")


@pytest.mark.parametrize("code", ["```\n<b>\n```", "~~~\n<b>\n~~~", "text\n~~~html\n<b>", "`<b>`"])
def test_code_stays_as_it_is(code: str) -> None:
    assert harmless(code) == code


@pytest.mark.parametrize("text", ["<b>", "a ~~~ <b> ~~~", "~~~\nx\n~~~\n<b>", "~~ <b>"])
def test_tags_elsewhere_are_text(text: str) -> None:
    assert "&lt;b>" in harmless(text)


@pytest.mark.parametrize("fence", ["```", "~~~"])
def test_a_diagram_is_shown_as_code(fence: str) -> None:
    assert harmless(f"{fence}mermaid\ngraph LR\n{fence}") == f"{fence}text\ngraph LR\n{fence}"
