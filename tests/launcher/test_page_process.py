"""What `galen up` tells the page."""

import pytest

from services.launcher.page_process import PageAddress, status_access
from services.launcher.up_key import UpKey


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_page_for_this_machine_may_read_the_status(host: str) -> None:
    assert status_access(PageAddress(host), None, "k") == {"admin_key": "k"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "galen.example", ""])
def test_a_page_that_others_can_reach_gets_no_key(host: str) -> None:
    assert status_access(PageAddress(host), None, "k") == {}


def test_where_people_have_keys_of_their_own_the_page_gets_none() -> None:
    assert status_access(PageAddress("127.0.0.1"), UpKey("galen_1", "galen_1_2"), "k") == {}
