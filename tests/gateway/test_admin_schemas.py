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


@pytest.mark.parametrize("path", ["/", "/models/..", "/models/" + "a" * 201])
def test_folder_whose_name_is_no_models_name_needs_an_id(path: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_load_request({"path": path})

    assert caught.value.param == "id"
    assert read_load_request({"path": path, "id": "med"}).model_id == "med"


@pytest.mark.parametrize("timeout_s", [-1, 3601, "soon", None])
def test_drain_takes_from_none_to_an_hour(timeout_s: object) -> None:
    assert read_drain_request({}).timeout_s == 30
    with pytest.raises(RequestError) as caught:
        read_drain_request({"timeout_s": timeout_s})

    assert caught.value.param == "timeout_s"
