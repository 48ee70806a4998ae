"""What the audit costs a request: microseconds of the gateway's core, before and behind its answer.

`noted`: on the way of the request. `hashed and chained`: in a thread, at most a second later.
`written`: rows into a SQLite file that is synced, in batches. Processor time of the whole process,
and the time on the clock until all is written.

Run: python -m benchmarks.audit_cost [--write-page]
"""

import asyncio
import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.ours import REPOSITORY
from benchmarks.page_sections import replace_section, table
from services.gateway.audit import BATCH, Asked, AuditLog
from services.gateway.caller import ANONYMOUS
from services.gateway.catalogue import CatalogueEntry
from services.gateway.job_store import JobStore
from services.gateway.metrics import GatewayMetrics
from services.gateway.openai_schemas import ChatCompletionRequest, UserMessage
from services.gateway.settings import GatewaySettings
from services.protocol.messages import (
    ImagePart,
    ImageRef,
    Message,
    ModelCard,
    Provenance,
    TextPart,
)
from services.store.settings import StoreSettings

_REQUESTS = 10_000
_ROUNDS = 5
_PROMPT = "What does this image show? " * 40  # about 1 KB
_ROUTE = "/v1/chat/completions"
_FIELDS = {"prompt_tokens": 700, "completion_tokens": 20, "finish_reason": "stop"}
_CARD = ModelCard("m", "fake", 4096, 4, frozenset(), frozenset(), provenance=Provenance("f" * 64))

Row = tuple[str, str]


def end_one(log: AuditLog, number: int) -> None:
    """What a request with one image does to the audit, from its admission to its end."""
    chat = ChatCompletionRequest("m", [UserMessage(_PROMPT)], temperature=0.0, max_tokens=20)
    image = ImageRef("a" * 64, 336, 336)
    messages = (Message("user", (TextPart(_PROMPT), ImagePart(image))),)
    asked = Asked(CatalogueEntry(_CARD, ()), chat)
    asked.see(messages, [image])
    scope: dict[str, Any] = {
        "method": "POST", "path": _ROUTE, "galen.request_id": f"chatcmpl-{number:024}",
        "galen.caller": ANONYMOUS, "galen.asked": asked, "galen.fields": _FIELDS,
    }  # fmt: skip
    log.add(scope, _ROUTE, 200, 0.5)


def without(number: int) -> None:
    """The same values, of which the audit gets none: to be taken off."""
    ChatCompletionRequest("m", [UserMessage(_PROMPT)], temperature=0.0, max_tokens=20)
    image = ImageRef("a" * 64, 336, 336)
    _ = (Message("user", (TextPart(_PROMPT), ImagePart(image))),)
    CatalogueEntry(_CARD, ())
    _ = {"method": "POST", "galen.request_id": f"chatcmpl-{number:024}", "galen.fields": _FIELDS}


async def one_round(folder: Path) -> tuple[float, float, float]:
    """Noted, hashed and written (processor), written (clock); microseconds a request."""
    store = JobStore(StoreSettings(dir=folder))
    log = AuditLog(GatewaySettings(), store, GatewayMetrics(), "g")
    await log.flush()
    async with store.begin():
        pass  # the schema is made now
    gc.collect()
    began = time.process_time()
    for number in range(_REQUESTS):
        without(number)
    base = time.process_time() - began
    began = time.process_time()
    for number in range(_REQUESTS):
        end_one(log, number)
    noted = time.process_time() - began - base
    began, clock = time.process_time(), time.perf_counter()
    await log.flush()
    written, took = time.process_time() - began, time.perf_counter() - clock
    await store.close()
    return tuple(1e6 * each / _REQUESTS for each in (noted, written, took))  # pyright: ignore[reportReturnType] - three


def main(
    *,
    write_page: Annotated[bool, typer.Option("--write-page", help="Into docs.")] = False,
) -> None:
    rounds: list[tuple[float, float, float]] = []
    for _ in range(_ROUNDS):
        with tempfile.TemporaryDirectory(prefix="galen-audit-") as name:
            rounds.append(asyncio.run(one_round(Path(name))))
    noted, written, took = (statistics.median(each) for each in zip(*rounds, strict=True))
    rows: list[Row] = [
        ("noted, on the request's way", f"{noted:.1f}"),
        ("hashed, chained and written, behind it", f"{written:.1f}"),
        ("the same on the clock", f"{took:.1f}"),
    ]
    text = (
        "## What the audit of a request costs\n\n"
        f"`python -m benchmarks.audit_cost --write-page`; a prompt of {len(_PROMPT)} characters "
        f"and an image, {_REQUESTS} requests into SQLite with a sync per {BATCH} of them, medians "
        f"of {_ROUNDS} rounds.\n\n{table(('part', 'us a request'), rows)}"
    )
    typer.echo(text)
    if write_page:
        replace_section(REPOSITORY / "docs" / "benchmarks.md", "audit", text)


if __name__ == "__main__":
    typer.run(main)
