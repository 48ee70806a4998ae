"""A worker's connections to the wire, made by `engine_process.py`."""

from dataclasses import dataclass

from services.protocol.event_stream import EventWriter
from services.protocol.request_queue import WorkerQueue
from services.protocol.worker_directory import WorkerDirectory
from services.worker.images import ImageLoader


@dataclass(frozen=True, slots=True)
class WorkerLinks:
    """What the loop speaks through; `control` is a connection of its own, for cancellations."""

    queue: WorkerQueue
    control: WorkerQueue
    writer: EventWriter
    directory: WorkerDirectory
    images: ImageLoader
