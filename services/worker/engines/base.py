"""What an engine is: the one interface between the worker's loop and an inference library.

An engine takes whole requests, batches them as it likes, and gives events back one *step* at a
time. It knows nothing of Redis, HTTP or OpenAI. Tests that every engine must pass:
`tests/worker/engine_contract.py`.
"""

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import structlog
from PIL import Image

from modeling.adapter_files import AdapterFiles
from services.protocol.messages import EngineEvent, GenerationRequest, ModelCard
from services.worker.exit_codes import EXIT_ENGINE_BROKEN
from services.worker.metrics import EngineStats

_log = structlog.get_logger()

PARAMETERS = frozenset(
    {
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "temperature",
        "top_p",
        "top_k",
        "n",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "logit_bias",
        "prompt",
    }
)
"""What an engine that chooses tokens by `sampling.py` can do; for its `ModelCard`.

`prompt`: it continues a text without a chat template (`GenerationRequest.is_raw`).
"""

EmitStep = Callable[[Sequence[EngineEvent]], None]
"""Receives all events of one engine step; called on the event loop's thread."""


@dataclass(frozen=True, slots=True)
class EngineJob:
    """A request with its images loaded, in the order in which `ImagePart`s stand in it.

    Args:
        images: decoded, RGB; the engine must not change them (they are shared by a cache).
    """

    request: GenerationRequest
    images: tuple[Image.Image, ...]


class StepProgress(Protocol):
    """Where an engine says that it moves; read by another process, so it must be cheap."""

    def admitting(self, request_ids: Sequence[str]) -> None:
        """Say which requests enter the batch now; a death before the next call is put on them."""
        ...

    def step_done(self) -> None:
        """Say that a step is complete; nothing is being admitted any more."""
        ...


class Engine(Protocol):
    """Runs many requests at once, in steps.

    Life: `start` once, then `submit` and `abort` at any time, then `close` once. All calls come
    from the event loop's thread and return at once; `start` may take as long as loading takes.
    For each submitted request the engine emits `Tokens` any number of times and then exactly one
    `Finished` or `Failed`, or nothing more once it was aborted.
    """

    async def start(self, emit: EmitStep, progress: StepProgress) -> ModelCard:
        """Load the model; raises EngineStartError with one readable line if that cannot be."""
        ...

    def submit(self, job: EngineJob) -> None:
        """Queue a request for the next step; a bad one becomes a `Failed` event, never a raise."""
        ...

    def abort(self, request_id: str) -> None:
        """Forget a request: its sequence leaves the batch at the next step border."""
        ...

    async def load_adapter(self, adapter: AdapterFiles) -> None:
        """Make a LoRA adapter usable by `GenerationRequest.adapter`; running requests go on.

        Raises:
            AdapterError: it does not fit this base, or this engine cannot do what it asks.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; requests that run with it end first, new ones fail."""
        ...

    def stats(self) -> EngineStats | None:
        """Return its scheduler's figures, from any thread; None where it keeps none."""
        ...

    async def close(self) -> None:
        """Stop stepping and free the model."""
        ...


def end_process(error: BaseException) -> NoReturn:
    """End this process at once: its engine steps no more, and waiting would look like a hang.

    The requests that were being admitted, or else all, are what its parent suspects.
    """
    trace = "".join(traceback.format_tb(error.__traceback__))  # places only: no text of a request
    _log.critical("engine.broken", error=type(error).__name__, trace=trace)
    os._exit(EXIT_ENGINE_BROKEN)


class EngineStartError(Exception):
    """The engine cannot start: its message is one line for the operator, with what to do next."""
