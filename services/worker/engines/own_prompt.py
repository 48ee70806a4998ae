"""A conversation's token ids by the code that training uses: `OwnTemplate` and `PromptTokeniser`.

For processors whose images are one placeholder in the text, such as LLaVA's. What does *not* live
here: pixels (`image_inputs.py`), and processors that do more to text (`chat_prompt.py`).
"""

from collections.abc import Sequence
from typing import Any

from modeling.conversations import Conversation, ImageSlot, Turn
from modeling.own_template import OwnTemplate
from modeling.prompt import ImageTokens, PromptTokeniser, SpecialIds
from services.protocol.messages import Message, TextPart


class OwnPrompts:
    """Conversations as ids, one placeholder per image, with the assistant's turn opened.

    Args:
        processor: of transformers, with a fast tokenizer and a chat template.
    """

    def __init__(self, processor: Any, image_token_id: int) -> None:
        self._template = OwnTemplate(processor)
        self._tokeniser = PromptTokeniser(
            processor.tokenizer.backend_tokenizer,
            SpecialIds(bos=None, eos=image_token_id),  # an own template names its tokens by id
            ImageTokens((image_token_id,)),
        )

    def token_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a prompt.

        Raises:
            TemplateError: the template refuses the conversation, or does more than place its texts.
        """
        turns = tuple(
            Turn(
                message.role,
                tuple(p.text if isinstance(p, TextPart) else ImageSlot() for p in message.parts),
            )
            for message in messages
        )
        pieces = self._template.write(Conversation(turns), opens_answer=True)
        return self._tokeniser.tokenise(pieces).token_ids
