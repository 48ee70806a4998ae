"""Whether this container's job worker takes tasks: `python -m evaluation.jobs.health`.

Each task touches the worker's progress file, and the parent sends one that does nothing where no
other comes (`main.py`). What does *not* live here: what happens to a stuck worker (`main.py`).
"""

from evaluation.jobs.places import WorkPlace
from evaluation.jobs.settings import JobSettings
from services import health_check
from services.settings_guard import settings_or_exit
from services.store.settings import StoreSettings

_FIRST = 1
"""A container has one worker."""


def main() -> None:
    """End with 0 where it took a task within the time after which it counts as stuck."""
    settings = settings_or_exit(JobSettings, "jobs")
    store = settings_or_exit(StoreSettings, "store")
    folder = (settings.work_dir or store.dir / "work").absolute()
    place = WorkPlace(folder, f"{settings.name}-{_FIRST}")
    health_check.main(["--file", str(place.progress_file), "--within-s", str(settings.stuck_s)])


if __name__ == "__main__":
    main()
