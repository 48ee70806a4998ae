"""Index a file of about 80 MB in this process and print how much anonymous memory that took."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NUM_RECORDS = 40_000


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.support.anonymous_memory import PeakAnonymous  # noqa: PLC0415 (run by path)
    from training.records import RecordFile  # noqa: PLC0415

    path = Path(sys.argv[1]) / "big.json"
    write(path)
    peak = PeakAnonymous()
    file = RecordFile(path)
    for number in range(0, len(file), 7):
        file.record(number)
    report = {
        "peak_anonymous_bytes": peak.stop() - peak.start_bytes,
        "file_bytes": path.stat().st_size,
    }
    print(json.dumps(report))  # noqa: T201 (a program)


def write(path: Path) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "caption " * 250}]
    with path.open("w", encoding="utf-8") as file:
        for number in range(NUM_RECORDS):
            record = {"id": number, "image": f"{number}.jpg", "conversations": turns}
            file.write((",\n" if number else "[") + json.dumps(record))
        file.write("]")


if __name__ == "__main__":
    main()
