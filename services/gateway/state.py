"""What the routes work with: made once by the application's lifespan, found in `app.state`."""

from dataclasses import dataclass

from starlette.requests import Request

from services.gateway.access.parts import Access
from services.gateway.audit import AuditLog
from services.gateway.catalogue import ModelCatalogue
from services.gateway.dispatch import Dispatcher
from services.gateway.image_sources import ImageSources
from services.gateway.job_sender import JobSender
from services.gateway.job_store import JobStore
from services.gateway.media.images import ImageResolver
from services.gateway.memory import MemoryGuard
from services.gateway.metrics import GatewayMetrics
from services.gateway.moderation import Moderation
from services.gateway.pulse import Pulse
from services.gateway.replies import Reply
from services.gateway.settings import GatewaySettings
from services.protocol.admin import AdminOrders
from services.protocol.errors import ErrorCode, UnavailableError
from services.tracing.spans import NO_SPAN, Span


@dataclass(slots=True)
class GatewayState:
    """The gateway's parts."""

    settings: GatewaySettings
    metrics: GatewayMetrics
    catalogue: ModelCatalogue
    dispatcher: Dispatcher
    images: ImageResolver
    image_sources: ImageSources
    pulse: Pulse
    admin: AdminOrders
    store: JobStore
    jobs: JobSender
    memory: MemoryGuard
    access: Access
    audit: AuditLog
    moderation: Moderation | None = None
    is_draining: bool = False
    is_closed: bool = False

    def end(self, reply: Reply) -> None:
        """Let go of a reply whose response has ended, and give up what is left of it."""
        reply.close()
        self.dispatcher.cancel(reply)
        self.dispatcher.release(reply)

    def check_open(self) -> None:
        """Raise UnavailableError once this process takes no request any more."""
        if self.is_closed:
            raise shutting_down()


def shutting_down() -> UnavailableError:
    """Return the error of a request that this process will not serve any more."""
    return UnavailableError(
        ErrorCode.SHUTTING_DOWN,
        "this gateway is shutting down; send the request again",
        retry_after_s=1.0,
    )


def state_of(request: Request) -> GatewayState:
    """Return the state of the application that serves `request`."""
    return request.app.state.galen


def span_of(request: Request) -> Span:
    """Return the span of `request`."""
    return request.scope.get("galen.span", NO_SPAN)
