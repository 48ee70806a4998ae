"""Nothing of a patient stays behind: canary strings are searched for wherever they must not be.

A prompt, the metadata of an image and an answer, on the way through the platform, after their end,
and after a request that killed its workers and went to the dead letters.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from services.protocol import keys
from tests.end_to_end.bad_requests import body_with
from tests.end_to_end.chat import image_part, text_part
from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.stack import RunningStack
from tests.gateway.media.image_files import b64, noise, saved
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import redis

pytestmark = pytest.mark.e2e

NAME = "Canary-Zwitscher-4711"
BADLY_NAMED = "Canary-Field-4712"
IN_IMAGE = "Canary-Exif-4713"
ANSWER = "zq0000"  # the first token of the fake engine
CANARIES = (NAME, BADLY_NAMED, IN_IMAGE, ANSWER)
DUMP = "dump.rdb"


def image_url(kind: str) -> str:
    """An image with a canary in its metadata."""
    image = noise(60, 60, seed=len(kind))
    if kind == "jpeg":
        exif = Image.Exif()
        exif[0x010E] = IN_IMAGE  # ImageDescription
        file = saved(image, "JPEG", exif=exif.tobytes(), comment=IN_IMAGE.encode())
    else:
        text = PngInfo()
        text.add_text("PatientName", IN_IMAGE)
        file = saved(image, "PNG", pnginfo=text)
    assert IN_IMAGE.encode() in file
    return f"data:image/{kind};base64,{b64(file)}"


def question(steering: str) -> Any:
    parts = [
        text_part(f"Patient {NAME} {steering}"),
        image_part(image_url("jpeg")),
        image_part(image_url("png")),
    ]
    return [{"role": "user", "content": parts}]


def values_in(client: "redis.Redis") -> dict[str, bytes]:
    """Every key of Redis with all that it holds, its name included."""
    readers = {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        "stream": client.xrange,
    }
    found: dict[str, bytes] = {}
    for key in client.scan_iter():
        kind = bytes(client.type(key)).decode()  # pyright: ignore[reportArgumentType]
        value = readers[kind](key) if kind in readers else b""  # gone since
        held = value if isinstance(value, bytes) else repr(value).encode()
        found[key.decode()] = key + b" " + held
    return found


def hits(texts: dict[str, bytes]) -> set[tuple[str, str]]:
    return {(place, c) for place, text in texts.items() for c in CANARIES if c.encode() in text}


def output_of(stack: RunningStack) -> dict[str, bytes]:
    """Everything that gateway and worker say to an operator."""
    pages = {**stack.logs(), "metrics": stack.metrics_pages()}
    return {name: text.encode() for name, text in pages.items()}


def dump_of(stack: RunningStack) -> bytes:
    """What Redis writes to disk."""
    stack.redis.config_set("rdbcompression", "no")
    stack.redis.save()
    folder = str(stack.redis.config_get("dir")["dir"])
    return (Path(folder) / DUMP).read_bytes()


def test_canaries_are_found_where_they_are() -> None:
    assert hits({"a": b"nothing", "b": f"x {NAME} {ANSWER}".encode()}) == {
        ("b", NAME),
        ("b", ANSWER),
    }


def test_while_it_runs_a_request_stands_in_its_two_streams_only(
    narrow_stack: RunningStack,
) -> None:
    with narrow_stack.client() as client:
        stream = client.chat.completions.create(
            model=FAKE_MODEL, messages=question("[[n=2 d=600000]]"), stream=True
        )
        next(iter(stream))
        found = hits(values_in(narrow_stack.redis))
        stream.close()

    work, events = f"{keys.PREFIX}work:", f"{keys.PREFIX}events:"
    assert {(key.startswith(work), canary) for key, canary in found} == {
        (True, NAME),
        (False, ANSWER),
    }
    assert all(key.startswith((work, events)) for key, _ in found)
    wait_until(narrow_stack.is_idle, "the end of the request")


def ask_in_every_way(stack: RunningStack) -> None:
    """Good requests, refused ones, one that fails and one that is given up."""
    with stack.client() as client:
        ask: Any = client.chat.completions.create
        ask(model=FAKE_MODEL, messages=question("[[n=5]]"), user=NAME, stop="zq0004")
        ask(model=FAKE_MODEL, messages=question("[[n=5]]"), logprobs=True, n=2)
        list(ask(model=FAKE_MODEL, messages=question("[[n=5]]"), stream=True))
        for refused in (
            {"extra_body": {BADLY_NAMED: NAME}},
            {"model": NAME},
            {"temperature": NAME},
            {"messages": [{"role": NAME, "content": NAME}]},
            {"messages": [{"role": "user", "content": [image_part(f"data:{NAME};base64,AAAA")]}]},
            {"messages": question("[[n=5 fail=2]]")},
        ):
            with pytest.raises(openai.APIStatusError):
                ask(**{"model": FAKE_MODEL, "messages": question(""), **refused})
        with pytest.raises(openai.APITimeoutError):
            ask(model=FAKE_MODEL, messages=question("[[n=9 d=600000]]"), timeout=0.3)
    url = f"{stack.base_url}/v1/models/{NAME}?{BADLY_NAMED}={NAME}"
    assert httpx.get(url, headers={BADLY_NAMED: NAME, "x-request-id": NAME}).status_code == 404
    assert httpx.post(f"{stack.base_url}/{NAME}", content=body_with()).status_code == 404
    wait_until(stack.is_idle, "the end of all requests")


def test_after_their_end_requests_are_nowhere(narrow_stack: RunningStack) -> None:
    ask_in_every_way(narrow_stack)

    found = hits(values_in(narrow_stack.redis))
    assert {canary for _, canary in found} <= {ANSWER}  # that one: the test below
    assert hits(output_of(narrow_stack)) == set()
    dump = dump_of(narrow_stack)
    assert [c for c in CANARIES if c != ANSWER and c.encode() in dump] == []
    assert keys.MODELS.encode() in dump  # it is a dump of this server


def test_after_its_end_an_answer_is_nowhere_in_redis(narrow_stack: RunningStack) -> None:
    with narrow_stack.client() as client:
        client.chat.completions.create(model=FAKE_MODEL, messages=question("[[n=5]]"))

    wait_until(lambda: not hits(values_in(narrow_stack.redis)), "the answer's end in Redis", 3.0)
    assert ANSWER.encode() not in dump_of(narrow_stack)


def test_dead_letters_and_the_logs_of_a_crash_hold_nothing(narrow_stack: RunningStack) -> None:
    before = narrow_stack.redis.xlen(keys.DEAD)
    with narrow_stack.client(timeout=60) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model=FAKE_MODEL, messages=question("[[n=9 crash=2]]"))
        assert caught.value.code == "request_poisoned"
        assert caught.value.response.headers["x-should-retry"] == "false"

        # the worker is there again with the answer to this
        client.chat.completions.create(
            model=FAKE_MODEL, messages=[{"role": "user", "content": "x"}]
        )
    assert narrow_stack.redis.xlen(keys.DEAD) == before + 1
    letters = narrow_stack.redis.xrange(keys.DEAD)
    assert hits({"letters": repr(letters).encode(), **output_of(narrow_stack)}) == set()
