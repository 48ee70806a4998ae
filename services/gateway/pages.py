"""The query parameters of a list, as OpenAI has them. Pure."""

from starlette.requests import Request

from services.protocol.errors import ErrorCode, RequestError
from services.store.file_records import Page


def page_of(request: Request, *, most: int, default: int, orders: bool = False) -> Page:
    """Return which page is asked for; raises RequestError.

    Args:
        most: of `limit`.
        orders: whether `order` is known.
    """
    query = request.query_params
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise RequestError(
            ErrorCode.INVALID_VALUE, f"limit must be a number from 1 to {most}", param="limit"
        )
    order = query.get("order", "desc") if orders else "desc"
    if order not in {"asc", "desc"}:
        raise RequestError(ErrorCode.INVALID_VALUE, "order must be asc or desc", param="order")
    return Page(int(text[:9]), query.get("after", "")[:64], is_ascending=order == "asc")


def unknown_after() -> RequestError:
    """Return the error of a page that follows nothing we know."""
    message = "after names nothing that is there; take the last_id of the page before"
    return RequestError(ErrorCode.INVALID_VALUE, message, param="after")
