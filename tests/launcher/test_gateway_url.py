"""A gateway's address is understood however it is written."""

import pytest

from services.launcher.gateway_url import api_url
from services.launcher.terminal import CommandError


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000//", "http://127.0.0.1:8000/v1"),
        (" http://[::1]:8000/ ", "http://[::1]:8000/v1"),
        ("https://lab.example/galen", "https://lab.example/galen/v1"),
        ("https://lab.example/galen/v1", "https://lab.example/galen/v1"),
        ("https://lab.example/mv1", "https://lab.example/mv1/v1"),
    ],
)
def test_an_address_ends_in_the_version_whether_it_was_written_or_not(given: str, url: str) -> None:
    assert api_url(given) == url


@pytest.mark.parametrize(
    "given", ["", "localhost:8000", "ftp://a", "http://", "http://a:b/v1", "http://a/v1?x=1"]
)
def test_what_is_no_address_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(CommandError, match=r"is not the URL of a gateway, such as http://"):
        api_url(given)
