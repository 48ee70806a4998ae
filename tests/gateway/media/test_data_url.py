import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.media.data_url import FORMAT_BY_MIME, parse_data_url
from services.protocol.errors import ErrorCode, RequestError

_PIXEL = base64.b64encode(b"x" * 30).decode()


def _code(url: str, max_bytes: int = 1000) -> ErrorCode:
    with pytest.raises(RequestError) as caught:
        parse_data_url(url, max_bytes=max_bytes, param="messages.0")
    assert caught.value.param == "messages.0"
    return caught.value.code


@given(st.binary(min_size=1, max_size=300), st.sampled_from(sorted(FORMAT_BY_MIME)))
def test_any_payload_is_found_again_with_its_decoded_length(content: bytes, mime: str):
    url = f"data:{mime};base64,{base64.b64encode(content).decode()}"

    parsed = parse_data_url(url)

    assert parsed.declared_mime == mime
    assert parsed.decoded_bytes == len(content)
    assert base64.b64decode(url[parsed.payload_start :]) == content


@given(
    st.one_of(st.text(), st.text().map("data:".__add__), st.text().map("data:image/png;".__add__))
)
def test_any_text_is_parsed_or_refused_with_a_code(url: str):
    try:
        parsed = parse_data_url(url)
    except RequestError as error:
        assert error.message  # noqa: PT017 - either end is right
    else:
        assert url[parsed.payload_start :]


@given(st.binary(min_size=1, max_size=64), st.integers(1, 64))
def test_the_limit_is_exact(content: bytes, max_bytes: int):
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"

    if len(content) > max_bytes:
        assert _code(url, max_bytes) == ErrorCode.IMAGE_TOO_LARGE
    else:
        assert parse_data_url(url, max_bytes=max_bytes).decoded_bytes == len(content)


def test_the_media_type_is_compared_without_case_and_parameters_are_skipped():
    parsed = parse_data_url(f"DATA:Image/PNG;name=a.png;BASE64,{_PIXEL}")

    assert parsed.declared_mime == "image/png"


@pytest.mark.parametrize("url", ["http://a/b.png", "https://a/b.png", "HTTPS://a", "http:\\\\a"])
def test_http_urls_are_not_fetched(url: str):
    with pytest.raises(RequestError, match="data: URLs of JPEG, PNG, WebP") as caught:
        parse_data_url(url)
    assert caught.value.code == ErrorCode.URL_FETCH_DISABLED


@pytest.mark.parametrize(
    ("url", "code"),
    [
        pytest.param("", ErrorCode.INVALID_IMAGE, id="nothing"),
        pytest.param("file:///etc/passwd", ErrorCode.INVALID_IMAGE, id="98 file"),
        pytest.param("ftp://a/b.png", ErrorCode.INVALID_IMAGE, id="98 ftp"),
        pytest.param("gopher://a", ErrorCode.INVALID_IMAGE, id="98 gopher"),
        pytest.param("//a/b.png", ErrorCode.INVALID_IMAGE, id="no scheme"),
        pytest.param(_PIXEL, ErrorCode.INVALID_IMAGE, id="bare base64"),
        pytest.param(
            f" data:image/png;base64,{_PIXEL}", ErrorCode.INVALID_IMAGE, id="space before"
        ),
        pytest.param("data:image/png;base64", ErrorCode.INVALID_IMAGE, id="no comma"),
        pytest.param(f"data:image/png,{_PIXEL}", ErrorCode.INVALID_IMAGE, id="66 not base64"),
        pytest.param(
            "data:image/png;" + "a" * 300 + f";base64,{_PIXEL}",
            ErrorCode.INVALID_IMAGE,
            id="long header",
        ),
        pytest.param("data:image/png;base64,AAA", ErrorCode.INVALID_IMAGE, id="67 bad padding"),
        pytest.param(
            f"data:image/png;base64,{_PIXEL}\n", ErrorCode.INVALID_IMAGE, id="67 line break"
        ),
        pytest.param(
            "data:image/png;base64," + " " * 10_000, ErrorCode.IMAGE_TOO_LARGE, id="67 space bomb"
        ),
        pytest.param(
            "data:image/png;base64,\u0661\u0661\u0661\u0661", ErrorCode.INVALID_IMAGE, id="digits"
        ),
        pytest.param(
            f"data:text/html;base64,{_PIXEL}", ErrorCode.UNSUPPORTED_IMAGE_TYPE, id="69 html"
        ),
        pytest.param(
            f"data:image/svg+xml;base64,{_PIXEL}", ErrorCode.UNSUPPORTED_IMAGE_TYPE, id="svg"
        ),
        pytest.param(f"data:;base64,{_PIXEL}", ErrorCode.UNSUPPORTED_IMAGE_TYPE, id="no type"),
        pytest.param(
            "data:data:image/png;base64,AAAA", ErrorCode.UNSUPPORTED_IMAGE_TYPE, id="98 nested"
        ),
        pytest.param("data:image/png;base64,", ErrorCode.INVALID_IMAGE, id="70 empty"),
    ],
)
def test_anything_else_is_refused_with_its_code(url: str, code: ErrorCode):
    assert _code(url) == code
