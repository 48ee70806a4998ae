"""Who sends a request, as far as routes need to know.

What does *not* live here: keys and how they are checked.
"""

from dataclasses import dataclass

from starlette.requests import Request

from modeling.medical_images.choice import BurnedIn

_ANONYMOUS_TENANT = "anonymous"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose files, jobs and share of the workers a request is about.

    Args:
        tenant_id: owns what the request makes; others do not see it.
        key_id: public name of the key it came with; None: it came without one.
        burned_in: what is done with its DICOM files that hold text within their pixels; without a
            key, the operator's setting counts.
    """

    tenant_id: str
    key_id: str | None = None
    burned_in: BurnedIn = "block"


ANONYMOUS = Caller(_ANONYMOUS_TENANT)


def caller_of(request: Request) -> Caller:
    """Return who sends `request`."""
    return request.scope.get("galen.caller", ANONYMOUS)
