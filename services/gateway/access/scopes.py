"""Which scope a path asks for. Pure.

A test holds every route of the application against this table.
"""

from services.gateway.caller import ADMIN

ALWAYS_OPEN = frozenset({"/healthz", "/readyz"})
METRICS = "/metrics"

_FREE = ""
"""Any key will do."""
_BY_FAMILY = {
    "/v1/chat": "chat",
    "/v1/completions": "chat",
    "/v1/responses": "chat",
    "/v1/embeddings": "chat",
    "/v1/galen": "chat",
    "/v1/models": _FREE,
    "/v1/files": "files",
    "/v1/batches": "batches",
    "/v1/evaluations": "evaluations",
    "/v1/feedback": "feedback",
    "/v1/usage": "usage",
    "/v1/admin": ADMIN,
    METRICS: "metrics",
    "/openapi.json": _FREE,
}


def scope_of(path: str) -> str | None:
    """Return the scope that a path asks for; "": none, but a key; None: the path is not ours."""
    found = _BY_FAMILY.get(path)
    return _BY_FAMILY.get("/".join(path.split("/", 3)[:3])) if found is None else found
