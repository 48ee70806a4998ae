"""Which of a model's workers should run a request: questions on one image go to one of them. Pure.

Each (worker, image) has a weight, and the heaviest worker is the image's: rendezvous hashing
(Thaler & Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
Networking 6(1), 1998). Where a worker comes or goes, only its own images move. What does *not* live
here: how much a worker may be loaded for that (`protocol/request_queue.py`).
"""

import hashlib
from collections.abc import Sequence

from services.protocol.messages import GenerationRequest, ImagePart, WorkerRecord
from services.protocol.request_queue import Candidate


def candidates_for(
    request: GenerationRequest, ready: Sequence[WorkerRecord]
) -> Sequence[Candidate]:
    """Return the workers for a request, the best first; none where it is all the same.

    Args:
        ready: those that serve its model and claim.
    """
    image = _first_image(request)
    if image is None or len(ready) < 2:
        return ()
    ranked = sorted(ready, key=lambda worker: _weight(worker.worker_id, image), reverse=True)
    return [Candidate(worker.worker_id, worker.slots) for worker in ranked]


def _first_image(request: GenerationRequest) -> str | None:
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, ImagePart):
                return part.image.sha256
    return None


def _weight(worker_id: str, image: str) -> bytes:
    return hashlib.blake2b(f"{worker_id} {image}".encode(), digest_size=8).digest()
