"""The gateway with callers of a benchmark's own: a header says whose a request is.

It also says in a header how long the gateway took to decide. Run by `tenant_load.py` on the
loopback; the product has no such header, and no setting that brings it in.
"""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.caller import Caller
from services.gateway.main import main

TENANT_HEADER = b"x-bench-tenant"
DECIDED_HEADER = b"x-bench-decided-us"


class BenchDoor:
    """Wraps the gateway."""

    def __init__(self, door: ASGIApp) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            await self._door(scope, receive, send)
            return
        tenant = dict(scope["headers"]).get(TENANT_HEADER, b"anonymous")
        scope["galen.caller"] = Caller(tenant.decode("ascii"))
        received_s = time.monotonic()

        async def receive_and_note() -> Message:
            nonlocal received_s
            message = await receive()
            if message["type"] == "http.request":
                received_s = time.monotonic()
            return message

        async def send_with_time(message: Message) -> None:
            if message["type"] == "http.response.start":
                took_us = round((time.monotonic() - received_s) * 1e6)
                header = (DECIDED_HEADER, str(took_us).encode())
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self._door(scope, receive_and_note, send_with_time)


if __name__ == "__main__":
    main(BenchDoor)
