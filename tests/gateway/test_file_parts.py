"""A file of a message is an image, wherever OpenAI's APIs let it stand."""

from typing import Any

import pytest

from services.gateway.openai_schemas import images_in, read_chat_request
from services.gateway.response_schemas import as_chat, asked_images, read_response_request
from services.gateway.translate import Origin, Target, generation_requests
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import ImagePart, ImageRef, TextPart

ID = "file-0123456789abcdef01234567"
DATA = "data:image/png;base64,AAAA"


def in_chat(file: Any) -> list[tuple[str, str]]:
    parts = [{"type": "text", "text": "What?"}, {"type": "file", "file": file}]
    chat = read_chat_request({"model": "m", "messages": [{"role": "user", "content": parts}]})
    return [(image.url, param) for image, param in images_in(chat.messages)]


def in_responses(file: Any) -> list[tuple[str, str]]:
    parts = [{"type": "input_text", "text": "What?"}, {"type": "input_file", **file}]
    body = {"model": "m", "input": [{"role": "user", "content": parts}]}
    request = read_response_request(body)
    inner = [image.url for image, _ in images_in(as_chat(request).messages)]
    found = [(image.url, param) for image, param in asked_images(request)]
    assert inner == [url for url, _ in found]
    return found


@pytest.mark.parametrize(
    ("file", "url", "field"),
    [
        ({"file_id": ID}, ID, "file_id"),
        ({"file_id": ID, "filename": "scan.dcm"}, ID, "file_id"),
        ({"file_data": DATA, "filename": "scan.pdf"}, DATA, "file_data"),
        ({"file_data": DATA.upper(), "file_id": None}, DATA.upper(), "file_data"),
    ],
)
def test_a_file_is_the_image_of_that_url(file: Any, url: str, field: str) -> None:
    assert in_chat(file) == [(url, f"messages[0].content[1].file.{field}")]
    assert in_responses(file) == [(url, f"input[0].content[1].{field}")]


@pytest.mark.parametrize(
    ("file", "code", "field"),
    [
        ({}, ErrorCode.MISSING_PARAMETER, ""),
        ({"filename": "a.png"}, ErrorCode.MISSING_PARAMETER, ""),
        ({"file_id": ID, "file_data": DATA}, ErrorCode.INVALID_VALUE, ""),
        ({"file_id": "https://images.example.org/a.png"}, ErrorCode.INVALID_VALUE, ".file_id"),
        ({"file_id": DATA}, ErrorCode.INVALID_VALUE, ".file_id"),
        ({"file_id": ""}, ErrorCode.INVALID_VALUE, ".file_id"),
        ({"file_data": "AAAA"}, ErrorCode.INVALID_IMAGE, ".file_data"),
        ({"file_data": "https://images.example.org/a"}, ErrorCode.INVALID_IMAGE, ".file_data"),
    ],
)
def test_what_is_none_is_told_what_is_allowed(file: Any, code: ErrorCode, field: str) -> None:
    places = {"messages[0].content[1].file": in_chat, "input[0].content[1]": in_responses}
    for place, read in places.items():
        with pytest.raises(RequestError, match=r"file_id.*data: URL in `file_data`") as caught:
            read(file)
        assert (caught.value.code, caught.value.param) == (code, f"{place}{field}")


def test_files_and_images_keep_their_order() -> None:
    parts = [
        {"type": "file", "file": {"file_id": ID}},
        {"type": "text", "text": "and"},
        {"type": "image_url", "image_url": {"url": DATA}},
    ]
    chat = read_chat_request({"model": "m", "messages": [{"role": "user", "content": parts}]})
    refs = [ImageRef(image.url, 1, 1) for image, _ in images_in(chat.messages)]

    (made,) = generation_requests(chat, refs, Origin("r", "g", "t", "interactive"), Target("m"))

    assert made.messages[0].parts == (
        ImagePart(refs[0]), TextPart("and"), ImagePart(ImageRef(DATA, 1, 1)),
    )  # fmt: skip


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_only_users_send_files(role: str) -> None:
    part = {"type": "file", "file": {"file_id": ID}}
    with pytest.raises(RequestError) as caught:
        read_chat_request({"model": "m", "messages": [{"role": role, "content": [part]}]})
    assert caught.value.param == "messages[0].content[0].type"
