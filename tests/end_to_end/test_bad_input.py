"""The bad-input catalogue against the running platform: exact status, type, code and parameter.

Whatever comes in, the body has OpenAI's shape and says nothing of our insides, no worker is
touched, memory stays flat, and the next good request is answered. The rows: `bad_requests.py`;
those of bare HTTP: `test_bad_http.py`.
"""

import json
import re
import time

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.end_to_end.bad_requests import (
    DICOM_ROWS,
    GOOD,
    IMAGE_ROWS,
    JSON_ROWS,
    PARAMETER_ROWS,
    BadRequest,
    body_with,
    unusual_images,
)
from tests.end_to_end.chat import FAKE_IMAGE_TOKENS, image_part, user
from tests.end_to_end.stack import RunningStack
from tests.gateway.media.image_files import apng, b64, noise, saved

pytestmark = pytest.mark.e2e

CHAT = "/v1/chat/completions"
JSON_TYPE = {"content-type": "application/json"}
OUR_INSIDES = re.compile(
    r"Traceback|\.py\b|\bline \d+, in\b|0x[0-9a-f]{6}|\b\d+\.\d+\.\d+|/(usr|home|root|tmp|var|opt)/"
    r"|redis|uvicorn|starlette|fastapi|pydantic|msgspec|pillow|Object at",
    re.IGNORECASE,
)
WORK_DONE = ("galen_worker_engine_steps_total", "galen_worker_generated_tokens_total")


def post(http: httpx.Client, body: bytes) -> httpx.Response:
    return http.post(CHAT, content=body, headers=JSON_TYPE)


def work_done(stack: RunningStack) -> list[float]:
    return [stack.worker_count(metric) for metric in WORK_DONE]


def check_error_shape(response: httpx.Response) -> dict[str, str | None]:
    """Return the error of a response whose shape is right and which says nothing of our insides."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("chatcmpl-")
    assert not OUR_INSIDES.search(response.text), response.text
    body = response.json()
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "message", "param", "type"]
    assert 0 < len(body["error"]["message"]) < 1000
    return body["error"]


def test_a_good_request_does_touch_a_worker(fake_stack: RunningStack, http: httpx.Client) -> None:
    before = work_done(fake_stack)
    post(http, GOOD)

    assert all(now > then for now, then in zip(work_done(fake_stack), before, strict=True))


@pytest.mark.parametrize("bad", [*JSON_ROWS, *PARAMETER_ROWS, *IMAGE_ROWS, *DICOM_ROWS], ids=str)
def test_bad_body_is_refused_exactly_and_touches_no_worker(
    fake_stack: RunningStack, http: httpx.Client, bad: BadRequest
) -> None:
    work_before = work_done(fake_stack)

    response = post(http, bad.body)

    error = check_error_shape(response)
    answered = (response.status_code, error["type"], error["code"], error["param"])
    assert answered == (bad.status, "invalid_request_error", bad.code, bad.param), error["message"]
    assert work_done(fake_stack) == work_before
    assert post(http, GOOD).status_code == 200


def test_45_context_that_cannot_hold_prompt_and_answer(http: httpx.Client) -> None:
    response = post(http, body_with(messages=[user("word " * 40_000)], max_tokens=8))

    error = check_error_shape(response)
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    for number in ("40000", "8", "32768"):
        assert number in (error["message"] or "")


# ------------------------------------------------------------------------------- time and memory


def test_32_string_of_30_mebibytes_is_refused_fast_and_leaves_no_memory(
    fake_stack: RunningStack, http: httpx.Client
) -> None:
    body = body_with(model="m" * (30 << 20))
    post(http, body)  # the first one warms up
    before = fake_stack.gateway_rss_bytes()
    durations: list[float] = []
    for _ in range(5):
        started = time.monotonic()
        assert post(http, body).status_code == 400
        durations.append(time.monotonic() - started)

    assert fake_stack.gateway_rss_bytes() - before < 16 << 20
    assert min(durations) < 0.5  # the goal is 0.1 s on a machine that does nothing else


def test_49_huge_n_is_refused_fast_and_allocates_nothing(
    fake_stack: RunningStack, http: httpx.Client
) -> None:
    body = body_with(n=5_000_000)
    post(http, body)
    before = fake_stack.gateway_rss_bytes()
    durations: list[float] = []
    for _ in range(50):
        started = time.monotonic()
        assert post(http, body).status_code == 400
        durations.append(time.monotonic() - started)

    assert fake_stack.gateway_rss_bytes() - before < 1 << 20
    assert min(durations) < 0.01


BOMBS = [bad for bad in (*IMAGE_ROWS, *DICOM_ROWS) if bad.row in (74, 77, 92, 93)]


@pytest.mark.parametrize("bomb", BOMBS, ids=str)
def test_image_bomb_is_refused_fast_and_leaves_no_memory(
    fake_stack: RunningStack, http: httpx.Client, bomb: BadRequest
) -> None:
    before = fake_stack.gateway_rss_bytes()
    started = time.monotonic()

    assert post(http, bomb.body).status_code == 400

    assert time.monotonic() - started < 2.0  # the goal is 1 s on a machine that does nothing else
    assert fake_stack.gateway_rss_bytes() - before < 20 << 20


# --------------------------------------------------------------------------- strange, but good


@pytest.mark.parametrize("literal", ["<image>", "<|image_pad|>", "<|im_start|>system", "[INST]"])
def test_64_special_tokens_in_text_are_text(http: httpx.Client, literal: str) -> None:
    response = post(http, body_with(messages=[user(f"what is {literal} here")]))

    assert response.status_code == 200
    assert response.json()["usage"]["prompt_tokens"] == 4


def test_78_only_the_first_frame_of_an_apng_counts(http: httpx.Client) -> None:
    url = f"data:image/png;base64,{b64(apng(1_000))}"
    response = post(http, body_with(messages=[{"role": "user", "content": [image_part(url)]}]))

    assert response.status_code == 200
    assert response.json()["usage"]["prompt_tokens"] == FAKE_IMAGE_TOKENS


def test_83_same_pixels_in_another_shape_are_another_image(
    fake_stack: RunningStack, http: httpx.Client
) -> None:
    pixels = noise(30, 100, seed=83).tobytes()
    before = set(fake_stack.redis.scan_iter("galen:image:*"))
    for width, height in ((30, 100), (100, 30)):
        body = body_with(messages=[user(Image.frombytes("RGB", (width, height), pixels))])
        assert post(http, body).status_code == 200

    assert len(set(fake_stack.redis.scan_iter("galen:image:*")) - before) == 2


@pytest.mark.parametrize("name", list(unusual_images()))
def test_84_images_of_unusual_modes_are_good(http: httpx.Client, name: str) -> None:
    image = unusual_images()[name]
    kind = "JPEG" if name in ("CMYK", "rotated") else "PNG"
    file = saved(image, kind, **({"exif": image.info["exif"]} if name == "rotated" else {}))
    url = f"data:image/{kind.lower()};base64,{b64(file)}"
    response = post(http, body_with(messages=[{"role": "user", "content": [image_part(url)]}]))

    assert response.status_code == 200
    assert response.json()["usage"]["prompt_tokens"] == FAKE_IMAGE_TOKENS


@pytest.mark.parametrize("tail", [b"PK\x03\x04 a ZIP's bytes", b"<html><script>alert(1)</script>"])
def test_86_tail_of_a_polyglot_is_gone_from_the_store(
    fake_stack: RunningStack, http: httpx.Client, tail: bytes
) -> None:
    file = saved(noise(60, 60, seed=len(tail)), "JPEG") + tail
    url = f"data:image/jpeg;base64,{b64(file)}"
    before = set(fake_stack.redis.scan_iter("galen:image:*"))
    response = post(http, body_with(messages=[{"role": "user", "content": [image_part(url)]}]))

    assert response.status_code == 200
    (new,) = set(fake_stack.redis.scan_iter("galen:image:*")) - before
    assert tail not in bytes(fake_stack.redis.get(new) or b"")  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------------ fuzz

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from([0, 1, -1, 2**63, 2**64, 1e308, "", "auto", "user", "data:", "\0"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "x"])},
    optional={"text": SCALARS, "image_url": VALUES | st.fixed_dictionaries({"url": SCALARS})},
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
        optional={"content": VALUES | st.lists(PARTS, max_size=3) | st.text(max_size=9)},
    ),
    max_size=3,
)
NAMES = (
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs",
    "stream", "stream_options", "user",
)  # fmt: skip
REQUESTS = st.fixed_dictionaries(
    {"model": st.just("fake-vlm") | SCALARS, "messages": MESSAGES | VALUES},
    optional=dict.fromkeys(NAMES, VALUES),
)


@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(value=REQUESTS | VALUES)
def test_no_json_is_answered_with_a_server_error(http: httpx.Client, value: object) -> None:
    response = post(http, json.dumps(value).encode())

    assert response.status_code < 500, response.text
    if response.status_code != 200:
        check_error_shape(response)
