"""How the processes of a worker end, for those that started them."""

import signal

EXIT_CANNOT_START = 3
"""The engine refused its settings; starting again would end the same way."""
EXIT_LOOP_BROKEN = 4
"""A fault of the worker's own loop: no request is to blame."""
EXIT_ENGINE_BROKEN = 71
KILLED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
"""As `subprocess` reports them; no request is suspected."""
