"""How near this process is to the end of its memory, so that it refuses work before it is killed.

After Envoy's overload manager: beyond a soft limit nothing large is taken in, beyond a hard one
nothing at all but the health routes, until memory is free again. What is counted is the resident
memory of this process alone; decoder children have bounds of their own.
"""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from services.protocol.errors import ErrorCode, OverloadedError

SMALL_BODY_BYTES = 64 << 10
"""Beyond the soft limit, no larger body is read."""
_SAMPLE_S = 0.05
_RETRY_AFTER_S = 5.0
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_STATM = Path("/proc/self/statm")


class MemoryGuard:
    """Watches the memory of this process.

    Args:
        limit_bytes: what it may have; 0: what its control group allows, or anything.
        soft_share: of the limit, beyond which large bodies and images are refused.
        hard_share: of the limit, beyond which everything is refused.
    """

    def __init__(self, limit_bytes: int, soft_share: float, hard_share: float) -> None:
        self.limit_bytes = limit_bytes or _cgroup_limit()
        self._soft_bytes = soft_share * self.limit_bytes or math.inf
        self._hard_bytes = hard_share * self.limit_bytes or math.inf
        self._used_bytes = 0
        self._sampled = -math.inf

    @property
    def used_bytes(self) -> int:
        """Resident memory, at most a moment old; 0 where there is no limit to compare it with."""
        if self.limit_bytes and time.monotonic() - self._sampled > _SAMPLE_S:
            self._used_bytes = _resident_bytes()
            self._sampled = time.monotonic()
        return self._used_bytes

    def check_any(self) -> None:
        """Raise OverloadedError beyond the hard limit."""
        if self.used_bytes > self._hard_bytes:
            raise _no_memory("for any request")

    def check_large(self) -> None:
        """Raise OverloadedError beyond the soft limit: no image and no large body is taken now."""
        if self.used_bytes > self._soft_bytes:
            raise _no_memory("for images and large bodies")

    def check_headers(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise OverloadedError for a request that there is no memory for, before its body."""
        self.check_any()
        if method not in ("POST", "PUT", "PATCH"):
            return
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or int(length) > SMALL_BODY_BYTES:
            self.check_large()


def _no_memory(what: str) -> OverloadedError:
    return OverloadedError(
        ErrorCode.OVERLOADED,
        f"the gateway has no memory left {what} at the moment; try again later",
        retry_after_s=_RETRY_AFTER_S,
    )


def _resident_bytes() -> int:
    """Return this process's resident set (proc(5), statm); 0 where the system does not say it."""
    try:
        pages = int(_STATM.read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cgroup_limit() -> int:
    """Return the limit of this process's control group (version 2); 0: none."""
    try:
        text = _CGROUP_LIMIT.read_text("ascii").strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
