"""The OpenAPI document: FastAPI's routes with the schemas of our own structs. Pure."""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.gateway.admin_schemas import (
    AdminDone,
    AdminErrorList,
    AdminHostList,
    AdminStatus,
    AdminWorkerList,
    DrainRequest,
    LoadModelRequest,
)
from services.gateway.chunks import ChatCompletion, ErrorAnswer, Model, ModelList
from services.gateway.job_schemas import (
    Batch,
    BatchList,
    CreateBatchRequest,
    CreateEvaluationRequest,
    Evaluation,
    EvaluationList,
    FileDeleted,
    FileList,
    FileObject,
)
from services.gateway.openai_schemas import ChatCompletionRequest

_STRUCTS = (
    ChatCompletionRequest, ChatCompletion, ErrorAnswer, Model, ModelList,
    AdminWorkerList, AdminHostList, AdminDone, AdminStatus, AdminErrorList,
    DrainRequest, LoadModelRequest,
    FileObject, FileList, FileDeleted, Batch, BatchList, CreateBatchRequest,
    Evaluation, EvaluationList, CreateEvaluationRequest,
)  # fmt: skip
_REF = "#/components/schemas/{name}"


def body_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return OpenAPI's `content` of a JSON body (any JSON, hence Any)."""
    return {"application/json": {"schema": {"$ref": _REF.format(name=struct.__name__)}}}


def answers(
    struct: type[msgspec.Struct], description: str, *, is_streamed: bool = False
) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's `responses` of a route that answers with `struct` or with an error."""
    events = {"text/event-stream": {"schema": {"type": "string"}}} if is_streamed else {}
    return _answers({"description": description, "content": {**body_of(struct), **events}})


def file_answers(description: str) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's `responses` of a route that answers with a file or with an error."""
    schema = {"schema": {"type": "string", "format": "binary"}}
    return _answers({"description": description, "content": {"application/octet-stream": schema}})


def _answers(good: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    error = {"description": "An error in OpenAI's form", "content": body_of(ErrorAnswer)}
    return {200: good, "4XX": error, "5XX": error}


def install_api_document(app: FastAPI) -> None:
    """Make /openapi.json show what msgspec checks."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=_REF)
            made["components"] = {"schemas": schemas}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document
