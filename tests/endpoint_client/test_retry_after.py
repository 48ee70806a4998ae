import pytest

from services.endpoint_client.retry_after import retry_after_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0.25 ", 0.25),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 3600.0),
        ("99999999999999999999", 3600.0),
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_a_wait_is_seconds_or_a_date_within_reason(header: str | None, seconds: float | None):
    assert retry_after_s(header, 3600.0) == seconds
