"""Two models side by side on one question: streamed at once, voted on blindly, counted.

What does *not* live here: who is A and what follows from a vote (`blind_test.py`).
"""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import gradio as gr
import structlog

from services.ui.answering import answer_last
from services.ui.blind_test import LETTERS, RATINGS, Choice, Contestant, Round, Score
from services.ui.context import Served, Ui
from services.ui.conversation import DISCLAIMER
from services.ui.gateway_client import Sampling
from services.ui.gradio_parts import EMPTY_QUESTION, QUIET, SAFE_CHAT, Given, question_input
from services.ui.html_tables import html_table
from services.ui.image_panel import ImagePanel
from services.ui.merged_turns import merged_turns
from services.ui.model_list import choices_of, context_of, first_choice, longest_answer
from services.ui.problems import GatewayError
from services.ui.sessions import Session

_log = structlog.get_logger()

_BUTTONS: tuple[tuple[Choice, str], ...] = (
    ("a", "A is better"), ("b", "B is better"), ("both", "Both are good"), ("none", "Both are bad"),
)  # fmt: skip
_TITLES = ("model", "better", "worse", "both good", "both bad")
_HOW = (
    "Choose two models (or one twice, with different temperatures) and ask. Until you vote, a "
    "further question goes on with the same two; after the vote it begins a new comparison."
)


class CompareTab:
    """Builds the tab within the current `gr.Tabs`."""

    def __init__(self, ui: Ui) -> None:
        self._ui = ui
        with gr.Tab("Compare", id="compare", elem_id="tab-compare") as tab:
            self.round = gr.State(None)
            self.score = gr.State(Score())
            gr.Markdown(_HOW)
            with gr.Row():
                self._build_menus()
            with gr.Row():
                with gr.Column(scale=5, min_width=320):
                    self._build_question()
                    self._build_votes()
                with gr.Column(scale=2, min_width=280):
                    self._build_parameters()
                    self.panel = ImagePanel(ui, "compare-seen")
        self._join(tab)

    def _build_question(self) -> None:
        with gr.Row():
            self.answers = [
                gr.Chatbot(
                    label=f"Answer {letter}",
                    elem_id=f"compare-answer-{letter.lower()}",
                    elem_classes="answer",
                    height="46vh",
                    min_height=240,
                    placeholder=f"Answer {letter} comes here. {DISCLAIMER}",
                    buttons=["copy"],
                    **SAFE_CHAT,
                )
                for letter in LETTERS
            ]
        self.input = question_input(
            "Question to both",
            "Ask both about the images; add them by the paper clip, paste or drag",
            "compare-question",
        )
        with gr.Row():
            self.stop = gr.Button("Stop", variant="stop", size="sm", elem_id="compare-stop")
            self.clear = gr.Button("New comparison", size="sm", elem_id="compare-clear")

    def _build_votes(self) -> None:
        with gr.Row():
            self.votes: dict[Choice, gr.Button] = {
                choice: gr.Button(
                    label, interactive=False, size="sm", min_width=130, elem_id=f"vote-{choice}"
                )
                for choice, label in _BUTTONS
            }
        self.names = gr.Markdown(elem_id="compare-names")
        self.consent = gr.Checkbox(
            label="With my vote, Galen may keep which model the answer was compared with",
            info="Without this the two ratings alone are kept. Question, images and answers are "
            "not kept either way.",
            elem_id="compare-consent",
        )
        self.table = gr.HTML(
            _table(Score()), elem_id="compare-score", elem_classes="table", padding=False
        )

    def _build_menus(self) -> None:
        self.first, self.second = (
            gr.Dropdown(
                [], label=f"{which} model", elem_id=f"compare-{side}", allow_custom_value=True
            )
            for which, side in (("First", "left"), ("Second", "right"))
        )
        self.blind = gr.Checkbox(
            value=True,
            label="Blind",
            info="Which of the two is A is drawn at random, and told after your vote.",
            elem_id="compare-blind",
        )

    def _build_parameters(self) -> None:
        with gr.Accordion("Parameters", open=False):
            self.warmths = [
                gr.Slider(0, 2, 0.2, step=0.05, label=f"Temperature of the {which} model")
                for which in ("first", "second")
            ]
            self.max_tokens = gr.Slider(
                1, 4096, 512, step=1, label="Longest answer, in tokens",
                info="less where the model's context leaves less",
            )  # fmt: skip

    @property
    def menus(self) -> list[Any]:
        """The two menus of models, which follow the gateway."""
        return [self.first, self.second]

    def updates(self, served: Served, first: str | None, second: str | None) -> list[Any]:
        """Return updates of `menus`; what is chosen stays."""
        return [gr.update(choices=choices_of(served.models, each)) for each in (first, second)]

    def _join(self, tab: gr.Tab) -> None:
        self.panel.attach(self.input, self.first)
        tab.select(self._on_open, self.menus, self.menus, **QUIET)
        given = {
            self.input, self.panel.pending, self.round, *self.menus, self.blind, *self.warmths,
            self.max_tokens,
        }  # fmt: skip
        shown = [*self.answers, self.round, self.names, *self.votes.values()]
        asking = self.input.submit(
            self._on_submit, given, [*shown, self.input],
            concurrency_limit=self._ui.settings.at_once, concurrency_id="answers", **QUIET,
        )  # fmt: skip
        # first the end of the answers, then what is shown of them: together they would race
        self.stop.click(None, cancels=[asking]).then(self._on_stop, self.round, shown, **QUIET)
        for trigger in (self.clear.click, *(each.clear for each in self.answers)):
            trigger(None, cancels=[asking]).then(
                self._on_clear, self.round, [*shown, self.input], **QUIET
            )
        voted = {self.round, self.score, self.consent}
        for choice, button in self.votes.items():
            button.click(self._voting(choice), voted, [*shown, self.score, self.table], **QUIET)

    async def _on_open(
        self, first: str | None, second: str | None, request: gr.Request
    ) -> list[Any]:
        """Fill the menus: two models where there are two."""
        served = await self._ui.served_to(self._ui.session_of(request))
        first = first or first_choice(served.models)
        others = [model for model in served.models if model.id != first]
        second = second or first_choice(others) or first
        return [
            gr.update(choices=choices_of(served.models, each), value=each)
            for each in (first, second)
        ]

    async def _on_submit(self, given: Given, request: gr.Request) -> AsyncGenerator[Given]:
        value = given[self.input] or {}
        question, files = value.get("text") or "", value.get("files") or []
        models = given[self.first] or "", given[self.second] or ""
        if not question.strip() or not all(models):
            gr.Info("Choose two models and write a question; an image alone asks nothing.")
            yield gr.skip()  # else the input would get no value at all
            return
        session = self._ui.session_of(request)
        attachments = self.panel.attachments(files, given[self.panel.pending])
        asked = self._round(given, models)
        left, right = asked.conversations
        asked = replace(
            asked,
            conversations=(left.asked(question, attachments), right.asked(question, attachments)),
        )
        yield {self.input: EMPTY_QUESTION, **self._shown(asked)}
        async with aclosing(self._answered(asked, given, session)) as updates:
            async for update in updates:
                yield update

    def _round(self, given: Given, models: tuple[str, str]) -> Round:
        """Return the round that a question belongs to: the one under way, or a new one."""
        first, second = (
            Contestant(model, given[warmth])
            for model, warmth in zip(models, self.warmths, strict=True)
        )
        is_blind = bool(given[self.blind])
        before: Round | None = given[self.round]
        if before is not None and before.goes_on((first, second), is_blind=is_blind):
            return before
        return Round((first, second), is_blind, is_swapped=is_blind and secrets.randbits(1) == 1)

    async def _answered(
        self, asked: Round, given: Given, session: Session
    ) -> AsyncGenerator[Given]:
        served = await self._ui.served_to(session)
        gateway = self._ui.gateways.of(session.key)
        answers = [
            answer_last(
                gateway,
                each.model,
                conversation,
                Sampling(
                    each.temperature,
                    max_tokens=longest_answer(
                        int(given[self.max_tokens]), context_of(served.models, each.model)
                    ),
                ),
            )
            for each, conversation in zip(asked.contestants, asked.conversations, strict=True)
        ]
        async with aclosing(merged_turns(answers)) as turns:
            async for side, turn in turns:
                asked = asked.with_turn(side, turn)
                yield {self.answers[side]: asked.messages(side), self.round: asked}
        yield self._shown(asked)
        _log.info(
            "ui.comparison.done",
            request_ids=[turn.request_id for turn in asked.turns],
            states=[turn.state for turn in asked.turns],
        )

    def _on_stop(self, asked: Round | None) -> Given:
        if asked is None or asked.is_over:
            return gr.skip()
        return self._shown(asked.stopped())

    def _on_clear(self, asked: Round | None, request: gr.Request) -> Given:
        session = self._ui.session_of(request)
        if asked is not None:
            files = asked.conversations[0].files() & session.files
            self._ui.sessions.drop_files(session, files)
        empty = [gr.update(value=[], label=f"Answer {letter}") for letter in LETTERS]
        return {
            **dict(zip(self.answers, empty, strict=True)),
            **{button: gr.update(interactive=False) for button in self.votes.values()},
            self.round: None,
            self.names: "",
            self.input: EMPTY_QUESTION,
        }

    def _voting(self, choice: Choice) -> Any:
        """Return what a button does."""

        async def on_vote(given: Given, request: gr.Request) -> Given:
            asked: Round | None = given[self.round]
            if asked is None or not asked.can_be_voted_on:
                return gr.skip()
            told = await self._send(asked, choice, given, request)
            score: Score = given[self.score]
            if not asked.vote:
                score = score.with_vote(asked, choice)
            voted = replace(asked, vote=choice, is_kept=not told)
            shown = self._shown(voted)
            shown[self.names] += f"\n\n{told or _kept(choice, is_whole=bool(given[self.consent]))}"
            return {**shown, self.score: score, self.table: _table(score)}

        return on_vote

    async def _send(self, asked: Round, choice: Choice, given: Given, request: gr.Request) -> str:
        """Vote on both answers; returns what went wrong, "" where nothing did.

        Sent again, both votes take the place of what was kept of them.
        """
        gateway = self._ui.gateway_of(request)
        try:
            for side, rating in enumerate(RATINGS[choice]):
                vote: dict[str, Any] = {
                    "request_id": asked.turns[side].request_id,
                    "rating": rating,
                }
                if given[self.consent]:
                    vote |= {"consent": True, "reason": asked.reason(side)}
                await gateway.vote(vote)
        except GatewayError as error:
            return f"**The vote was not kept. {error.problem.text()}** Press it again to repeat."
        return ""

    def _shown(self, asked: Round) -> Given:
        """Return updates of all that shows a round."""
        can_vote = asked.can_be_voted_on and not asked.vote
        # what could not be sent may be sent again
        again = "" if asked.is_kept else asked.vote
        return {
            **{
                answer: gr.update(value=asked.messages(side), label=asked.label(side))
                for side, answer in enumerate(self.answers)
            },
            **{
                button: gr.update(interactive=can_vote or choice == again)
                for choice, button in self.votes.items()
            },
            self.round: asked,
            self.names: _names(asked),
        }


def _names(asked: Round) -> str:
    if asked.is_open:
        return " ".join(
            f"Answer {letter}: **{each.name}**."
            for letter, each in zip(LETTERS, asked.contestants, strict=True)
        )
    return "Which model is which is told after your vote."


def _kept(choice: Choice, *, is_whole: bool) -> str:
    ratings = ", ".join(
        f"{letter} {rating}" for letter, rating in zip(LETTERS, RATINGS[choice], strict=True)
    )
    what = "with the name of the other model" if is_whole else "the ratings alone"
    return f"Your vote was kept ({ratings}), {what}."


def _table(score: Score) -> str:
    return html_table("Votes on this page", _TITLES, score.rows(), "None yet.")
