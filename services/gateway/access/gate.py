"""Who may pass: asked for every request, of every route, by the front door.

    GALEN_GATEWAY_AUTH   required   a key for everything but /healthz and /readyz
                         auto       the same, once the first key was made; until then open to
                                    programs on this machine, where the gateway listens on
                                    loopback only (any other address: required)
                         off        nobody is asked

What does *not* live here: what a key may use (`limiter.py`).
"""

import hmac

from starlette.types import Scope

from services.gateway.access.bad_keys import BadKeys
from services.gateway.access.key_ring import KeyRing
from services.gateway.access.local_only import check_local, is_loopback
from services.gateway.access.scopes import ALWAYS_OPEN, METRICS, scope_of
from services.gateway.caller import ADMIN, ADMINISTRATOR, ANONYMOUS, Caller
from services.gateway.settings import GatewaySettings
from services.protocol.errors import (
    AccessError,
    ErrorCode,
    GalenError,
    LimitError,
    UnavailableError,
)
from services.store.key_secrets import JOB_PREFIX

_JOB = JOB_PREFIX.encode()
_OPEN_TO_STRANGERS = frozenset({None, "", "chat", "metrics", ADMIN})
"""Scopes of what is not for this machine alone where auth is off; ADMIN asks for its own key."""


class Gate:
    """Sets `galen.caller` of a request's scope, or refuses it."""

    def __init__(self, settings: GatewaySettings, ring: KeyRing) -> None:
        key = settings.admin_key
        self._admin_key = None if key is None else key.get_secret_value().encode()
        self._is_off = settings.auth == "off"
        self._may_be_open = settings.auth == "auto" and is_loopback(settings.host)
        self._open_paths = ALWAYS_OPEN | {METRICS} if settings.open_metrics else ALWAYS_OPEN
        self._ring = ring
        self._bad = BadKeys()

    @property
    def is_open(self) -> bool:
        """Whether requests without a key are served."""
        return self._is_off or (self._may_be_open and self._ring.is_empty)

    async def admit(self, scope: Scope) -> None:
        """Find out who asks.

        Raises:
            AccessError: no key, no good one, or one that is not for this.
            LimitError: too many bad keys came from this address.
            UnavailableError: which keys are good is not known at the moment.
        """
        path = scope["path"]
        if path in self._open_paths or "galen.caller" in scope:  # set by who wraps us, no client
            return
        key = _key_in(scope)
        caller = self._known(key) if key else None
        needed = scope_of(path)
        if caller is None:
            if self.is_open:
                caller = self._stranger(scope, needed, key)
            else:
                caller = await self._second_look(scope, key)
        scope["galen.caller"] = caller  # also where it may not: log and audit name its key
        if needed and not caller.may(needed):
            raise _not_for_this(needed)

    def _known(self, key: bytes) -> Caller | None:
        if self._admin_key is not None and hmac.compare_digest(key, self._admin_key):
            return ADMINISTRATOR
        if self._is_off:
            return None
        if key.startswith(_JOB):
            return self._ring.job_caller(key.decode("latin-1"))
        return self._ring.find(key)

    def _stranger(self, scope: Scope, needed: str | None, key: bytes | None) -> Caller:
        """Return who asks without a key where none is needed; any other key is passed over.

        Pages of elsewhere reach a loopback port through the browser, under a name of their own
        (DNS rebinding): unless everybody is let in, no path is theirs.
        """
        if not self._is_off or needed not in _OPEN_TO_STRANGERS:
            check_local(scope)
        if needed == ADMIN:
            if key:
                self._count_bad(_address_of(scope))
            raise self._no_admin()
        return ANONYMOUS

    async def _second_look(self, scope: Scope, key: bytes | None) -> Caller:
        """A key may be younger than what we know: look again before it is refused."""
        address = _address_of(scope)
        if key:
            self._check_tries(address)
            await self._ring.look()
            if (caller := self._known(key)) is not None:
                return caller
        if not self._ring.is_reliable:
            raise UnavailableError(
                ErrorCode.STORAGE_UNAVAILABLE,
                "the keys cannot be read at the moment; try again later",
                retry_after_s=5.0,
            )
        if key is None:
            raise AccessError(
                ErrorCode.MISSING_API_KEY, "send a key as `Authorization: Bearer KEY`"
            )
        self._count_bad(address)
        raise AccessError(
            ErrorCode.INVALID_API_KEY,
            "the key is not valid, or not any more; send one as `Authorization: Bearer KEY`",
        )

    def _count_bad(self, address: str) -> None:
        self._check_tries(address)
        self._bad.count(address)

    def _check_tries(self, address: str) -> None:
        if wait_s := self._bad.wait_s(address):
            raise LimitError(
                ErrorCode.RATE_LIMIT_EXCEEDED,
                "too many bad keys came from your address; send a good one, or wait",
                retry_after_s=wait_s,
            )

    def _no_admin(self) -> GalenError:
        if self._admin_key is None:
            return _forbidden(
                "administration is off: start the gateway with GALEN_GATEWAY_ADMIN_KEY"
            )
        return _forbidden("send the admin key of this gateway as `Authorization: Bearer KEY`")


def _key_in(scope: Scope) -> bytes | None:
    """Return the key that was sent; b"": something that cannot be one; None: nothing."""
    found: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            if found is not None:
                return b""
            scheme, _, key = value.partition(b" ")
            found = key.strip() if scheme.lower() == b"bearer" else b""
    return found


def _address_of(scope: Scope) -> str:
    return str((scope.get("client") or ("", 0))[0])


def _not_for_this(needed: str) -> AccessError:
    if needed == ADMIN:
        return _forbidden("this key is not for administration")
    return AccessError(
        ErrorCode.INSUFFICIENT_SCOPE,
        f"this key is not for this: it lacks the scope {needed!r}; use another, or let the "
        "operator make one that has it",
    )


def _forbidden(message: str) -> AccessError:
    return AccessError(ErrorCode.ADMIN_FORBIDDEN, message)
