"""Measures what batches cost: beside the engine driven directly, and beside interactive requests.

One worker with the fake engine of 20 ms a token. In every round, one after the other: the same
engine, in this process, with all slots always taken; a batch of the same questions through the
whole stack (upload, database, Celery, gateway, Redis, worker); interactive requests alone; and the
same requests while a batch keeps the worker full.

Run: python -m benchmarks.batch_throughput --help
"""

import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.completion_client import stream_one
from benchmarks.ours import REPOSITORY, start_redis
from benchmarks.page_sections import replace_section, table
from benchmarks.processes import BenchError, ChildProcesses, require_free_port
from benchmarks.settings import BenchSettings
from services.protocol.messages import (
    EngineEvent,
    Finished,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPart,
)
from services.worker.engines.base import EngineJob
from services.worker.engines.fake_engine import FakeEngine

MODEL = "bench"
TOKENS, TOKEN_MS = 32, 20
TARGET_SHARE, TARGET_TTFT = 0.90, 1.20
INTERACTIVE_PER_S = 2.0
START_LIMIT_S = 60.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class _NoProgress:
    """Nobody watches this engine."""

    def admitting(self, request_ids: Sequence[str]) -> None:
        pass

    def step_done(self) -> None:
        pass


def prompt_of(number: int) -> str:
    return f"[[n={TOKENS} d={TOKEN_MS}]] question {number}"


async def drive_engine(slots: int, num_questions: int) -> float:
    """Return the questions per second of an engine whose slots are never empty."""
    engine = FakeEngine(MODEL)
    numbers = itertools.count()
    num_done, is_over = 0, asyncio.Event()

    def submit() -> None:
        number = next(numbers)
        message = Message("user", (TextPart(prompt_of(number)),))
        request = GenerationRequest(
            f"r{number}", "g", "t", MODEL, "batch", (message,), SamplingParams()
        )
        engine.submit(EngineJob(request, ()))

    def on_step(events: Sequence[EngineEvent]) -> None:
        nonlocal num_done
        for _ in [event for event in events if isinstance(event, Finished)]:
            num_done += 1
            submit()
        if num_done >= num_questions:
            is_over.set()

    await engine.start(on_step, _NoProgress())
    began_s = time.monotonic()
    for _ in range(slots):
        submit()
    await is_over.wait()
    took_s = time.monotonic() - began_s
    await engine.close()
    return num_done / took_s


class Stack:
    """Gateway, worker and job worker as processes."""

    def __init__(self, settings: BenchSettings, children: ChildProcesses, slots: int) -> None:
        self.port = settings.port_base + 110
        require_free_port(self.port)
        socket, _ = start_redis(settings, children, is_durable=False)
        self._store = tempfile.mkdtemp(prefix="galen-bench-store-")
        shared = {"GALEN_STORE_DIR": self._store}
        redis_url = f"unix://{socket}"
        self.url = f"http://127.0.0.1:{self.port}/v1"
        services = {
            "worker": {
                "GALEN_WORKER_REDIS_URL": redis_url,
                "GALEN_WORKER_ENGINE": "fake",
                "GALEN_WORKER_MODEL_ID": MODEL,
                "GALEN_WORKER_SLOTS": str(slots),
                "GALEN_WORKER_LOG_LEVEL": "warning",
            },
            "gateway": {
                "GALEN_GATEWAY_REDIS_URL": redis_url,
                "GALEN_GATEWAY_PORT": str(self.port),
                "GALEN_GATEWAY_LOG_LEVEL": "warning",
                **shared,
            },
            "jobs": {
                "GALEN_JOBS_REDIS_URL": redis_url,
                "GALEN_JOBS_GATEWAY_URL": self.url,
                "GALEN_JOBS_LOG_LEVEL": "warning",
                **shared,
            },
        }
        for name, environment in services.items():
            package = "evaluation" if name == "jobs" else "services"
            children.start(
                f"galen_{name}",
                [sys.executable, "-m", f"{package}.{name}.main"],
                env=environment,
                cwd=REPOSITORY,
            )
        self._client = httpx.Client(base_url=self.url, timeout=60)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            try:
                if self._client.get("/models").json()["data"]:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise BenchError("the stack did not start")

    def start_batch(self, num_questions: int) -> str:
        lines = b"".join(
            json.dumps({
                "custom_id": str(number),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "model": MODEL,
                    "messages": [{"role": "user", "content": prompt_of(number)}],
                },
            }).encode() + b"\n"
            for number in range(num_questions)
        )  # fmt: skip
        made = self._client.post("/files", files={"file": lines}, data={"purpose": "batch"})
        wanted = {
            "input_file_id": made.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        return self._client.post("/batches", json=wanted).json()["id"]

    def status_of(self, batch_id: str) -> tuple[str, int]:
        found = self._client.get(f"/batches/{batch_id}").json()
        return found["status"], found["request_counts"]["completed"]

    def run_batch(self, num_questions: int) -> float:
        """Return the questions per second from the upload to the finished file."""
        began_s = time.monotonic()
        batch_id = self.start_batch(num_questions)
        while (found := self.status_of(batch_id))[0] != "completed":
            if found[0] in {"failed", "expired", "cancelled"}:
                raise BenchError(f"the batch ended as {found[0]}")
            time.sleep(0.1)
        return num_questions / (time.monotonic() - began_s)

    def full_batch(self, num_questions: int) -> str:
        """Start a batch, and return when it is under way."""
        batch_id = self.start_batch(num_questions)
        while self.status_of(batch_id)[1] == 0:
            time.sleep(0.1)
        return batch_id

    def cancel(self, batch_id: str) -> None:
        self._client.post(f"/batches/{batch_id}/cancel")
        while self.status_of(batch_id)[0] != "cancelled":
            time.sleep(0.1)

    async def interactive_p95_ms(self, seconds: float) -> float:
        """Return the 95th percentile of TTFT of requests that come at a fixed rate."""
        count = int(seconds * INTERACTIVE_PER_S)
        body = json.dumps({
            "model": MODEL,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": f"[[n=16 t=100 d={TOKEN_MS}]]"}],
        }).encode()  # fmt: skip

        async def ask(number: int) -> float:
            await asyncio.sleep(number / INTERACTIVE_PER_S)
            return (await stream_one(self.port, body))[0]

        times = await asyncio.gather(*(ask(number) for number in range(count)))
        return statistics.quantiles(times, n=20)[-1] * 1e3


@app.command()
def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 3,
    questions: Annotated[int, typer.Option(min=100, help="Of a batch.")] = 3000,
    slots: Annotated[int, typer.Option(min=2, help="Of the worker.")] = 32,
    seconds: Annotated[float, typer.Option(help="Of interactive requests.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Measure batches beside the engine alone, and interactive requests beside batches.

    For example:

    python -m benchmarks.batch_throughput --out docs/benchmarks.md
    """
    settings = BenchSettings()
    found: dict[str, list[float]] = {"engine": [], "batch": [], "alone": [], "beside": []}
    with ChildProcesses(settings.folder("logs")) as children:
        stack = Stack(settings, children, slots)
        stack.run_batch(100)  # everything is warm then
        for number in range(rounds):
            found["engine"].append(asyncio.run(drive_engine(slots, questions)))
            found["batch"].append(stack.run_batch(questions))
            found["alone"].append(asyncio.run(stack.interactive_p95_ms(seconds)))
            batch_id = stack.full_batch(int(60 * found["batch"][-1] + seconds * 100))
            found["beside"].append(asyncio.run(stack.interactive_p95_ms(seconds)))
            stack.cancel(batch_id)
            print(number + 1, {name: round(values[-1], 2) for name, values in found.items()})
    text = section(found, slots=slots, questions=questions, rounds=rounds)
    print(text)
    if out is not None:
        replace_section(out, "batches", text)


def section(found: dict[str, list[float]], *, slots: int, questions: int, rounds: int) -> str:
    median = {name: statistics.median(values) for name, values in found.items()}
    share = statistics.median(b / e for b, e in zip(found["batch"], found["engine"], strict=True))
    rise = statistics.median(b / a for b, a in zip(found["beside"], found["alone"], strict=True))
    rows = [
        ("engine driven directly, questions/s", f"{median['engine']:.1f}", ""),
        (
            "batch through the whole stack, questions/s",
            f"{median['batch']:.1f}",
f"{share:.1%} of it (target: {TARGET_SHARE:.0%}){missed(share < TARGET_SHARE)}",
        ),
        ("interactive TTFT p95 alone, ms", f"{median['alone']:.0f}", ""),
        (
            "interactive TTFT p95 while a batch fills the worker, ms",
            f"{median['beside']:.0f}",
            f"{rise - 1:+.0%} (target: at most +{TARGET_TTFT - 1:.0%})"
            f"{missed(rise > TARGET_TTFT)}",
        ),
    ]  # fmt: skip
    return f"""## Batches

Fake engine of {TOKEN_MS} ms a token, {TOKENS} tokens an answer, {slots} slots; batches of
{questions} questions, from the upload to the finished file; {INTERACTIVE_PER_S:g} interactive
requests/s. Medians of {rounds} rounds, {datetime.now(UTC):%Y-%m-%d}; two cores for everything.
`python -m benchmarks.batch_throughput --out docs/benchmarks.md`

{table(("what", "measured", ""), rows)}
"""


def missed(is_missed: object) -> str:
    return ", missed" if is_missed else ""


if __name__ == "__main__":
    app()
