"""One process of libFuzzer on one front door: started by `__main__.py`, ends when its time is up.

An unexpected exception does not end it: the input is kept once for each place that raises, and the
search goes on. What ends a process (a crash of C code, memory, an input that takes too long) leaves
its input too, and `__main__.py` starts the next process.

Run: python -m tests.fuzzing.harness TARGET FINDINGS [libFuzzer's options] CORPUS
"""

import hashlib
import resource
import sys
import traceback
import warnings
from pathlib import Path

import atheris

MEMORY_BYTES = 3 << 30
"""Address space; the libraries' own take about 1 GiB of it."""
_INSTRUMENTED = ["modeling", "services.gateway", "pydicom", "nibabel", "PIL"]

with atheris.instrument_imports(  # pyright: ignore[reportAttributeAccessIssue] - has no stubs
    include=_INSTRUMENTED
):
    from PIL import Image

    from tests.fuzzing.targets import TARGETS, Target


class Watch:
    """Enters one door and keeps what should not have happened.

    Args:
        findings: folder of inputs with their tracebacks.
    """

    def __init__(self, target: Target, findings: Path) -> None:
        self._target = target
        self._findings = findings
        self._seen: set[str] = set()

    def __call__(self, data: bytes) -> None:
        try:
            self._target.enter(data)
        except self._target.expected:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            self._keep(data, error)

    def _keep(self, data: bytes, error: Exception) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = f"{type(error).__name__}-{Path(place.filename).stem}-{place.lineno}"
        if name in self._seen:
            return
        self._seen.add(name)
        digest = hashlib.sha256(data).hexdigest()[:12]
        stem = self._findings / f"{name}-{digest}"
        stem.with_suffix(".input").write_bytes(data)
        stem.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))


def main() -> None:
    """Fuzz until libFuzzer's limits are met."""
    name, findings, *options = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)  # as the decoder child
    atheris.Setup([sys.argv[0], *options], Watch(TARGETS[name], Path(findings)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
