"""Bodies of the administration routes, as structs. Pure."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from services.gateway.openai_schemas import converted
from services.gateway.recent_errors import ErrorCount
from services.protocol.admin import HostedModel
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.keys import MOST_MODEL_NAME, why_no_model_name
from services.protocol.messages import WorkerRecord

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_MODEL_NAME)]
_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern="^/")]
MAX_DRAIN_S = 3600.0
_DRAIN_S = 30.0


class LoadModelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/admin/models; what is left out is chosen on the host.

    Args:
        path: folder of the checkpoint, absolute, on the host; the fake engine needs none.
        id: name that clients ask for, without spaces; default: the folder's.
        host: `host_id` of GET /v1/admin/hosts; needed where there are several.
    """

    path: _Path | None = None
    id: _Name | None = None
    host: _Name | None = None
    engine: Literal["auto", "transformers", "vllm", "fake"] = "auto"
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    slots: Annotated[int, msgspec.Meta(ge=1, le=65_536)] | None = None
    tensor_parallel_size: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    quantization: Literal["none", "bnb-int8", "bnb-nf4", "bnb-fp4"] | None = None
    device_map: Literal["none", "auto"] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    context_length: Annotated[int, msgspec.Meta(ge=16, le=100_000_000)] | None = None
    adapters_dir: _Path | None = None

    @property
    def model_id(self) -> str:
        """The name that clients will ask for."""
        return self.id or PurePosixPath(self.path or "").name


class DrainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a drain, which may be left out.

    Args:
        timeout_s: seconds for running requests; then they are handed to other workers.
    """

    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_DRAIN_S)] = _DRAIN_S


class AdminWorker(msgspec.Struct, frozen=True):
    """A worker with a lease."""

    id: str
    host: str
    model: str
    engine: str
    state: str
    slots: int
    running: int
    steps: int


class AdminWorkerList(msgspec.Struct, frozen=True):
    """The body of GET /v1/admin/workers."""

    data: list[AdminWorker]
    object: Literal["list"] = "list"


class AdminCard(msgspec.Struct, frozen=True):
    """An accelerator, in bytes."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int


class AdminHost(msgspec.Struct, frozen=True):
    """A host whose agent can load models."""

    id: str
    host: str
    total_memory_bytes: int
    free_memory_bytes: int
    cards: list[AdminCard]
    models: list[HostedModel]


class AdminHostList(msgspec.Struct, frozen=True):
    """The body of GET /v1/admin/hosts."""

    data: list[AdminHost]
    object: Literal["list"] = "list"


class AdminQueue(msgspec.Struct, frozen=True):
    """What waits in a lane of a model.

    Args:
        rate_per_s: requests that workers take from it, over about the last 10 s; null: not known.
        wait_s: about how long a request waits that comes now; null: nothing leaves the lane.
    """

    model: str
    lane: str
    waiting: int
    rate_per_s: float | None
    wait_s: float | None


class AdminGateway(msgspec.Struct, frozen=True):
    """The gateway that answers.

    Args:
        open: choices under way.
        memory_bytes: resident; 0 where there is no limit.
        memory_limit_bytes: 0: none.
    """

    id: str
    open: int
    is_draining: bool
    memory_bytes: int
    memory_limit_bytes: int


class AdminStatus(msgspec.Struct, frozen=True):
    """The body of GET /v1/admin/status."""

    workers: list[AdminWorker]
    hosts: list[AdminHost]
    queues: list[AdminQueue]
    gateway: AdminGateway
    object: Literal["gateway.status"] = "gateway.status"


class AdminErrorList(msgspec.Struct, frozen=True):
    """The body of GET /v1/admin/errors."""

    data: list[ErrorCount]
    object: Literal["list"] = "list"


class AdminDone(msgspec.Struct, frozen=True):
    """An order was taken; `note` says in one line what follows from it."""

    id: str
    status: Literal["ok"] = "ok"
    note: str = ""


def worker_of(record: WorkerRecord) -> AdminWorker:
    """Return a record in the form of the API."""
    return AdminWorker(
        record.worker_id,
        record.host,
        record.model.id,
        record.model.engine,
        record.state,
        record.slots,
        record.running,
        record.steps,
    )


def read_load_request(body: Any) -> LoadModelRequest:
    """Return the checked body; raises RequestError."""
    request = converted(body, LoadModelRequest)
    if request.engine == "fake" and request.path is not None:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            "the fake engine has no checkpoint; leave `path` out",
            param="path",
        )
    if request.engine == "fake" and request.id is None:
        raise RequestError(ErrorCode.MISSING_PARAMETER, "the fake engine needs an `id`", param="id")
    if request.engine != "fake" and request.path is None:
        raise RequestError(
            ErrorCode.MISSING_PARAMETER,
            "the required parameter `path` is missing: the folder of the checkpoint on the host",
            param="path",
        )
    if problem := why_no_model_name(request.model_id):
        other = "" if request.id is not None else "; give an `id`"
        raise RequestError(ErrorCode.INVALID_VALUE, f"{problem}{other}", param="id")
    return request


def read_drain_request(body: Any) -> DrainRequest:
    """Return the checked body; raises RequestError."""
    return converted(body, DrainRequest)
