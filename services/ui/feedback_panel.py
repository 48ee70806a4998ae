"""Votes: a thumb at once, and below the chat what else there is to say about an answer.

Without consent the gateway keeps the thumb only. With it, the conversation and its images are given
for training, under a pseudonym and a licence that the person states.
"""

from dataclasses import replace
from typing import Any

import gradio as gr

from services.ui.context import Ui
from services.ui.conversation import Conversation, Turn, turn_of_message
from services.ui.gateway_client import Gateway
from services.ui.problems import GatewayError

_HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_RATINGS = {True: "up", False: "down", "Flag": "flag"}
_NOTHING = -1


class FeedbackPanel:
    """Joined to a chat whose turns have request ids."""

    def __init__(self, ui: Ui, chat: gr.Chatbot, conversation: gr.State) -> None:
        self._ui = ui
        self._chat = chat
        self._conversation = conversation
        self.index = gr.State(_NOTHING)
        with gr.Accordion("Say more about this answer", visible=False, open=True) as self.group:
            self.rated = gr.Markdown()
            self.rating = gr.Radio(["up", "down", "flag"], label="Rating")
            self.reason = gr.Textbox(label="Reason", lines=1, max_length=4096)
            self.corrected = gr.Textbox(
                label="What it should have been", lines=3, max_length=65_536
            )
            self.consent = gr.Checkbox(
                label="This conversation, with its images, may be used for training",
                info="Without this only the rating is kept: no reason, no correction, no image.",
            )
            with gr.Row(visible=False) as self.given:
                self.subject = gr.Textbox(
                    label="Pseudonym of the patient or study", max_length=64, info="no real name"
                )
                self.licence = gr.Textbox(label="Licence", max_length=64, info="such as CC-BY-4.0")
            self.send = gr.Button("Send", variant="primary", size="sm")
        self._join()

    def _join(self) -> None:
        outputs = [self._conversation, self.index, self.group, self.rated, self.rating]
        self._chat.like(self._on_thumb, self._conversation, outputs, **_HIDDEN)
        self.consent.input(
            lambda is_given: gr.update(visible=is_given), self.consent, self.given, **_HIDDEN
        )
        given = {
            self._conversation, self.index, self.rating, self.reason, self.corrected, self.consent,
            self.subject, self.licence,
        }  # fmt: skip
        self.send.click(
            self._on_send, given, [self.rated, self._conversation], show_progress="minimal",
            api_visibility="private",
        )  # fmt: skip

    async def _on_thumb(
        self, conversation: Conversation, data: gr.LikeData, request: gr.Request
    ) -> Any:
        index = turn_of_message(data.index if isinstance(data.index, int) else data.index[0])
        rating = _RATINGS.get(data.liked, "")
        if index >= len(conversation.turns) or not rating:
            return gr.skip()
        turn = conversation.turns[index]
        gateway = self._ui.gateway_of(request)
        told = await _vote(gateway, {"request_id": turn.request_id, "rating": rating}, turn)
        turns = list(conversation.turns)
        turns[index] = replace(turn, rating=rating)
        return {
            self._conversation: replace(conversation, turns=tuple(turns)),
            self.index: index,
            self.group: gr.update(visible=True),
            self.rated: told,
            self.rating: rating,
        }

    async def _on_send(self, given: dict[Any, Any], request: gr.Request) -> dict[Any, Any]:
        conversation: Conversation = given[self._conversation]
        index: int = given[self.index]
        if not 0 <= index < len(conversation.turns):
            return {self.rated: "**Choose an answer first, by its thumb.**"}
        turn = conversation.turns[index]
        vote: dict[str, Any] = {
            "request_id": turn.request_id,
            "rating": given[self.rating],
            "consent": bool(given[self.consent]),
        }
        for name, component in (("reason", self.reason), ("corrected_answer", self.corrected)):
            if given[component]:
                vote[name] = given[component]
        gateway = self._ui.gateway_of(request)
        if given[self.consent]:
            if not (given[self.subject] and given[self.licence]):
                return {self.rated: "**A pseudonym and a licence are needed for that.**"}
            turns = conversation.turns[: index + 1]
            if any(each.attachments for each in turns[1:]):
                return {
                    self.rated: "**Only a conversation whose images all stand in its first "
                    "question can be given for training.**"
                }
            vote |= {"subject": given[self.subject], "licence": given[self.licence]}
            try:
                vote |= await _content(gateway, turns)
            except GatewayError as error:
                return {self.rated: f"**Not sent. {error.problem.text()}**"}
            except OSError:
                return {self.rated: "**Not sent. An image of this conversation is gone.**"}
        return {self.rated: await _vote(gateway, vote, turn)}


async def _content(gateway: Gateway, turns: tuple[Turn, ...]) -> dict[str, Any]:
    """Return a conversation for training; its images are uploaded."""
    images: list[dict[str, Any]] = []
    for each in turns[0].attachments:
        file = await gateway.upload(each.file.name, each.file.read_bytes(), "vision")
        image: dict[str, Any] = {"file_id": file.id}
        if each.preprocess:
            image["preprocess"] = dict(each.preprocess)
        images.append(image)
    said = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in (("user", turn.question), ("assistant", turn.answer))
    ]
    return {"conversation": said, **({"images": images} if images else {})}


async def _vote(gateway: Gateway, vote: dict[str, Any], turn: Turn) -> str:
    if not turn.request_id:
        return "**There is no answer to vote on.**"
    try:
        await gateway.vote(vote)
    except GatewayError as error:
        return f"**Not sent. {error.problem.text()}**"
    return f"Your vote was kept: **{vote['rating']}**. You may say more below."
