"""LoRA adapters in vLLM: loading, forgetting, and refusing what vLLM would ignore in silence."""

# pyright: reportMissingImports=false
# (vLLM lives in a virtual environment of its own)

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from modeling.adapter_files import AdapterError, AdapterFiles
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import GenerationRequest

_log = structlog.get_logger(__name__)

# What vLLM has no layers for, and so would leave out; its language models are elsewhere.
_UNTOUCHED_PARTS = (
    "vision_tower",
    "vision_model",
    "visual",
    "multi_modal_projector",
    "mm_projector",
)


class AdapterTable:
    """The adapters that vLLM has loaded, by name; used on the event loop only.

    Args:
        spawn: runs a coroutine beside its caller, and ends it with the engine.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._llm = llm
        self._spawn = spawn
        self._loaded: dict[str, LoRARequest] = {}
        self._users: Counter[int] = Counter()
        self._leaving: dict[int, asyncio.Event] = {}  # set when the last user has ended
        self._numbers = itertools.count(1)

    def of(self, request: GenerationRequest) -> LoRARequest | None:
        """Return vLLM's handle of a request's adapter; None for the base model.

        Raises:
            RequestError: it is not loaded (any more).
        """
        if request.adapter is None:
            return None
        found = self._loaded.get(request.adapter)
        if found is None:
            raise RequestError(
                ErrorCode.MODEL_NOT_FOUND,
                f"the adapter `{request.adapter}` is not loaded; see /v1/models",
                param="model",
            )
        return found

    async def load(self, adapter: AdapterFiles) -> None:
        """Load an adapter; one of the same name is replaced for new requests.

        The requests that run with the replaced one are not waited for.

        Raises:
            AdapterError: vLLM cannot do what it asks, or does not load it.
        """
        if self._llm.vllm_config.lora_config is None:
            raise AdapterError(f"{adapter.path}: the worker runs without --adapters-dir")
        _refuse_untouched_parts(adapter)
        number = next(self._numbers)
        # A number in the name: vLLM's prefix cache knows an adapter by its name alone.
        request = LoRARequest(f"{adapter.name}#{number}", number, str(adapter.path))
        try:
            await self._llm.add_lora(request)
        except Exception as error:  # whatever vLLM's worker raised
            reason = " ".join(str(error).split())[:300]
            raise AdapterError(f"{adapter.path}: vLLM does not load it: {reason}") from error
        before = self._loaded.get(adapter.name)
        self._loaded[adapter.name] = request
        if before is not None:
            self._spawn(self._drop_replaced(before))

    async def unload(self, name: str) -> None:
        """Forget an adapter once no request runs with it."""
        request = self._loaded.pop(name, None)
        if request is not None:
            await self._drop(request)

    def acquire(self, adapter: LoRARequest | None) -> None:
        """Count a request that runs with it."""
        if adapter is not None:
            self._users[adapter.lora_int_id] += 1

    def release(self, adapter: LoRARequest | None) -> None:
        """Count a request that has ended."""
        if adapter is None:
            return
        number = adapter.lora_int_id
        self._users[number] -= 1
        if self._users[number] == 0 and number in self._leaving:
            self._leaving[number].set()

    async def _drop_replaced(self, request: LoRARequest) -> None:
        try:
            await self._drop(request)
        except Exception as error:  # noqa: BLE001 (whatever vLLM's worker raised; nobody waits)
            _log.error("adapter.drop.failed", adapter=request.lora_name, error=type(error).__name__)

    async def _drop(self, request: LoRARequest) -> None:
        self._leaving[request.lora_int_id] = asyncio.Event()
        if self._users[request.lora_int_id] > 0:
            await self._leaving[request.lora_int_id].wait()
        del self._leaving[request.lora_int_id], self._users[request.lora_int_id]
        await self._llm.remove_lora(request.lora_int_id)


def _refuse_untouched_parts(adapter: AdapterFiles) -> None:
    """Raise AdapterError for what vLLM would leave out; `open_adapter` has refused the rest."""
    for name in adapter.tensors:
        if any(part in name for part in _UNTOUCHED_PARTS):
            raise AdapterError(f"{adapter.path} changes {name!r}; vLLM adapts language models only")
