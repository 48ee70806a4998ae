"""JSON that means one thing only: what other readers let pass in silence is refused here.

Python's own reader takes NaN and infinities, keeps the last of two equal keys, passes lone
surrogates on (which no later encoder can write) and dies of deep nesting. Pure.
"""

import json
import math
import secrets
from typing import Any, NoReturn, cast

from services.protocol.errors import ErrorCode, RequestError

MAX_DEPTH = 64
_LONG_BYTES = 16 << 10
"""Data URLs of at least this length are cut out before parsing; see `_cut_data_urls`."""


def parse(body: bytes) -> Any:
    """Return the value that `body` holds (of any JSON type, hence Any); raises RequestError."""
    if len(body) < _LONG_BYTES:
        return _parse(body)
    mark = f"galen-{secrets.token_hex(8)}-"
    rest, data_urls = _cut_data_urls(body, mark)
    return _put_back(_parse(rest), mark, data_urls)


def _cut_data_urls(body: bytes, mark: str) -> tuple[bytes, list[str]]:
    """Take long data URLs out of a body, so that they are searched and copied once, not four times.

    A quotation mark before `data:` begins a string unless a backslash stands before it. What is cut
    has no backslash, so it ends at the next quotation mark, and is ASCII. `mark` cannot be guessed.
    """
    kept: list[bytes] = []
    data_urls: list[str] = []
    done = place = 0
    while (place := body.find(b'"data:', place)) >= 0:
        end = body.find(b'"', place + 1)
        if end < 0:
            break
        string = body[place + 1 : end]
        is_plain = len(string) >= _LONG_BYTES and b"\\" not in string and string.isascii()
        if is_plain and body[place - 1 : place] != b"\\":
            kept += (body[done : place + 1], f"{mark}{len(data_urls)}".encode())
            data_urls.append(string.decode("ascii"))
            done = end
        place = end
    kept.append(body[done:])
    return b"".join(kept), data_urls


def _put_back(value: Any, mark: str, data_urls: list[str]) -> Any:
    if isinstance(value, str):
        return data_urls[int(value[len(mark) :])] if value.startswith(mark) else value
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value).items()
        return {name: _put_back(each, mark, data_urls) for name, each in members}
    if isinstance(value, list):
        return [_put_back(each, mark, data_urls) for each in cast("list[Any]", value)]
    return value


def _parse(body: bytes) -> Any:
    if body.startswith(b"\xef\xbb\xbf"):
        _refuse(ErrorCode.INVALID_JSON, "the body begins with a byte order mark; send plain UTF-8")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        _refuse(ErrorCode.INVALID_UNICODE, "the body is not valid UTF-8")
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite
        )
    except RecursionError:
        _refuse_depth()
    except json.JSONDecodeError as error:
        _refuse(
            ErrorCode.INVALID_JSON,
            f"the body is not valid JSON (line {error.lineno}, column {error.colno})",
        )
    except ValueError:  # an integer of thousands of digits
        _refuse(ErrorCode.INVALID_JSON, "the body holds a number that is out of range")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    if "\\u" in text:
        _check_strings(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _refuse(ErrorCode.DUPLICATE_KEY, "an object in the body has the same key twice")
    return found


def _constant(name: str) -> NoReturn:
    _refuse(ErrorCode.INVALID_JSON, f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        _refuse(ErrorCode.INVALID_JSON, "the body holds a number that is out of range")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [c for each in level for c in _children(each) if isinstance(c, dict | list)]
        if not level:
            return
    _refuse_depth()


def _check_strings(value: Any) -> None:
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, str):
            _check_string(each)
        else:
            todo.extend(_names(each))
            todo.extend(_children(each))


def _check_string(text: str) -> None:
    if "\0" in text:
        _refuse(ErrorCode.INVALID_UNICODE, "a string in the body holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(ErrorCode.INVALID_UNICODE, "a string in the body holds a lone surrogate")


def _names(value: Any) -> list[str]:
    return list(cast("dict[str, Any]", value)) if isinstance(value, dict) else []


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else []


def _refuse_depth() -> NoReturn:
    _refuse(ErrorCode.TOO_DEEP, f"the body nests deeper than {MAX_DEPTH} levels")


def _refuse(code: ErrorCode, message: str) -> NoReturn:
    raise RequestError(code, message) from None
