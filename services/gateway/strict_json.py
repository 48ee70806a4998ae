"""JSON that means one thing only: what other readers let pass in silence is refused here.

Python's own reader takes NaN and infinities, keeps the last of two equal keys, passes lone
surrogates on (which no later encoder can write) and dies of deep nesting. Pure.
"""

import json
import math
from typing import Any, NoReturn, cast

from services.protocol.errors import ErrorCode, RequestError

MAX_DEPTH = 64


def parse(body: bytes) -> Any:
    """Return the value that `body` holds (of any JSON type, hence Any); raises RequestError."""
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
