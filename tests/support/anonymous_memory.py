"""How much anonymous memory this process takes at most while something runs: no mapped files."""

import re
import threading
from pathlib import Path


class PeakAnonymous:
    """Looks every few milliseconds; `start_bytes` is what there was at its beginning."""

    def __init__(self) -> None:
        self.start_bytes = _anonymous_bytes()
        self._peak = self.start_bytes
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._stopped.wait(0.003):
            self._peak = max(self._peak, _anonymous_bytes())


def _anonymous_bytes() -> int:
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0
