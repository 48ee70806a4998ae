"""The dispatcher against a real Redis; the worker's half is played by hand, frame by frame."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import redis.asyncio as aioredis

from services.gateway.catalogue import ModelCatalogue
from services.gateway.dispatch import Dispatcher
from services.gateway.metrics import GatewayMetrics
from services.gateway.replies import Reply, ReplyItem
from services.gateway.settings import GatewaySettings
from services.protocol import keys
from services.protocol.connection import open_wire
from services.protocol.errors import ErrorCode, OverloadedError
from services.protocol.event_stream import End, EventReader, EventWriter
from services.protocol.messages import (
    PROTOCOL_VERSION,
    EventBatch,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    ImagePart,
    ImageRef,
    Message,
    ModelCard,
    SamplingParams,
    TextPart,
    Tokens,
    WorkerRecord,
    decode_request,
    encode,
)
from services.protocol.request_queue import RequestQueue, WorkerQueue
from services.protocol.wire import RedisWire
from services.protocol.worker_directory import WorkerDirectory

GATEWAY, MODEL = "gateway-1", "m"


@dataclass
class PlayedWorker:
    """A worker that does what a test says."""

    worker_id: str
    wire: RedisWire
    card: ModelCard

    async def register(self) -> WorkerRecord:
        record = WorkerRecord(self.worker_id, self.card, "ready", 4, 0, 0)
        await WorkerDirectory(self.wire).register(record)
        return record

    async def claim(self) -> GenerationRequest:
        queue = WorkerQueue(self.wire, self.wire, MODEL)
        async with asyncio.timeout(10):
            while not (claim := await queue.claim(self.worker_id, 1)).entries:
                await queue.wait_for_work(self.worker_id)
        return decode_request(claim.entries[0].payload)

    async def say(self, *events: GenerationEvent) -> str:
        ends = [End(e.request_id, e.attempt) for e in events if isinstance(e, Finished | Failed)]
        batch = encode(EventBatch(PROTOCOL_VERSION, self.worker_id, list(events)))
        return await EventWriter(self.wire).publish(self.worker_id, GATEWAY, batch, ends)


@dataclass
class Scene:
    dispatcher: Dispatcher
    directory: WorkerDirectory
    worker: PlayedWorker
    other: PlayedWorker

    def request(
        self, *, stream: bool = True, adapter: str | None = None, **sampling: object
    ) -> GenerationRequest:
        params = SamplingParams(**{"temperature": 0.0, **sampling})
        messages = (Message("user", (TextPart("hi"),)),)
        return GenerationRequest(
            "r1", GATEWAY, "t", MODEL, "interactive", messages, params,
            stream=stream, adapter=adapter,
        )  # fmt: skip

    async def send(
        self, *, stream: bool = True, adapter: str | None = None, **sampling: object
    ) -> Reply:
        reply = Reply(stream=stream, timeout_s=30)
        request = self.request(stream=stream, adapter=adapter, **sampling)
        await self.dispatcher.submit(reply, [request])
        return reply


@pytest.fixture(params=[("greedy", "sampling", "logprobs")])
async def scene(
    request: pytest.FixtureRequest, redis_wire: RedisWire, redis_url: str
) -> AsyncIterator[Scene]:
    reading_wire = open_wire(redis_url, blocking=True)
    directory = WorkerDirectory(redis_wire)
    await directory.gateway_beat(GATEWAY)
    card = ModelCard(MODEL, "fake", 100, 0, frozenset(), frozenset(request.param))
    workers = [PlayedWorker(f"worker-{i}", redis_wire, card) for i in (1, 2)]
    catalogue = ModelCatalogue()
    records = [await worker.register() for worker in workers]
    catalogue.update(records, records)
    dispatcher = Dispatcher(
        GatewaySettings(max_waiting=2),
        RequestQueue(redis_wire),
        EventReader(reading_wire, GATEWAY),
        catalogue,
        GatewayMetrics(),
        GATEWAY,
    )
    dispatcher.is_redis_up = True
    reading = asyncio.create_task(dispatcher.read_forever())
    yield Scene(dispatcher, directory, workers[0], workers[1])
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await reading_wire.aclose()


def tokens(index: int, count: int = 1, attempt: int = 1) -> Tokens:
    ids = list(range(index, index + count))
    return Tokens("r1", attempt, index, ids, [f"{i} " for i in ids])


async def heard(reply: Reply, until: type = Finished) -> list[ReplyItem]:
    items: list[ReplyItem] = []
    async with asyncio.timeout(10):
        while not any(isinstance(item, (until, Failed)) for _, item in items):
            items += await reply.take()
    return items


def text(items: Sequence[ReplyItem]) -> str:
    return "".join("".join(item.texts) for _, item in items if isinstance(item, Tokens))


async def test_events_reach_the_reply_in_order(scene: Scene) -> None:
    reply = await scene.send()
    await scene.worker.claim()
    await scene.worker.say(tokens(0, 2))
    await scene.worker.say(tokens(2), Finished("r1", 1, "stop", 1, 3))
    assert text(await heard(reply)) == "0 1 2 "
    assert scene.dispatcher.num_open == 0


async def test_a_repeated_write_shows_each_token_once(scene: Scene) -> None:
    reply = await scene.send()
    await scene.worker.claim()
    await scene.worker.say(tokens(0, 2))
    await scene.worker.say(tokens(0, 2))
    await scene.worker.say(tokens(1, 2), Finished("r1", 1, "stop", 1, 3))
    assert text(await heard(reply)) == "0 1 2 "


async def test_a_lost_worker_is_followed_by_one_that_goes_on_from_the_tokens_shown(
    scene: Scene,
) -> None:
    reply = await scene.send()
    await scene.worker.claim()
    await scene.worker.say(tokens(0, 2))
    shown = await heard(reply, Tokens)
    await scene.directory.report_death("worker-1", "engine_died")
    again = await scene.other.claim()
    assert (again.attempt, again.strikes, again.resume_token_ids) == (2, 1, (0, 1))
    assert await scene.worker.say(tokens(2)) == "FENCED"
    await scene.other.say(tokens(2, attempt=2), Finished("r1", 2, "stop", 1, 3))
    assert text(shown + await heard(reply)) == "0 1 2 "


@pytest.mark.parametrize("scene", [("greedy", "guided")], indirect=True)
async def test_a_guided_answer_goes_on_where_the_model_can(scene: Scene) -> None:
    reply = await scene.send(json_schema="{}")
    await scene.worker.claim()
    await scene.worker.say(tokens(0))
    await heard(reply, Tokens)
    await scene.directory.report_death("worker-1", "engine_died")
    resumed = await scene.other.claim()
    assert resumed.resume_token_ids == (0,)
    assert resumed.sampling.json_schema == "{}"


async def test_an_answer_goes_on_with_its_adapter(scene: Scene) -> None:
    reply = await scene.send(adapter="chest")
    assert (await scene.worker.claim()).adapter == "chest"
    await scene.worker.say(tokens(0))
    await heard(reply, Tokens)
    await scene.directory.report_death("worker-1", "engine_died")
    resumed = await scene.other.claim()
    assert (resumed.adapter, resumed.resume_token_ids) == ("chest", (0,))


async def test_an_answer_that_is_not_streamed_begins_anew(scene: Scene) -> None:
    reply = await scene.send(stream=False)
    await scene.worker.claim()
    await scene.directory.report_death("worker-1", "engine_died")
    again = await scene.other.claim()
    assert again.resume_token_ids == ()
    await scene.other.say(tokens(0, 2, attempt=2), Finished("r1", 2, "stop", 1, 2))
    assert text(await heard(reply)) == "0 1 "


async def test_a_gap_is_filled_by_another_attempt(scene: Scene) -> None:
    reply = await scene.send()
    await scene.worker.claim()
    await scene.worker.say(tokens(0))
    await scene.worker.say(tokens(2))  # token 1 never came
    again = await scene.other.claim()
    assert (again.attempt > 1, again.resume_token_ids) == (True, (0,))
    end = Finished("r1", again.attempt, "stop", 1, 3)
    await scene.other.say(tokens(1, 2, attempt=again.attempt), end)
    assert text(await heard(reply)) == "0 1 2 "


async def test_an_end_that_counts_more_tokens_than_came_is_a_gap(scene: Scene) -> None:
    reply = await scene.send()
    await scene.worker.claim()
    await scene.worker.say(tokens(0), Finished("r1", 1, "stop", 1, 2))
    again = await scene.other.claim()
    end = Finished("r1", again.attempt, "stop", 1, 2)
    await scene.other.say(tokens(1, attempt=again.attempt), end)
    assert text(await heard(reply)) == "0 1 "


async def test_the_delivery_limit_ends_a_request_with_an_error(scene: Scene) -> None:
    reply = await scene.send()
    await scene.worker.claim()
    await scene.directory.report_death("worker-1", "engine_crashed", ["r1"])
    again = await scene.other.claim()
    assert again.alone
    await scene.directory.report_death("worker-2", "engine_crashed", ["r1"])
    (_, failed), *_ = await heard(reply)
    assert isinstance(failed, Failed)
    assert failed.code == ErrorCode.REQUEST_POISONED
    assert await scene.worker.wire.execute_command("XLEN", keys.DEAD) == 1


@pytest.mark.parametrize("kind", [{"temperature": 0.7}, {"json_schema": "{}"}])
@pytest.mark.parametrize("scene", [("greedy",)], indirect=True)
async def test_what_cannot_be_continued_exactly_ends_with_an_error(
    scene: Scene, kind: dict[str, Any]
) -> None:
    reply = await scene.send(**kind)
    await scene.worker.claim()
    await scene.worker.say(tokens(0))
    await heard(reply, Tokens)
    await scene.directory.report_death("worker-1", "engine_died")
    (_, failed), *_ = await heard(reply)
    assert isinstance(failed, Failed)
    assert failed.code == ErrorCode.WORKER_LOST


async def test_lost_data_sends_every_open_request_again(
    scene: Scene, redis_client: aioredis.Redis
) -> None:
    reply = await scene.send()
    await scene.worker.claim()
    await scene.worker.say(tokens(0))
    shown = await heard(reply, Tokens)
    await redis_client.flushdb()
    await scene.directory.gateway_beat(GATEWAY)
    await scene.other.register()
    scene.dispatcher.data_lost()
    again = await scene.other.claim()
    assert again.resume_token_ids == (0,)
    end = Finished("r1", again.attempt, "stop", 1, 2)
    await scene.other.say(tokens(1, attempt=again.attempt), end)
    assert text(shown + await heard(reply)) == "0 1 "


async def test_a_full_lane_refuses_and_keeps_nothing(scene: Scene) -> None:
    for request_id in ("a", "b"):
        reply = Reply(stream=True, timeout_s=30)
        request = scene.request()
        await scene.dispatcher.submit(reply, [_named(request, request_id)])
    with pytest.raises(OverloadedError) as refused:
        await scene.send()
    assert refused.value.code is ErrorCode.OVERLOADED
    assert refused.value.retry_after_s is not None
    assert scene.dispatcher.num_open == 2


async def test_cancelling_empties_the_queue(scene: Scene, redis_client: aioredis.Redis) -> None:
    reply = await scene.send()
    scene.dispatcher.cancel(reply)
    await scene.dispatcher.settled()
    assert await redis_client.hgetall(keys.DEPTH) == {b"m|interactive": b"0"}
    assert await redis_client.exists(keys.work(MODEL, "interactive", "t")) == 0


async def test_a_reply_is_open_until_its_response_is_over(scene: Scene) -> None:
    reply = await scene.send()
    await scene.worker.claim()
    await scene.worker.say(tokens(0), Finished("r1", 1, "stop", 1, 1))
    await heard(reply)
    assert scene.dispatcher.num_open == 0
    assert scene.dispatcher.replies() == [reply]
    scene.dispatcher.release(reply)
    assert scene.dispatcher.replies() == []


async def test_a_run_for_nobody_is_stopped(scene: Scene, redis_client: aioredis.Redis) -> None:
    """A write that arrived after its request was given up enters the queue once more."""
    await RequestQueue(scene.worker.wire).enqueue(scene.request())
    await scene.worker.claim()
    await scene.worker.say(tokens(0))
    async with asyncio.timeout(10):
        cancelled = await redis_client.blpop([keys.control("worker-1")], timeout=5)
    assert cancelled is not None
    assert await redis_client.hlen(keys.running("worker-1")) == 0


async def test_a_reply_that_fails_while_it_is_being_queued_leaves_nothing(
    scene: Scene, redis_client: aioredis.Redis
) -> None:
    reply = Reply(stream=True, timeout_s=30)
    requests = [_named(scene.request(), name) for name in ("a", "b")]
    submitting = asyncio.create_task(scene.dispatcher.submit(reply, requests))
    await asyncio.sleep(0)  # the first is on its way
    scene.dispatcher.fail(reply, ErrorCode.SHUTTING_DOWN, "stop")
    await submitting
    await scene.dispatcher.settled()
    assert await redis_client.hlen(keys.inflight(GATEWAY)) == 0
    assert await redis_client.hgetall(keys.DEPTH) in ({}, {b"m|interactive": b"0"})


def _named(request: GenerationRequest, request_id: str) -> GenerationRequest:
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return GenerationRequest(**{**fields, "request_id": request_id})


# --- image affinity ---


async def _ask_about_an_image(scene: Scene, *request_ids: str) -> list[int]:
    """Return how many of the requests wait for each worker alone."""
    wire = scene.worker.wire
    for worker in (scene.worker, scene.other):
        await WorkerQueue(wire, wire, MODEL).claim(worker.worker_id, 4)
    messages = (Message("user", (ImagePart(ImageRef("ab" * 32, 14, 14)), TextPart("why?"))),)
    for request_id in request_ids:
        asked = msgspec.structs.replace(scene.request(), request_id=request_id, messages=messages)
        await scene.dispatcher.submit(Reply(stream=True, timeout_s=30), [asked])
    counts = [
        await wire.execute_command("HGET", keys.affine(worker.worker_id), "interactive")
        for worker in (scene.worker, scene.other)
    ]
    return sorted(int(count or 0) for count in counts)


async def test_questions_on_one_image_wait_for_one_worker(scene: Scene):
    assert await _ask_about_an_image(scene, "r1", "r2") == [0, 2]


async def test_text_waits_for_any_worker(scene: Scene):
    assert await _ask_about_an_image(scene) == [0, 0]
    await scene.send()
    assert await scene.worker.wire.execute_command("EXISTS", keys.affine_workers(MODEL)) == 0


async def test_affinity_can_be_switched_off(scene: Scene):
    scene.dispatcher._settings = GatewaySettings(image_affinity=False)
    assert await _ask_about_an_image(scene, "r1", "r2") == [0, 0]
