"""Which worker an image belongs to."""

from collections import Counter

from services.gateway.affinity import candidates_for
from services.protocol.messages import (
    GenerationRequest,
    ImagePart,
    ImageRef,
    Message,
    ModelCard,
    SamplingParams,
    TextPart,
    WorkerRecord,
)

WORKERS = [
    WorkerRecord(name, ModelCard("m", "fake", 64, 1, frozenset(), frozenset()), "ready", 4, 0, 0)
    for name in ("w1", "w2", "w3", "w4")
]


def request(*images: str) -> GenerationRequest:
    parts = tuple(ImagePart(ImageRef(image, 14, 14)) for image in images)
    messages = (Message("system", (TextPart("Be brief."),)), Message("user", parts))
    return GenerationRequest("r", "g", "t", "m", "interactive", messages, SamplingParams())


def first(image: str, workers: list[WorkerRecord]) -> str:
    return candidates_for(request(image), workers)[0].worker_id


def test_all_workers_are_ranked_and_always_in_the_same_order():
    ranked = candidates_for(request("a"), WORKERS)
    assert sorted(each.worker_id for each in ranked) == ["w1", "w2", "w3", "w4"]
    assert {each.slots for each in ranked} == {4}
    assert candidates_for(request("a"), WORKERS[::-1]) == ranked


def test_first_image_of_the_conversation_decides():
    assert candidates_for(request("a", "b"), WORKERS) == candidates_for(request("a"), WORKERS)


def test_images_spread_evenly():
    counts = Counter(first(f"image {number}", WORKERS) for number in range(4000))
    assert all(abs(count - 1000) < 120 for count in counts.values())  # 4 standard deviations


def test_only_the_images_of_a_worker_that_goes_move():
    images = [f"image {number}" for number in range(200)]
    before = {image: first(image, WORKERS) for image in images}
    after = {image: first(image, WORKERS[:-1]) for image in images}
    assert all(after[image] == before[image] for image in images if before[image] != "w4")


def test_text_and_single_workers_have_nothing_to_choose():
    assert candidates_for(request(), WORKERS) == ()
    assert candidates_for(request("a"), WORKERS[:1]) == ()
