"""What the audit names as a request's object, and what it never keeps."""

import pytest

from services.gateway.audit_objects import MOST_OBJECT, kept_object, object_of

KEY = f"galen_{'0a' * 8}_{'1b' * 32}"


@pytest.mark.parametrize(
    ("route", "path", "name"),
    [
        ("/v1/chat/completions", "/v1/chat/completions", ""),
        ("/v1/files", "/v1/files", ""),
        ("/v1/files", "/v1/files/file-abc", "file-abc"),
        ("/v1/files", "/v1/files/file-abc/content", "file-abc/content"),
        ("/v1/batches", "/v1/batches/batch_1/cancel", "batch_1/cancel"),
        ("/v1/admin", "/v1/admin/keys", "keys"),
        ("/v1/admin", "/v1/admin/keys/galen_0123/rotate", "galen_0123/rotate"),
        ("/v1/admin", "/v1/admin/models/org/name", "org/name"),
        ("/v1/admin", "/v1/admin/workers/host:1/drain", "host:1/drain"),
    ],
)
def test_the_object_is_what_stands_behind_the_route(route: str, path: str, name: str) -> None:
    assert object_of(route, path) == name
    assert kept_object(name) == name


@pytest.mark.parametrize(
    "name",
    [
        KEY,
        f"{KEY}/rotate",
        f"x{KEY}",
        "galenjob_abc.def",
        "a b",
        "Jane\u00e9",
        "a\nb",
        "<script>",
        "a" * (MOST_OBJECT + 1),
    ],
)
def test_what_is_odd_too_long_or_a_secret_is_not_kept(name: str) -> None:
    assert kept_object(name) == ""


def test_the_longest_name_and_the_id_of_a_key_are_kept() -> None:
    assert kept_object("a" * MOST_OBJECT) == "a" * MOST_OBJECT
    assert kept_object(KEY.rpartition("_")[0]) == f"galen_{'0a' * 8}"
