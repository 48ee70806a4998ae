"""The wire: what gateway and worker say to each other through Redis, as frozen msgspec structs.

Requests are maps; events are arrays, because one is written per token. Both are out of the garbage
collector's sight (they hold no cycles). Every top-level message carries `PROTOCOL_VERSION`; a
reader that meets another version puts the message aside (`decode_*` raise `ProtocolError`). What
does *not* live here: keys and transactions (`keys.py`, `request_queue.py`, `event_stream.py`) and
OpenAI's dialect (`gateway/`).
"""

from typing import Literal, TypeVar

import msgspec

PROTOCOL_VERSION = 3

Lane = Literal["interactive", "batch"]
Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]
WorkerState = Literal["starting", "ready", "cordoned", "draining"]
ImageMode = Literal["crop", "pad", "resize", "keep"]
Resumable = Literal["greedy", "sampling", "logprobs", "guided"]
LossReason = Literal["lease_expired", "engine_died", "engine_crashed", "engine_hung", "handed_back"]


class ProtocolError(Exception):
    """A message on the wire cannot be read: another version, or not one of ours at all."""


class ImageRef(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An image in the image store.

    Args:
        sha256: hex digest over tenant, mode, size, recipe and bytes (`image_store.image_key`).
        width: pixels, as stored (after the gateway's preprocessing).
        height: pixels, as stored.
    """

    sha256: str
    width: int
    height: int


class TextPart(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag="text"):
    """Text of a message; never holds image placeholders, whatever it looks like."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag="image"):
    """An image at this place of a message."""

    image: ImageRef


class Message(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One turn of the conversation, parts in the caller's order."""

    role: Role
    parts: tuple[TextPart | ImagePart, ...]


class SamplingParams(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How tokens are chosen; OpenAI's spelling and ranges.

    Args:
        max_tokens: most tokens to generate; None: what the context leaves.
        temperature: 0 is greedy.
        top_k: -1 keeps every token.
        seed: always set (the gateway draws one), so that a sampled answer can be continued.
        logprobs: None: not asked for; otherwise the number of alternatives per token (0-20).
        min_tokens: no end-of-sequence token and no stop string before so many tokens; tokens of
            earlier attempts count.
        json_schema: text of a JSON Schema that the answer obeys (`{"type": "object"}` where any
            object will do); None: free text.
        may_be_text: beside `json_schema`: the answer may be free text as well, which does not begin
            with `{`; so its first character that is no white space tells which of them it is.
        logit_bias: (token id, what is added to its logit), ids of the vocabulary, each once.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop: tuple[str, ...] = ()
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    min_tokens: int = 0
    json_schema: str | None = None
    may_be_text: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()


class GenerationRequest(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One sequence to generate (a request for n choices is n of these).

    Args:
        request_id: unique; one per choice.
        gateway_id: whose reply stream gets the events.
        attempt: 1, 2, …: the fencing token; events of another attempt are ignored.
        strikes: how many workers died while they held this request and it may be why.
        alone: run it by itself: the last worker that ran it crashed.
        resume_token_ids: tokens the client has seen; they are prefilled and count as output.
        stream: False: the worker keeps the tokens and sends all of them with the last one.
        adapter: name of the LoRA adapter (`AdapterCard.name`) to run; None: the base model.
        is_raw: the text of the one message is the whole prompt, to be continued as it stands: no
            chat template.
    """

    request_id: str
    gateway_id: str
    tenant_id: str
    model: str
    lane: Lane
    messages: tuple[Message, ...]
    sampling: SamplingParams
    stream: bool = True
    attempt: int = 1
    strikes: int = 0
    alone: bool = False
    resume_token_ids: tuple[int, ...] = ()
    adapter: str | None = None
    is_raw: bool = False
    version: int = PROTOCOL_VERSION


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Log-probability (natural log, of the raw logits) of one token; `token` is its own text."""

    token_id: int
    token: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


class Tokens(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="t"):
    """Generated tokens `index`, `index + 1`, … of one request.

    Args:
        index: number of the first token here, counted from 0 over the whole answer, tokens of
            earlier attempts included.
        texts: per token, the text that it releases ("" while text is held back for a stop string
            or an unfinished UTF-8 character).
        logprobs: per token, where they were asked for.
    """

    request_id: str
    attempt: int
    index: int
    token_ids: list[int]
    texts: list[str]
    logprobs: list[TokenLogprob] | None = None


class Finished(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="f"):
    """The one good end of a request.

    Args:
        prompt_tokens: tokens of the prompt, image tokens included, resumed tokens not.
        completion_tokens: all tokens of the answer, an end-of-sequence token and those of earlier
            attempts included.
        prefill_s: from submission to the engine until the first token, seconds.
        image_tokens: of `prompt_tokens`, those of images.
        queue_s: that this attempt waited for a worker, seconds; negative: not told.
    """

    request_id: str
    attempt: int
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    prefill_s: float = 0.0
    image_tokens: int = 0
    queue_s: float = -1.0


class Failed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="e"):
    """The one bad end of a request, as the worker saw it; `code` is an `ErrorCode`."""

    request_id: str
    attempt: int
    code: str
    message: str
    param: str | None = None


class Lost(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="l"):
    """The worker that held the request is gone; nothing of this attempt will follow.

    Written by the transaction that takes the request from its owner, so it stands behind the last
    event of that attempt. The gateway answers with the next attempt, or gives up.

    Args:
        strike: the request may be why the worker died; its next attempt counts a strike more.
        suspect: it probably is why: the next attempt runs alone.
        final: the delivery limit is reached; the request stands in the dead-letter stream.
    """

    request_id: str
    attempt: int
    reason: LossReason
    strike: bool
    suspect: bool
    final: bool


GenerationEvent = Tokens | Finished | Failed | Lost
EngineEvent = Tokens | Finished | Failed


class EventBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of a reply stream: all events of one engine step for one gateway."""

    version: int
    worker_id: str
    events: list[GenerationEvent]


class ImageRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A checkpoint's fixed preprocessing, so far as the gateway can do it ahead of the worker.

    `crop`: bicubic resize of the shorter side to `shortest_edge_px`, then a centre crop of
    `crop_width_px` x `crop_height_px` (CLIP's recipe, arXiv:2103.00020). The other modes, with one
    side for all three sizes, are those of `modeling.image_recipe`. Defaults are not written, so
    that `crop` is what it was before there were modes, also for an older reader.

    Args:
        fill_rgb: of `pad`; 0 to 255.
        patch_px: of `keep`.
    """

    shortest_edge_px: int
    crop_width_px: int
    crop_height_px: int
    mode: ImageMode = "crop"
    fill_rgb: tuple[int, int, int] = (0, 0, 0)
    patch_px: int = 0


class AdapterCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A LoRA adapter that a worker has loaded beside its base model.

    Args:
        name: as `GenerationRequest.adapter` says it: the name of its folder.
        served_id: the model name that clients ask for: `BASE:NAME`, or what its manifest says.
        is_base_verified: whether its manifest names the base's fingerprint, and that is right.
        fingerprint: `sampled_fingerprint` of its weights; empty: not told.
    """

    name: str
    served_id: str
    is_base_verified: bool
    created: int = 0
    fingerprint: str = ""


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What makes a model's answers, beside its image recipe; an engine without weights has none.

    Args:
        checkpoint_fingerprint: `modeling.checkpoint_files.sampled_fingerprint`: over names, types
            and shapes of all weights and samples of each, not over every byte.
        template_sha256: hex digest of the chat template that the processor brings.
        dtype: of the weights as they are computed with.
        quantization: as the worker's setting names it; empty: none.
        versions: of the engine's libraries: `NAME VERSION, NAME VERSION`.
    """

    checkpoint_fingerprint: str = ""
    template_sha256: str = ""
    dtype: str = ""
    quantization: str = ""
    versions: str = ""


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker says of the model that it serves.

    Args:
        context_length: tokens, prompt and answer together.
        max_images: per request; 0 for a text-only model.
        parameters: the request parameters (OpenAI's spelling) that really act on this engine.
        resumes: which kinds of generation can be continued exactly by another worker.
        image_recipe: None where the input size depends on the image.
        image_tokens: tokens of the context that one image takes; 0: it depends on the image.
    """

    id: str
    engine: str
    context_length: int
    max_images: int
    parameters: frozenset[str]
    resumes: frozenset[Resumable]
    image_recipe: ImageRecipe | None = None
    created: int = 0
    adapters: tuple[AdapterCard, ...] = ()
    provenance: Provenance = Provenance()
    image_tokens: int = 0


class WorkerRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker's entry in the directory, renewed with every heartbeat.

    Args:
        slots: sequences it runs at once.
        steps: engine steps since its start; stands still only when it is idle or stalled.
        host: name of the machine it runs on.
    """

    worker_id: str
    model: ModelCard
    state: WorkerState
    slots: int
    running: int
    steps: int
    host: str = ""
    version: int = PROTOCOL_VERSION


_M = TypeVar("_M", GenerationRequest, EventBatch, WorkerRecord)

_request_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(GenerationRequest)
_batch_decoder = msgspec.msgpack.Decoder(EventBatch)
_record_decoder = msgspec.msgpack.Decoder(WorkerRecord)


def encode(message: GenerationRequest | EventBatch | WorkerRecord) -> bytes:
    """Return `message` as MessagePack."""
    return _request_encoder.encode(message)


def decode_request(payload: bytes) -> GenerationRequest:
    """Read a queue entry; raises ProtocolError for all but a request of our version."""
    return _checked(_request_decoder, payload)


def decode_events(payload: bytes) -> EventBatch:
    """Read an entry of a reply stream; raises ProtocolError as `decode_request` does."""
    return _checked(_batch_decoder, payload)


def decode_record(payload: bytes) -> WorkerRecord:
    """Read a directory entry; raises ProtocolError as `decode_request` does."""
    return _checked(_record_decoder, payload)


def _checked(decoder: "msgspec.msgpack.Decoder[_M]", payload: bytes) -> _M:
    try:
        message = decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(type(error).__name__) from error
    if message.version != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol version {message.version!r}, ours is {PROTOCOL_VERSION}")
    return message
