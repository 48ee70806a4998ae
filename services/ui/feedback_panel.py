"""Votes: a thumb at once, and below the chat what else there is to say about an answer.

Without consent the gateway keeps the thumb only. With it, the conversation and its images are given
for training, under a pseudonym and a licence that the person states.
"""

from typing import Any

import gradio as gr

from services.ui.context import Ui
from services.ui.conversation import Conversation, Turn, turn_of_message
from services.ui.gateway_client import Gateway
from services.ui.gradio_parts import QUIET
from services.ui.problems import GatewayError

_KEPT = "Your vote was kept"
_RATINGS = {True: "up", False: "down", "Flag": "flag"}


class FeedbackPanel:
    """Joined to a chat whose turns have request ids."""

    def __init__(self, ui: Ui, chat: gr.Chatbot, conversation: gr.State) -> None:
        self._ui = ui
        self._chat = chat
        self._conversation = conversation
        self.request_id = gr.State("")
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

    @property
    def outputs(self) -> list[Any]:
        """What `forget` gives."""
        return [
            self.request_id, self.group, self.rated, self.rating, self.reason, self.corrected,
            self.consent, self.given, self.subject, self.licence,
        ]  # fmt: skip

    def forget(self) -> dict[Any, Any]:
        """Hide the panel and empty it: what was said of one answer must not be sent with another.

        A consent, a pseudonym and a correction are one patient's.
        """
        return {
            self.request_id: "",
            self.group: gr.update(visible=False),
            self.rated: "",
            self.rating: None,
            self.reason: "",
            self.corrected: "",
            self.consent: False,
            self.given: gr.update(visible=False),
            self.subject: "",
            self.licence: "",
        }

    def _join(self) -> None:
        kept = [self._conversation, self.request_id]
        self._chat.like(self._on_thumb, kept, self.outputs, **QUIET)
        self.consent.input(
            lambda is_given: gr.update(visible=is_given), self.consent, self.given, **QUIET
        )
        given = {
            self._conversation, self.request_id, self.rating, self.reason, self.corrected,
            self.consent, self.subject, self.licence,
        }  # fmt: skip
        self.send.click(
            self._on_send, given, self.rated, show_progress="minimal", api_visibility="private"
        )

    async def _on_thumb(
        self,
        conversation: Conversation,
        present: str,
        data: gr.LikeData,
        request: gr.Request,
    ) -> Any:
        index = turn_of_message(data.index if isinstance(data.index, int) else data.index[0])
        rating = _RATINGS.get(data.liked, "")
        if index >= len(conversation.turns) or not rating:
            return gr.skip()
        turn = conversation.turns[index]
        gateway = self._ui.gateway_of(request)
        told = await _vote(gateway, {"request_id": turn.request_id, "rating": rating}, turn)
        emptied = {} if present == turn.request_id else self.forget()
        return {
            **emptied,
            self.request_id: turn.request_id,
            self.group: gr.update(visible=True),
            self.rated: told,
            self.rating: rating,
        }

    async def _on_send(self, given: dict[Any, Any], request: gr.Request) -> str:
        conversation: Conversation = given[self._conversation]
        index = _index_of(conversation, given[self.request_id])
        if index is None:
            return "**Choose an answer first, by its thumb.**"
        turn = conversation.turns[index]
        vote: dict[str, Any] = {
            "request_id": turn.request_id,
            "rating": given[self.rating],
            "consent": bool(given[self.consent]),
        }
        said = {"reason": given[self.reason], "corrected_answer": given[self.corrected]}
        vote |= {name: text for name, text in said.items() if text}
        gateway = self._ui.gateway_of(request)
        if not given[self.consent]:
            told = await _vote(gateway, vote, turn)
            is_lost = any(said.values()) and told.startswith(_KEPT)
            return told + (" Without consent nothing else was kept." if is_lost else "")
        if not (given[self.subject] and given[self.licence]):
            return "**A pseudonym and a licence are needed for that.**"
        turns = conversation.turns[: index + 1]
        if any(each.attachments for each in turns[1:]):
            return (
                "**Only a conversation whose images all stand in its first question can be given "
                "for training.**"
            )
        vote |= {"subject": given[self.subject], "licence": given[self.licence]}
        try:
            vote |= await _content(gateway, turns)
        except (GatewayError, OSError) as error:
            gone = "An image of this conversation is gone."
            why = error.problem.text() if isinstance(error, GatewayError) else gone
            return f"**Not sent. {why}**"
        return await _vote(gateway, vote, turn)


def _index_of(conversation: Conversation, request_id: str) -> int | None:
    """Return which turn has an answer; None: it is not there any more."""
    for index, turn in enumerate(conversation.turns):
        if request_id and turn.request_id == request_id:
            return index
    return None


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
    return f"{_KEPT}: **{vote['rating']}**. You may say more below."
