"""A benchmark asked by the platform's job workers: packed, uploaded, waited for, brought home.

Packed only, it is a file that the page's evaluation tab uploads.

Stopped at any moment, it goes on with the evaluation that it has begun, which the folder names.
What does *not* live here: the work (`evaluation/jobs`), scores and report (`running.py`).
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import msgspec

from evaluation.answering import Decoding, in_order_of_images
from evaluation.errors import EvaluationError
from evaluation.item_images import read_image
from evaluation.progress import JobProgress
from evaluation.run_folder import ANSWERS_FILE, JOB_FILE
from evaluation.running import Questions
from modeling.durable_files import unfinished_of, write_json
from services.endpoint_client.client import Endpoint
from services.protocol.evaluation_lines import EvaluationImage, EvaluationItem
from services.protocol.jobs import MAX_FILE_BYTES

_INPUT_FILE = "input.jsonl"
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_LOOK_S = 1.0
_AWAY_S = 120.0


def write_questions(questions: Questions, file: Path) -> None:
    """Write questions and images as a file for the page's evaluation tab, which may cut it.

    Raises:
        EvaluationError: an image cannot be read.
    """
    unfinished = unfinished_of(file)
    try:
        pack(questions, unfinished)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def pack(questions: Questions, file: Path) -> None:
    """Write questions and images as one file; raises EvaluationError for an unreadable image."""
    with file.open("wb") as out:
        for line in _lines(questions):
            out.write(msgspec.json.encode(line) + b"\n")


def run_distributed(
    questions: Questions, endpoint: Endpoint, decoding: Decoding, folder: Path
) -> dict[str, str]:
    """Let job workers answer, into the folder; returns why questions have no answer, by their ids.

    Raises:
        EvaluationError: the platform refuses it, or is away for too long.
    """
    key = {"authorization": f"Bearer {endpoint.api_key}"}
    with httpx.Client(base_url=endpoint.url, headers=key, timeout=60, trust_env=False) as client:
        platform = _Platform(client, endpoint.url)
        job_id = _known_job(folder) or _begin(platform, questions, endpoint.model, decoding, folder)
        found = _wait(platform, job_id, len(questions.items))
        _bring_answers(platform, found, folder)
        if failed := _failures(platform, found, questions):
            (folder / JOB_FILE).unlink()  # the same command asks again
        return failed


def _lines(questions: Questions) -> Iterator[EvaluationImage | EvaluationItem]:
    shown: str | None = None
    for item in in_order_of_images(questions.items):
        if item.image is not None and item.image != shown:
            image = read_image(questions.images, item.image)
            yield EvaluationImage(item.image, image.sha256, image.url, image.converted_by)
            shown = item.image
        yield EvaluationItem(
            item.id, item.question, item.reference, item.is_closed, item.kind, item.image
        )


def _check_size(file: Path) -> None:
    if (size := file.stat().st_size) > MAX_FILE_BYTES:
        raise EvaluationError(
            f"questions and images have {size // 10**6} MB, more than the {MAX_FILE_BYTES // 10**6}"
            " MB of an upload; leave --distributed out, or ask less with --limit"
        )


def _known_job(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / JOB_FILE).read_text("utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _begin(
    platform: "_Platform", questions: Questions, model: str, decoding: Decoding, folder: Path
) -> str:
    packed = folder / _INPUT_FILE
    try:
        pack(questions, packed)
        _check_size(packed)
        with packed.open("rb") as file:
            uploaded = platform.post(
                "/files",
                files={"file": (_INPUT_FILE, file)},
                data={"purpose": "evaluation"},
                timeout=600,
            )
    finally:
        packed.unlink(missing_ok=True)
    wanted = {
        "input_file_id": uploaded["id"],
        "model": model,
        "benchmark": questions.benchmark,
        "decoding": asdict(decoding),
        "candidates": None if questions.candidates is None else list(questions.candidates),
    }
    made = platform.post("/evaluations", json=wanted)
    write_json(folder / JOB_FILE, {"id": made["id"]})
    return made["id"]


def _wait(platform: "_Platform", job_id: str, total: int) -> Mapping[str, Any]:
    """Return the evaluation when it has ended."""
    with JobProgress(total) as progress:
        while True:
            found = platform.get(f"/evaluations/{job_id}")
            counts = found["request_counts"]
            progress.at(counts["completed"], counts["failed"])
            if found["status"] in _ENDED:
                break
            time.sleep(_LOOK_S)
    if found["status"] == "failed":
        problems: list[dict[str, Any]] = found["errors"]["data"] if found["errors"] else []
        why = "; ".join(str(each["message"]) for each in problems)
        raise EvaluationError(f"{job_id} failed: {why}; begin anew with --new-run")
    return found


def _bring_answers(platform: "_Platform", found: Mapping[str, Any], folder: Path) -> None:
    if found["output_file_id"] is None:
        (folder / ANSWERS_FILE).touch()
        return
    unfinished = folder / f"{ANSWERS_FILE}.partial"
    unfinished.write_bytes(platform.content(found["output_file_id"]))
    unfinished.replace(folder / ANSWERS_FILE)


def _failures(
    platform: "_Platform", found: Mapping[str, Any], questions: Questions
) -> dict[str, str]:
    if found["error_file_id"] is None:
        return {}
    lines = platform.content(found["error_file_id"]).splitlines()
    records = [json.loads(line) for line in lines]
    known = {item.id for item in questions.items}
    return {
        record["question_id"]: record["error"]["message"]
        for record in records
        if record["question_id"] in known
    }


class _Platform:
    """The gateway's routes; what is refused, or away for too long, is an EvaluationError."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url

    def get(self, path: str) -> dict[str, Any]:
        """Ask until there is an answer: the gateway may be started anew meanwhile."""
        return self._patiently(path).json()

    def content(self, file_id: str) -> bytes:
        """Return a file."""
        return self._patiently(f"/files/{file_id}/content").content

    def post(self, path: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401 - httpx's
        """Ask once: what was made would be made twice."""
        try:
            return self._checked(self._client.post(path, **body)).json()
        except httpx.TransportError as error:
            raise self._is_away(error) from error

    def _patiently(self, path: str) -> httpx.Response:
        give_up_s = time.monotonic() + _AWAY_S
        while True:
            try:
                response = self._client.get(path)
                if not response.is_server_error or time.monotonic() > give_up_s:
                    return self._checked(response)
            except httpx.TransportError as error:
                if time.monotonic() > give_up_s:
                    raise self._is_away(error) from error
            time.sleep(_LOOK_S)

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"HTTP {response.status_code}; is it a gateway of Galen?"
        raise EvaluationError(f"{self._url} refused it: {message}")

    def _is_away(self, error: Exception) -> EvaluationError:
        return EvaluationError(f"{self._url} cannot be reached ({type(error).__name__})")
