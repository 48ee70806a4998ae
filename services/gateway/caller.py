"""Who sends a request, as far as routes need to know.

What does *not* live here: keys and how they are checked (`access/`).
"""

from dataclasses import dataclass

from starlette.requests import Request

from modeling.medical_images.choice import BurnedIn
from services.protocol.key_limits import NO_LIMITS, KeyLimits

EVERYTHING = "*"
ADMIN = "admin"
SCOPES = (
    "chat", "files", "batches", "evaluations", "feedback", "usage", "metrics",
    EVERYTHING, ADMIN,
)  # fmt: skip
"""What a key may be for; `*` is all but `admin`, which has to be named."""

_ANONYMOUS_TENANT = "anonymous"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose files, jobs and share of the workers a request is about.

    Args:
        tenant_id: owns what the request makes; others do not see it.
        key_id: public name of the key it came with, or that pays for the job it is a part of;
            None: there is none.
        burned_in: what becomes of images with names in their pixels; None: as the gateway has it.
        is_job: a job worker asks, for the job's tenant.
    """

    tenant_id: str
    key_id: str | None = None
    scopes: frozenset[str] = frozenset({EVERYTHING})
    limits: KeyLimits = NO_LIMITS
    burned_in: BurnedIn | None = None
    is_job: bool = False

    def may(self, scope: str) -> bool:
        """Whether it has a scope."""
        return scope in self.scopes or (EVERYTHING in self.scopes and scope != ADMIN)


ANONYMOUS = Caller(_ANONYMOUS_TENANT)
ADMINISTRATOR = Caller(_ANONYMOUS_TENANT, scopes=frozenset({EVERYTHING, ADMIN}))
"""Who has the gateway's own admin key."""


def caller_of(request: Request) -> Caller:
    """Return who sends `request`."""
    return request.scope.get("galen.caller", ANONYMOUS)
