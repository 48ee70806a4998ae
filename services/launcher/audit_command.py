"""What `galen audit` does: pages of the gateway's audit shown, written and checked."""

import csv
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from modeling.count_progress import CountProgress
from modeling.csv_cells import inert
from modeling.durable_files import sync_to_disk, unfinished_of
from services.launcher.admin_client import AdminClient
from services.launcher.terminal import CommandError
from services.store.audit_chain import AuditChain, AuditRecord, ChainCheck

_PAGE = 1000
_COLUMNS = (
    "ended", "request", "tenant", "key", "model", "object", "status", "end", "tokens", "ms",
)  # fmt: skip


class AuditReader(AdminClient):
    """The audit of one gateway's database. Every call raises CommandError with what it says."""

    def show(self, query: Mapping[str, str], limit: int) -> None:
        """Print the newest records."""
        page = self.read("/admin/audit", {**query, "limit": str(limit)})
        self.table(_COLUMNS, [_cells(each) for each in _records(page["data"])])

    def export(
        self, query: Mapping[str, str], form: Literal["jsonl", "csv"], out: Path | None
    ) -> None:
        """Write records, oldest first."""
        with _whole_file(out) as file, CountProgress("records", None) as progress:
            written = 0
            write = _csv_writer(file) if form == "csv" else _json_writer(file)
            for page in self._pages(query):
                write(page)
                written += len(page)
                if out is not None:
                    progress.show(written, "")
        if out is not None:
            self.say(f"{out}: {written} records")

    def verify(self) -> bool:
        """Check every chain and say where each ends; returns whether all hold."""
        chains = msgspec.convert(self.read("/admin/audit/chains", {})["data"], list[AuditChain])
        total = sum(chain.last - chain.first + 1 for chain in chains if chain.last)
        holds, done = True, 0
        with CountProgress("checked", total, vanishes=True) as progress:
            for chain in chains:
                check = ChainCheck(chain)
                for page in self._pages({"chain": chain.chain}):
                    if not all(check.add(record) for record in page):
                        break
                    done += len(page)
                    progress.show(done, chain.chain)
                    if check.number >= chain.last:  # what came since is for the next time
                        break
                if not check.problem and check.number < chain.last:
                    check.problem = f"record {check.number + 1} is missing"
                holds = holds and not check.problem
                self.say(_verdict(chain, check))
        self.say(f"{len(chains)} chains, {done} records: {'all hold' if holds else 'BROKEN'}")
        return holds

    def _pages(self, query: Mapping[str, str]) -> Iterator[list[AuditRecord]]:
        asked = {**query, "limit": str(_PAGE), "order": "asc"}
        while True:
            page = self.read("/admin/audit", asked)
            records = _records(page["data"])
            if records:
                yield records
            if not page["has_more"]:
                return
            asked["after"] = page["last_id"]


def _records(data: Any) -> list[AuditRecord]:  # noqa: ANN401 - JSON
    try:
        return msgspec.convert(data, list[AuditRecord])
    except msgspec.ValidationError as error:
        raise CommandError("the gateway's records are not of this version of galen") from error


def _cells(record: AuditRecord) -> tuple[str, ...]:
    moment = datetime.fromtimestamp(record.at_ms / 1000, UTC).isoformat(" ", "seconds")
    tokens = f"{record.prompt_tokens}+{record.completion_tokens}"
    return (
        moment.removesuffix("+00:00"), record.request_id, record.tenant_id, record.key_id or "",
        record.model, record.object, str(record.status), record.code or record.finish_reason,
        tokens, str(record.duration_ms),
    )  # fmt: skip


def _verdict(chain: AuditChain, check: ChainCheck) -> str:
    if check.problem:
        return f"{chain.chain}: BROKEN: {check.problem}"
    removed = f", {chain.anchor_number} removed by retention" if chain.anchor_number else ""
    kept = check.number - chain.anchor_number
    return f"{chain.chain}: holds, {kept} records{removed}; ends at {check.number} {check.hash}"


@contextmanager
def _whole_file(out: Path | None) -> Generator[IO[str]]:
    """Give stdout, or a file that gets its name when all is written."""
    if out is None:
        yield sys.stdout
        return
    unfinished = unfinished_of(out)
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            yield file
        sync_to_disk(unfinished)
        unfinished.replace(out)
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _json_writer(file: IO[str]) -> Callable[[Iterable[AuditRecord]], None]:
    def write(records: Iterable[AuditRecord]) -> None:
        file.writelines(f"{msgspec.json.encode(record).decode()}\n" for record in records)

    return write


def _csv_writer(file: IO[str]) -> Callable[[Iterable[AuditRecord]], None]:
    writer = csv.writer(file)
    writer.writerow(AuditRecord.__struct_fields__)

    def write(records: Iterable[AuditRecord]) -> None:
        for record in records:
            writer.writerow(_cells_of(record))

    return write


def _cells_of(record: AuditRecord) -> list[object]:
    fields = msgspec.structs.asdict(record)
    fields["images"] = " ".join(record.images)
    return [inert(value) for value in fields.values()]
