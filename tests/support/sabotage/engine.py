"""The engine process of a sabotaged worker; started by `worker.py` beside it."""

import sys

from services.worker.engine_process import main
from tests.support.sabotage.switches import throw

if __name__ == "__main__":
    at = next(i for i, word in enumerate(sys.argv) if word.startswith("--"))
    throw(sys.argv[1:at])
    sys.argv = [sys.argv[0], *sys.argv[at:]]
    main()
