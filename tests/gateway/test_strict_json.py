import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.strict_json import MAX_DEPTH, MAX_VALUES, cut, parse
from services.protocol.errors import ErrorCode, RequestError

# Text without surrogates and NUL, numbers that are finite: JSON that means one thing only.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=30,
)


def code_of(body: bytes) -> ErrorCode:
    with pytest.raises(RequestError) as caught:
        parse(body)
    return caught.value.code


@given(value=VALUES, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_unambiguous_json_is_read_as_python_reads_it(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    assert parse(text.encode()) == json.loads(text)


@given(
    body=st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace"))
)
def test_arbitrary_bytes_are_read_as_python_reads_them_or_refused(body: bytes) -> None:
    try:
        value = parse(body)
    except RequestError:
        return
    assert value == json.loads(body)


@pytest.mark.parametrize("form", ["[{}]", '{{"a":{}}}'])
def test_depth_is_allowed_to_its_limit_and_no_further(form: str) -> None:
    def nested(levels: int, leaf: str) -> bytes:
        text = leaf
        for _ in range(levels):
            text = form.format(text) if form[0] == "[" else '{"a":' + text + "}"
        return text.encode()

    for leaf in ("1", '"[[[["', "null"):
        assert parse(nested(MAX_DEPTH, leaf)) is not None
        assert code_of(nested(MAX_DEPTH + 1, leaf)) is ErrorCode.TOO_DEEP


def test_depth_of_one_branch_does_not_depend_on_the_others() -> None:
    deepest = "[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1)

    assert len(parse(f"[{deepest},{deepest}]".encode())) == 2


def test_brackets_in_text_are_no_depth() -> None:
    assert parse(json.dumps("[" * 1000).encode()) == "[" * 1000


@pytest.mark.parametrize("levels", [1_000, 100_000])
def test_nesting_beyond_python_s_own_limit_is_too_deep(levels: int) -> None:
    assert code_of(b"[" * levels) in {ErrorCode.TOO_DEEP, ErrorCode.INVALID_JSON}
    assert code_of(b"[" * levels + b"]" * levels) is ErrorCode.TOO_DEEP
    assert code_of(b'{"a":' * levels + b"1" + b"}" * levels) is ErrorCode.TOO_DEEP


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", ErrorCode.INVALID_JSON),
        (b"{", ErrorCode.INVALID_JSON),
        (b"{} {}", ErrorCode.INVALID_JSON),
        (b"[1,]", ErrorCode.INVALID_JSON),
        (b"{'a':1}", ErrorCode.INVALID_JSON),
        (b"[01]", ErrorCode.INVALID_JSON),
        (b"[+1]", ErrorCode.INVALID_JSON),
        (b"NaN", ErrorCode.INVALID_JSON),
        (b"[-Infinity]", ErrorCode.INVALID_JSON),
        (b"[1e999]", ErrorCode.INVALID_JSON),
        (b"1" * 5000, ErrorCode.INVALID_JSON),
        (b"\xef\xbb\xbf{}", ErrorCode.INVALID_JSON),
        (b'["a\nb"]', ErrorCode.INVALID_JSON),
        (b'{"a":1,"a":1}', ErrorCode.DUPLICATE_KEY),
        (b'[{"b":{"a":1,"\\u0061":2}}]', ErrorCode.DUPLICATE_KEY),
        (b'["\\ud800"]', ErrorCode.INVALID_UNICODE),
        (b'{"\\udfff":1}', ErrorCode.INVALID_UNICODE),
        (b'{"a":["\\u0000"]}', ErrorCode.INVALID_UNICODE),
        (b'["\xff"]', ErrorCode.INVALID_UNICODE),
        (b'["\xc0\x80"]', ErrorCode.INVALID_UNICODE),
    ],
)
def test_what_others_let_pass_is_refused(body: bytes, code: ErrorCode) -> None:
    assert code_of(body) is code


def test_pair_of_surrogates_is_one_character() -> None:
    assert parse(b'["\\ud83e\\uddea"]') == ["\U0001f9ea"]


def test_refusal_does_not_quote_the_body() -> None:
    for body in (b'{"Canary":1,"Canary":2}', b'["Canary', b'["Canary\\ud800"]', b'{"Canary":NaN}'):
        with pytest.raises(RequestError) as caught:
            parse(body)
        assert "Canary" not in str(caught.value)


LONG = "data:image/png;base64," + "A" * 20_000


def test_long_data_urls_survive_being_cut_out() -> None:
    value = {"a": [LONG, {"b": LONG + "B", "c": "data:short"}], "d": "x" * 20_000}
    assert parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        f'he said "{LONG}"',  # the quotation mark is escaped, so no string begins here
        LONG + "\\",
        LONG + "\u00e9",
        LONG + "\n",
        LONG + "\u0001",
    ],
)
def test_what_only_looks_like_a_long_data_url_is_read_as_it_stands(text: str) -> None:
    value = {"a": text, "b": LONG}
    for ascii_only in (True, False):
        body = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert parse(body) == value


def test_a_long_data_url_does_not_hide_what_is_wrong_around_it() -> None:
    for body in (f'{{"a":"{LONG}","a":1}}', f'{{"a":"{LONG}"', f'{{"a":"{LONG}",}}'):
        with pytest.raises(RequestError):
            parse(body.encode())


@pytest.mark.parametrize("control", ["\0", "\n", "\t", "\x1f"])
def test_control_characters_of_a_long_data_url_are_refused(control: str) -> None:
    body = f'{{"a":"{LONG}{control}","b":"{LONG}"}}'.encode()

    assert code_of(body) is ErrorCode.INVALID_JSON


def test_as_many_values_as_allowed_and_no_more() -> None:
    assert len(parse(b"[" + b"1," * (MAX_VALUES - 1) + b"1]")) == MAX_VALUES
    assert code_of(b"[" + b"1," * MAX_VALUES + b"1]") is ErrorCode.REQUEST_TOO_LARGE
    assert code_of(b"[" + b"{}," * MAX_VALUES + b"{}]") is ErrorCode.REQUEST_TOO_LARGE


def test_long_data_urls_do_not_count_as_values() -> None:
    rest = cut(json.dumps({"a": LONG + "," * MAX_VALUES, "b": LONG}).encode()).rest

    assert len(rest) < 100


def test_short_data_urls_are_looked_at_a_limited_number_of_times() -> None:
    value = ["data:x"] * 50_000 + [LONG]

    assert cut(json.dumps(value).encode()).data_urls == ()
    assert parse(json.dumps(value).encode()) == value


def test_a_long_data_url_as_a_name_is_put_back_as_well() -> None:
    url = "data:image/png;base64," + "QUJD" * 6000
    body = {"a": url, url: {url: [url]}}

    assert parse(json.dumps(body).encode()) == body
    twice = f'{{"{url}": 1, "{url}": 2}}'
    assert code_of(twice.encode()) is ErrorCode.DUPLICATE_KEY
