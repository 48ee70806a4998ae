"""Chat requests and answers in the few forms that the end-to-end tests need.

Requests are plain dicts of type Any: the client's TypedDicts do not take dicts that are made here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from PIL import Image

from tests.gateway.media.image_files import data_url, noise

FAKE_IMAGE_TOKENS = (336 // 14) ** 2
"""What the fake engine counts for any image: CLIP's patches after its own recipe."""
RED_NOISE = noise(80, 80, seed=1)
BLUE_NOISE = noise(80, 80, seed=2)


def text_part(text: str) -> Any:
    return {"type": "text", "text": text}


def image_part(image: Image.Image | str) -> Any:
    """A part with an image, or with a URL that stands as it is."""
    url = image if isinstance(image, str) else data_url(image)
    return {"type": "image_url", "image_url": {"url": url}}


def user(*parts: str | Image.Image) -> Any:
    """A user message: a string alone stays a string, everything else becomes parts."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return {"role": "user", "content": parts[0]}
    content = [text_part(p) if isinstance(p, str) else image_part(p) for p in parts]
    return {"role": "user", "content": content}


def numbered(count: int) -> str:
    """What the fake engine answers with `count` tokens."""
    return "".join(f"zq{i:04d} " for i in range(count))


@dataclass(slots=True)
class StreamedChoice:
    """What a stream said about one choice; `pieces` has one entry per content event."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class StreamedAnswer:
    """A stream, read to its end."""

    choices: dict[int, StreamedChoice] = field(default_factory=dict)
    usages: list[CompletionUsage] = field(default_factory=list)
    chunks: list[ChatCompletionChunk] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.choices[0].text

    def add(self, chunk: ChatCompletionChunk) -> None:
        self.chunks.append(chunk)
        if chunk.usage is not None:
            self.usages.append(chunk.usage)
        for choice in chunk.choices:
            seen = self.choices.setdefault(choice.index, StreamedChoice())
            if choice.delta.role is not None:
                seen.roles.append(choice.delta.role)
            elif choice.finish_reason is not None:
                seen.finish_reasons.append(choice.finish_reason)
            else:
                assert choice.delta.content is not None
                seen.pieces.append(choice.delta.content)
            if choice.logprobs is not None:
                seen.logprobs += [entry.logprob for entry in choice.logprobs.content or ()]


def read_stream(chunks: Iterable[ChatCompletionChunk]) -> StreamedAnswer:
    answer = StreamedAnswer()
    for chunk in chunks:
        answer.add(chunk)
    return answer


def repeats(tokens: Sequence[str]) -> int:
    """How many tokens were there before; those that are no whole character do not count."""
    whole = [token for token in tokens if token and "\N{REPLACEMENT CHARACTER}" not in token]
    return len(whole) - len(set(whole))
