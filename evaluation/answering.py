"""One question to an endpoint, and the record of its answer.

Questions about one image are asked one behind the other, so that a server with a prefix cache
encodes the image once. What does *not* live here: many at once, and the endpoint
(`services.endpoint_client`), what answers are worth (`scoring.py`).
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.item_images import SentImage, read_image
from evaluation.scoring import image_of
from evaluation.vqa_items import Item
from services.endpoint_client.client import EndpointClient, Reply

_LISTED = 3


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are drawn; sent with every question."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 64
    seed: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        """Of a chat completion."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Respondent:
    """Who is asked, and how.

    Args:
        images: folder of the items' images.
    """

    client: EndpointClient
    images: Path
    decoding: Decoding

    async def ask(self, item: Item) -> dict[str, Any]:
        """Return the record of an answer.

        Raises:
            EvaluationError: the question's image cannot be sent.
            EndpointError: there is no answer.
        """
        image = None
        if item.image is not None:
            image = await asyncio.to_thread(read_image, self.images, item.image)
        reply = await self.client.complete(messages_of(item.question, image), self.decoding.fields)
        return answer_record(item, reply, self.client.endpoint.model, image)


def answer_record(item: Item, reply: Reply, model: str, image: SentImage | None) -> dict[str, Any]:
    """Return the line of an answer, in LLaVA-Med's format."""
    return {
        "question_id": item.id,
        "prompt": item.question,
        "text": reply.text,
        "answer_id": uuid.uuid4().hex[:22],
        "model_id": model,
        "metadata": {
            "finish_reason": reply.finish_reason,
            "usage": {
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
            },
            "seconds": round(reply.seconds, 3),
            "image_sha256": image.sha256 if image else None,
            "converted_by": (image.converted_by or None) if image else None,
            "preprocess": reply.preprocess or None,
        },
    }


def in_order_of_images(items: Sequence[Item]) -> list[Item]:
    """Return all items, those of one image together, else in their order."""
    first: dict[str, int] = {}
    for number, item in enumerate(items):
        first.setdefault(image_of(item), number)
    return sorted(items, key=lambda item: first[image_of(item)])


def messages_of(question: str, image: SentImage | None) -> list[Mapping[str, Any]]:
    """Return the conversation that is sent: the image, then the question."""
    text = {"type": "text", "text": question}
    if image is None:
        return [{"role": "user", "content": [text]}]
    shown = {"type": "image_url", "image_url": {"url": image.url}}
    return [{"role": "user", "content": [shown, text]}]


def why_failed(failed: Mapping[str, str]) -> str:
    """Return a few reasons in one line."""
    reasons = list(dict.fromkeys(failed.values()))
    more = f" and {len(reasons) - _LISTED} more reasons" if len(reasons) > _LISTED else ""
    return "; ".join(reasons[:_LISTED]) + more
