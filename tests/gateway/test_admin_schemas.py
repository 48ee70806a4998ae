"""Bodies of the administration routes, without a gateway."""

from typing import Any

import pytest

from services.gateway.admin_schemas import read_drain_request, read_load_request
from services.protocol.errors import RequestError


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"path": "/models/llava-med"}, "llava-med"),
        ({"path": "/models/llava-med/"}, "llava-med"),
        ({"path": "/models/llava-med", "id": "med"}, "med"),
        ({"engine": "fake", "id": "fake"}, "fake"),
    ],
)
def test_model_has_its_folders_name_unless_one_is_given(body: dict[str, Any], name: str) -> None:
    assert read_load_request(body).model_id == name


@pytest.mark.parametrize("path", ["/", "/models/..", "/models/" + "a" * 201, "/models/my model"])
def test_folder_whose_name_is_no_models_name_needs_an_id(path: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_load_request({"path": path})

    assert caught.value.param == "id"
    assert read_load_request({"path": path, "id": "med"}).model_id == "med"


@pytest.mark.parametrize("name", ["my model", "a\x1b[2J", "a\n", "a\u00a0b", "a/../b"])
def test_name_that_would_spoil_a_url_a_log_or_a_table_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_load_request({"path": "/models/a", "id": name})

    assert caught.value.param == "id"
    message = caught.value.message
    assert message.endswith("no spaces, no control characters, no `.` or `..` between slashes")
    assert message.isprintable()


@pytest.mark.parametrize("name", ["lab/llava-med:v1.5", "a=b", "Lungenfl\u00fcgel", "x" * 200])
def test_names_as_they_are_usual_are_taken(name: str) -> None:
    assert read_load_request({"path": "/models/a", "id": name}).model_id == name


@pytest.mark.parametrize("timeout_s", [-1, 3601, "soon", None])
def test_drain_takes_from_none_to_an_hour(timeout_s: object) -> None:
    assert read_drain_request({}).timeout_s == 30
    with pytest.raises(RequestError) as caught:
        read_drain_request({"timeout_s": timeout_s})

    assert caught.value.param == "timeout_s"
