"""Real requests move the real figures, of the gateway and of the worker."""

from dataclasses import dataclass

import pytest
from openai import OpenAI

from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.stack import RunningStack
from tests.gateway.media.image_files import data_url, noise
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Figure:
    """A metric of one side, with labels."""

    side: str
    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def of(self, stack: RunningStack) -> float:
        if self.side == "worker":
            return stack.worker_count(self.name, **dict(self.labels))
        return stack.gateway_count(self.name, **dict(self.labels))


def gateway(name: str, **labels: str) -> Figure:
    return Figure("gateway", f"galen_gateway_{name}", tuple(labels.items()))


def worker(name: str, **labels: str) -> Figure:
    return Figure("worker", f"galen_worker_{name}", tuple(labels.items()))


OF_A_STREAM = {
    gateway("time_to_first_token_seconds_count", model=FAKE_MODEL): 1,
    gateway("time_per_output_token_seconds_count", model=FAKE_MODEL): 1,
    gateway("request_duration_seconds_count", model=FAKE_MODEL): 1,
    gateway("completion_tokens_total", model=FAKE_MODEL): 6,
    gateway("attempts_total", attempt="first"): 1,
    gateway("attempts_total", attempt="again"): 0,
    worker("prefill_seconds_count"): 1,
    worker("generated_tokens_total"): 6,
}


def waited(lane: str) -> dict[Figure, float]:
    other = {"interactive": "batch", "batch": "interactive"}[lane]
    return {
        gateway("queue_time_seconds_count", lane=lane, tenant="anonymous"): 1,
        gateway("queue_time_seconds_count", lane=other, tenant="anonymous"): 0,
        worker("queue_time_seconds_count", lane=lane): 1,
        worker("queue_time_seconds_count", lane=other): 0,
    }


def ask(client: OpenAI, lane: str, *urls: str) -> None:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    stream = client.chat.completions.create(
        model=FAKE_MODEL,
        messages=[{"role": "user", "content": [*images, {"type": "text", "text": "[[n=6 d=10]]"}]}],  # type: ignore[list-item]  # a plain dictionary
        stream=True,
        extra_headers={"x-galen-lane": lane},
    )
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in stream) == 6


def moved(stack: RunningStack, before: dict[Figure, float]) -> dict[Figure, float]:
    return {figure: figure.of(stack) - was for figure, was in before.items()}


@pytest.mark.parametrize("lane", ["interactive", "batch"])
def test_one_streamed_answer_moves_what_it_should(
    fake_stack: RunningStack, fake_client: OpenAI, lane: str
) -> None:
    expected = OF_A_STREAM | waited(lane)
    before = {figure: figure.of(fake_stack) for figure in expected}

    ask(fake_client, lane)

    wait_until(lambda: moved(fake_stack, before) == expected, "the figures of one answer")


def test_image_that_comes_again_is_neither_decoded_nor_fetched_again(
    fake_stack: RunningStack, fake_client: OpenAI
) -> None:
    sources = [("decoded", gateway), ("kept", gateway), ("store", worker), ("kept", worker)]
    figures = [side("images_total", source=source) for source, side in sources]
    decodings = gateway("image_decode_seconds_count")
    seconds = gateway("image_decode_seconds_sum")
    before = {figure: figure.of(fake_stack) for figure in [*figures, decodings, seconds]}
    image, other = (data_url(noise(70, 50, seed=seed)) for seed in (71, 72))

    ask(fake_client, "interactive", image)
    after_one = moved(fake_stack, before)
    ask(fake_client, "interactive", image, other)
    after_two = moved(fake_stack, before)

    assert [after_one[figure] for figure in figures] == [1, 0, 1, 0]
    assert [after_two[figure] for figure in figures] == [2, 1, 2, 1]
    assert (after_one[decodings], after_two[decodings]) == (1, 2)
    assert 0 < after_one[seconds] < after_two[seconds] < 20


def test_slots_and_who_fills_them(fake_stack: RunningStack, fake_client: OpenAI) -> None:
    ready = gateway("workers", model=FAKE_MODEL, state="ready")
    slots = gateway("worker_slots", model=FAKE_MODEL)
    stream = fake_client.chat.completions.create(
        model=FAKE_MODEL,
        messages=[{"role": "user", "content": "[[n=4000 d=20]]"}],
        stream=True,
    )
    next(iter(stream))
    running = worker("running_requests").of(fake_stack)
    stream.close()

    assert running == 1
    assert worker("slots").of(fake_stack) == 128
    assert (ready.of(fake_stack), slots.of(fake_stack)) == (1, 128)
    assert gateway("redis_up").of(fake_stack) == 1
    wait_until(lambda: fake_stack.num_running() == 0, "the end of what its client left")


def test_processes_say_what_they_take(fake_stack: RunningStack) -> None:
    assert fake_stack.gateway_count("process_resident_memory_bytes") > 10e6
    assert fake_stack.worker_count("process_resident_memory_bytes") > 10e6
