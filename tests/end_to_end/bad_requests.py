"""The bodies of the bad-input catalogue (JSON to DICOM), and what each is answered with.

Numbers are the catalogue's rows. Everything here is refused with status 400 and the type
`invalid_request_error`, unless the row says otherwise, before a worker is touched.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.end_to_end.chat import image_part, user
from tests.gateway.media.hand_made import bmp, gif, tiff
from tests.gateway.media.image_files import (
    OTHER_TYPES,
    b64,
    data_url,
    jpeg_of_declared_size,
    noise,
    one_bit_bomb,
    png,
    saved,
    text_bombs,
    webp_of_declared_size,
)
from tests.modeling.medical_images.dicom_files import deflated_bomb, dicom, nested, raw_file
from tests.modeling.medical_images.shipped import jpeg_extended_with_a_sign, shipped

MODEL = "fake-vlm"
FIRST_IMAGE = "messages[0].content[0].image_url.url"


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A body, and the error that answers it."""

    row: int
    name: str
    body: bytes
    code: str
    param: str | None = None
    status: int = 400

    def __str__(self) -> str:
        return f"{self.row}-{self.name}"


def body_with(**parameters: Any) -> bytes:
    """A good request but for these parameters; `...` leaves one out."""
    request = {"model": MODEL, "messages": [user("[[n=1]]")], **parameters}
    return json.dumps({k: v for k, v in request.items() if v is not ...}).encode()


def _text(literal: str) -> bytes:
    """A good request but for a piece of JSON that stands in its text."""
    return b'{"model":"fake-vlm","messages":[{"role":"user","content":%b}]}' % literal.encode()


GOOD = body_with()

JSON_ROWS = [
    BadRequest(18, "empty", b"", "invalid_json"),
    BadRequest(20, "truncated", GOOD[:-2], "invalid_json"),
    BadRequest(20, "truncated in a string", GOOD[:20], "invalid_json"),
    *(
        BadRequest(21, word, GOOD[:-1] + b',"temperature":%b}' % word.encode(), "invalid_json")
        for word in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000)
    ),
    BadRequest(22, "key twice", GOOD[:-1] + b',"n":1,"n":2}', "duplicate_key"),
    BadRequest(22, "key twice, spelt apart", GOOD[:-1] + b',"n":1,"\\u006e":2}', "duplicate_key"),
    BadRequest(22, "nested key twice", _text('[{"type":"text","text":"a","text":"b"}]'),
               "duplicate_key"),
    BadRequest(23, "100,000 lists", b"[" * 100_000, "too_deep"),
    BadRequest(23, "100,000 closed lists", b"[" * 100_000 + b"]" * 100_000, "too_deep"),
    BadRequest(23, "65 lists", b"[" * 65 + b"]" * 65, "too_deep"),
    BadRequest(23, "65 objects", b'{"a":' * 65 + b"1" + b"}" * 65, "too_deep"),
    BadRequest(24, "600,000 objects", b"[" + b"{}," * 600_000 + b"{}]", "request_too_large",
               status=413),
    BadRequest(29, "NUL in a long data URL",
               body_with(model="data:" + "A" * 20_000 + "Z").replace(b"Z", b"\0"), "invalid_json"),
    BadRequest(25, "lone high surrogate", _text('"\\ud800"'), "invalid_unicode"),
    BadRequest(25, "lone low surrogate", _text('"\\udc00x"'), "invalid_unicode"),
    BadRequest(25, "surrogates in the wrong order", _text('"\\udc00\\ud800"'), "invalid_unicode"),
    BadRequest(25, "lone surrogate in a key", b'{"\\ud800":1}', "invalid_unicode"),
    BadRequest(26, "invalid UTF-8", _text('"x"').replace(b"x", b"\xff\xfe"), "invalid_unicode"),
    BadRequest(26, "surrogate in UTF-8", _text('"x"').replace(b"x", b"\xed\xa0\x80"),
               "invalid_unicode"),
    BadRequest(28, "byte order mark", b"\xef\xbb\xbf" + GOOD, "invalid_json"),
    BadRequest(28, "UTF-16", GOOD.decode().encode("utf-16"), "invalid_unicode"),
    BadRequest(29, "escaped NUL", _text('"a\\u0000b"'), "invalid_unicode"),
    BadRequest(29, "bare NUL", _text('"a\0b"'), "invalid_json"),
    BadRequest(30, "trailing garbage", GOOD + b"x", "invalid_json"),
    BadRequest(30, "two values", GOOD + GOOD, "invalid_json"),
    BadRequest(32, "30 MiB string", body_with(model="m" * (30 << 20)), "string_too_long", "model"),
    BadRequest(33, "trailing comma", GOOD[:-1] + b",}", "invalid_json"),
    BadRequest(33, "comment", b"/* hello */" + GOOD, "invalid_json"),
    *(
        BadRequest(33, f"no object but {value}", value.encode(), "invalid_value")
        for value in ("[]", "1", '"text"', "null", "true")
    ),
]  # fmt: skip


def _value(row: int, name: str, *values: Any, param: str = "") -> list[BadRequest]:
    """One parameter with values out of its range or of the wrong type."""
    return [
        BadRequest(row, f"{name} {value!r:.30}", body_with(**{name: value}), "invalid_value",
                   param or name)
        for value in values
    ]  # fmt: skip


def _unsupported(row: int, **parameters: Any) -> list[BadRequest]:
    """Parameters that nothing here knows."""
    return [
        BadRequest(row, name, body_with(**{name: value}), "unsupported_parameter", name)
        for name, value in parameters.items()
    ]


def _content(row: int, name: str, content: Any, param: str, code: str = "invalid_value",
             role: str = "user") -> BadRequest:  # fmt: skip
    """A first message with bad content."""
    return BadRequest(
        row, name, body_with(messages=[{"role": role, "content": content}]), code, param
    )


CONTENT = "messages[0].content"

PARAMETER_ROWS = [
    BadRequest(34, "no model", body_with(model=...), "missing_required_parameter", "model"),
    *_value(34, "model", None, 1, "", ["fake-vlm"]),
    *(
        BadRequest(row, f"model {name!r:.20}", body_with(model=name), "model_not_found", "model",
                   404)
        for row, name in ((35, "gpt-0"), (36, "../../etc/passwd"), (36, "m" * 1000), (36, "%00"))
    ),
    BadRequest(37, "no messages", body_with(messages=...), "missing_required_parameter",
               "messages"),
    *_value(38, "messages", [], None, "hello", {}),
    *_value(39, "messages", [user("x")] * 257),
    *_value(40, "messages", [{"role": "doctor", "content": "x"}], param="messages[0].role"),
    *_value(40, "messages", [{"role": None, "content": "x"}], param="messages[0].role"),
    BadRequest(40, "no role", body_with(messages=[{"content": "x"}]), "missing_required_parameter",
               "messages[0].role"),
    BadRequest(41, "no content", body_with(messages=[{"role": "user"}]),
               "missing_required_parameter", CONTENT),
    _content(41, "content null", None, CONTENT),
    _content(41, "content a number", 5, CONTENT),
    _content(42, "no parts", [], CONTENT),
    _content(43, "unknown part", [{"type": "video_url", "video_url": {}}], f"{CONTENT}[0].type"),
    _content(43, "part without type", [{"text": "x"}], f"{CONTENT}[0].type",
             "missing_required_parameter"),
    _content(43, "part of null", [None], f"{CONTENT}[0]"),
    _content(43, "unknown field in a part", [{"type": "text", "text": "x", "lang": "en"}],
             f"{CONTENT}[0].lang", "unsupported_parameter"),
    _content(43, "file of nothing", [{"type": "file", "file": {}}], f"{CONTENT}[0].file",
             "missing_required_parameter"),
    _content(43, "file by a URL", [{"type": "file", "file": {"file_id": "https://a.example/b"}}],
             f"{CONTENT}[0].file.file_id"),
    _content(43, "file that is no image",
             [{"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}}],
             f"{CONTENT}[0].file.file_data", "unsupported_image_type"),
    _content(43, "image of an assistant", [image_part("data:")], f"{CONTENT}[0].type",
             role="assistant"),
    *_value(44, "max_tokens", 0, -1, 10**9, 1e9, 1.5, "10", True, 2**70, -(2**70)),
    *_value(44, "max_completion_tokens", 0, "10", 10**400),
    BadRequest(44, "both limits", body_with(max_tokens=1, max_completion_tokens=1),
               "invalid_value", "max_tokens"),
    *_value(47, "temperature", -0.1, 2.1, "NaN", "0.5", False, 10**400),
    *_value(48, "top_p", 0, -1, 1.01, "1"),
    *_value(48, "top_k", 0, -2, 1.5, 1_000_001),
    *_value(49, "n", 0, -1, 9, 129, 5_000_000, 1.5, "2", 10**400),
    *_unsupported(50, best_of=2),
    *_value(51, "stop", list("abcde"), [], "", 5),
    *_value(51, "stop", ["a", ""], param="stop[1]"),
    *_value(51, "stop", "x" * 10_240),
    *_value(51, "stop", ["x" * 10_240], param="stop[0]"),
    *_unsupported(52, stop_token_ids=[10**9]),
    *(
        BadRequest(54, f"top_logprobs {value}", body_with(logprobs=True, top_logprobs=value),
                   "invalid_value", "top_logprobs")
        for value in (21, -1, 10**9, 1.5, "3")
    ),
    *_value(54, "top_logprobs", 3),
    *_value(54, "logprobs", 5, "true"),
    *_unsupported(55, prompt_logprobs=-1),
    *_value(56, "seed", 2**64, 2**63, -(2**63) - 1, 1.5, "1"),
    *_value(57, "presence_penalty", 2.1, -2.1, "1"),
    *_value(57, "frequency_penalty", 2.1, -2.1),
    *_value(58, "repetition_penalty", 0, -1, 10.1),
    *_unsupported(
        60, chat_template="{{ x }}", chat_template_kwargs={}, media_io_kwargs={},
        mm_processor_kwargs={}, prompt_embeds="", api_base="http://127.0.0.1", guided_regex="(a+)+",
    ),
    *_value(61, "response_format", {"type": "json_schema", "json_schema": {
        "name": "n", "schema": "x" * (1 << 20)}}, param="response_format.json_schema.schema"),
    *_value(61, "response_format", {"type": "json_schema", "json_schema": {
        "name": "n", "schema": {"title": "x" * (1 << 20)}}}),
    *_unsupported(61, response_format={"type": "json_object"}, min_tokens=1),
    *_unsupported(62, structured_outputs={"regex": "(a+)+$"}),
    *_value(63, "tools", [{"type": "function", "function": {"name": "a"}}] * 1000, [], {}),
    *(
        BadRequest(63, f"function {name!r:.9}", body_with(tools=[
            {"type": "function", "function": {"name": name}}], tool_choice="required"),
            "invalid_value", "tools[0].function.name")
        for name in ("a;b", "", "x" * 65, "a b", "a\n")
    ),
    *_unsupported(63, functions=[], function_call="auto", modalities=["audio"], store=True),
    *_value(63, "logit_bias", {"-1": 0}, {"x": 0}, {"01": 0}, [], {str(i): 0 for i in range(1025)}),
    *_value(63, "logit_bias", {"1": 101}, {"1": -101}, {"1": "2"}, param="logit_bias[...]"),
    *_value(65, "stream", "yes", 1),
    *_value(65, "user", 5),
    BadRequest(65, "long user", body_with(user="u" * 513), "string_too_long", "user"),
    BadRequest(65, "options of no stream", body_with(stream_options={"include_usage": True}),
               "invalid_value", "stream_options"),
    BadRequest(65, "unknown option", body_with(stream=True, stream_options={"x": 1}),
               "unsupported_parameter", "stream_options.x"),
]  # fmt: skip


def _image(row: int, name: str, url: str, code: str) -> BadRequest:
    body = body_with(messages=[{"role": "user", "content": [image_part(url)]}])
    return BadRequest(row, name, body, code, FIRST_IMAGE)


def _file(row: int, name: str, file: bytes, code: str, kind: str = "png") -> BadRequest:
    return _image(row, name, f"data:image/{kind};base64,{b64(file)}", code)


_PNG = b64(saved(noise(64, 64), "PNG"))

IMAGE_ROWS = [
    _image(66, "not base64", "data:image/png;base64,!!!!", "invalid_image"),
    _image(66, "base64 of no image", "data:image/png;base64," + b64(b"\1\2\3" * 50),
           "invalid_image"),
    _image(66, "declared another type", f"data:image/jpeg;base64,{_PNG}", "invalid_image"),
    _image(66, "not marked as base64", f"data:image/png,{_PNG}", "invalid_image"),
    _image(67, "bad padding", f"data:image/png;base64,{_PNG.rstrip('=')}A", "invalid_image"),
    _image(67, "padding within", f"data:image/png;base64,{_PNG[:40]}===={_PNG[40:]}",
           "invalid_image"),
    _image(67, "blanks", "data:image/png;base64," + " " * (1 << 20), "invalid_image"),
    _image(67, "line breaks", f"data:image/png;base64,{_PNG[:60]}\r\n\r\n{_PNG[60:]}",
           "invalid_image"),
    _image(69, "HTML declared", "data:text/html;base64," + b64(b"<html>"),
           "unsupported_image_type"),
    _image(69, "no type declared", f"data:;base64,{_PNG}", "unsupported_image_type"),
    _image(70, "empty payload", "data:image/png;base64,", "invalid_image"),
    _image(70, "empty URL", "", "invalid_image"),
    *(_file(71, name, file, "unsupported_image_type") for name, file in OTHER_TYPES.items()),
    _file(72, "truncated JPEG", saved(noise(200, 200), "JPEG")[:-900], "invalid_image", "jpeg"),
    _file(72, "truncated PNG", saved(noise(200, 200), "PNG")[:-900], "invalid_image"),
    _file(72, "truncated WebP", saved(noise(200, 200), "WEBP")[:-900], "invalid_image", "webp"),
    _file(74, "1-bit bomb", one_bit_bomb(), "image_too_large"),
    _file(75, "JPEG header", jpeg_of_declared_size(65_535, 65_535), "image_too_large", "jpeg"),
    _file(75, "PNG header", png(65_535, 65_535, pixels=b""), "image_too_large"),
    _file(75, "WebP header", webp_of_declared_size(16_384, 16_384), "image_too_large", "webp"),
    _file(76, "40.1 megapixels", png(8_020, 5_000, bits=1), "image_too_large"),
    *(
        _file(row, f"{kind} of {width}x{height}", make(width, height), "image_too_large", kind)
        for row, width, height in ((74, 50_000, 50_000), (75, 65_535, 65_535), (76, 8_020, 5_000))
        for kind, make in (("tiff", tiff), ("gif", gif), ("bmp", bmp))
    ),
    *(
        _file(77, name, png(64, 64, before_pixels=bomb), "invalid_image")
        for name, bomb in text_bombs().items()
    ),
    *(
        _file(81, f"{width}x{height}", saved(noise(width, height), "PNG"), "image_too_small")
        for width, height in ((1, 1), (1, 500), (500, 1), (27, 27), (28, 27))
    ),
    BadRequest(
        87, "17 images", body_with(messages=[user(*[noise(28, 28)] * 17)]), "too_many_images",
        "messages[0].content[16].image_url.url",
    ),
    BadRequest(
        87, "67 megapixels in all",
        body_with(messages=[{"role": "user", "content": [
            image_part("data:image/png;base64," + b64(png(8192, 4096, bits=1)))] * 2}]),
        "too_many_images", "messages[0].content[1].image_url.url",
    ),
    *(
        _image(98, url[:30], url, code)
        for url, code in (
            ("http://127.0.0.1/a.png", "url_fetch_disabled"),
            ("HTTPS://169.254.169.254/latest", "url_fetch_disabled"),
            ("file:///etc/passwd", "invalid_image"),
            ("ftp://127.0.0.1/a.png", "invalid_image"),
            ("//127.0.0.1/a.png", "invalid_image"),
        )
    ),
    _content(98, "URL of null", [{"type": "image_url", "image_url": {"url": None}}], FIRST_IMAGE),
    _content(98, "URL as a string", [{"type": "image_url", "image_url": "data:"}],
             f"{CONTENT}[0].image_url"),
    _content(98, "detail of no kind",
             [{"type": "image_url", "image_url": {"url": data_url(noise(28, 28)),
                                                  "detail": "huge"}}],
             f"{CONTENT}[0].image_url.detail"),
]  # fmt: skip

_DARK = np.zeros((64, 64), np.uint8)
DICOM_ROWS = [
    _image(row, name, f"data:application/dicom;base64,{b64(file)}", code)
    for row, name, file, code in (
        (88, "no preamble", shipped("CT_small.dcm")[128:], "invalid_dicom"),
        (88, "no magic", bytes(400), "invalid_dicom"),
        (89, "truncated pixels", shipped("MR_truncated.dcm"), "invalid_dicom"),
        (91, "JPEG Extended with a sign", jpeg_extended_with_a_sign(),
         "unsupported_transfer_syntax"),
        (91, "unknown syntax",
         dicom(_DARK).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0"),
         "unsupported_transfer_syntax"),
        (92, "deflated bomb", deflated_bomb(65 << 20), "image_too_large"),
        (93, "10,000 sequences", nested(10_000), "invalid_dicom"),
        (93, "endless length", raw_file(b"\x08\0\x10\0LO\xff\xff"), "invalid_dicom"),
        (94, "DICOMDIR", shipped("dicomdirtests/DICOMDIR"), "invalid_dicom"),
        (94, "DICOMDIR that leads out",
         shipped("dicomdirtests/DICOMDIR").replace(b"98892001", b"..\\..\\ab"), "invalid_dicom"),
        (95, "text within the pixels",
         dicom(_DARK, BurnedInAnnotation="YES"), "phi_burned_in"),
    )
]  # fmt: skip


def unusual_images() -> dict[str, Image.Image]:
    """Images of unusual modes that are good all the same (row 84)."""
    picture = noise(64, 48)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    rotated = picture.copy()
    rotated.info["exif"] = exif.tobytes()
    deep = Image.new("I;16", (64, 48), 40_000)
    palette = picture.convert("P")
    palette.info["transparency"] = 3
    return {
        "CMYK": picture.convert("CMYK"),
        "16 bit": deep,
        "palette with alpha": palette,
        "grey with alpha": picture.convert("LA"),
        "rotated": rotated,
        "one bit": picture.convert("1"),
    }
