"""A started engine and everything it says, for tests: submit, wait for events, read answers."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from services.protocol.messages import (
    EngineEvent,
    Failed,
    Finished,
    GenerationRequest,
    ImagePart,
    ImageRef,
    Message,
    ModelCard,
    SamplingParams,
    TextPart,
    Tokens,
)
from services.worker.engines.base import Engine, EngineJob

EngineFactory = Callable[[], Engine]
WAIT_S = 60.0

PROMPTS = (
    "What does this image show?",
    "Describe the finding in detail, and say on which side of the body it lies.",
    "Why?",
    "List every organ that can be seen, one after the other, from the top to the bottom.",
)


@dataclass
class Recorded:
    """Everything that an engine said of one request."""

    events: list[EngineEvent] = field(default_factory=list)

    @property
    def tokens(self) -> list[Tokens]:
        return [event for event in self.events if isinstance(event, Tokens)]

    @property
    def token_ids(self) -> list[int]:
        return [token_id for event in self.tokens for token_id in event.token_ids]

    @property
    def texts(self) -> list[str]:
        return [text for event in self.tokens for text in event.texts]

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def end(self) -> Finished | Failed:
        last = self.events[-1]
        assert isinstance(last, Finished | Failed)
        return last

    @property
    def finished(self) -> Finished:
        assert isinstance(self.end, Finished), self.end
        return self.end

    @property
    def failed(self) -> Failed:
        assert isinstance(self.end, Failed), self.end
        return self.end


class RecordingProgress:
    """Progress kept in lists; written by whatever thread the engine steps in."""

    def __init__(self) -> None:
        self.log: list[tuple[str, ...]] = []

    def admitting(self, request_ids: Sequence[str]) -> None:
        self.log.append(("admitting", *request_ids))

    def step_done(self) -> None:
        self.log.append(("step_done",))


class Running:
    """A started engine with all that it emitted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.progress = RecordingProgress()
        self.threads: set[int] = set()
        self.card: ModelCard
        self._recorded: dict[str, Recorded] = {}
        self._changed = asyncio.Event()

    def emit(self, events: Sequence[EngineEvent]) -> None:
        self.threads.add(threading.get_ident())
        for event in events:
            self.of(event.request_id).events.append(event)
        self._changed.set()

    def of(self, request_id: str) -> Recorded:
        return self._recorded.setdefault(request_id, Recorded())

    def submit(self, *jobs: EngineJob) -> None:
        for job in jobs:
            self.engine.submit(job)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def ends(self, *request_ids: str) -> list[Recorded]:
        def all_ended() -> bool:
            return all(
                recorded.events and isinstance(recorded.events[-1], Finished | Failed)
                for recorded in map(self.of, request_ids)
            )

        await self.until(all_ended)
        return [self.of(request_id) for request_id in request_ids]

    async def run(self, *jobs: EngineJob) -> list[Recorded]:
        self.submit(*jobs)
        return await self.ends(*(job.request.request_id for job in jobs))


@asynccontextmanager
async def running(make_engine: EngineFactory) -> AsyncIterator[Running]:
    started = Running(make_engine())
    started.card = await started.engine.start(started.emit, started.progress)
    try:
        yield started
    finally:
        await started.engine.close()


def picture(seed: int, width: int = 70, height: int = 60) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def image_ref(image: Image.Image) -> ImageRef:
    """As the gateway names images: engines take those of one hash for the same."""
    shape = f"{image.width}x{image.height}".encode()
    return ImageRef(hashlib.sha256(shape + image.tobytes()).hexdigest(), image.width, image.height)


def job(
    request_id: str,
    text: str = PROMPTS[0],
    images: Sequence[Image.Image] = (),
    *,
    resume_token_ids: Sequence[int] = (),
    attempt: int = 1,
    **sampling: Any,
) -> EngineJob:
    params = msgspec.convert({"temperature": 0.0, "max_tokens": 24, **sampling}, SamplingParams)
    refs = [ImagePart(image_ref(image)) for image in images]
    request = GenerationRequest(
        request_id=request_id,
        gateway_id="gateway",
        tenant_id="tenant",
        model="model",
        lane="interactive",
        messages=(Message("user", (*refs, TextPart(text))),),
        sampling=params,
        attempt=attempt,
        resume_token_ids=tuple(resume_token_ids),
    )
    return EngineJob(request, tuple(images))
