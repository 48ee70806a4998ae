"""What `galen feedback export` does: votes out of the database, images out of the store, files.

What does *not* live here: what a record is and where it belongs (`feedback_records.py`), and how an
image is decoded (`feedback_images.py`).
"""

import asyncio
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from modeling.count_progress import CountProgress
from modeling.durable_files import sync_to_disk, write_json
from services.launcher.feedback_images import clean_image
from services.launcher.feedback_records import (
    Candidate,
    Shown,
    Split,
    Splitter,
    candidate_of,
    training_record,
)
from services.launcher.terminal import CommandError, Terminal
from services.store.database import DATABASE_AWAY, Database
from services.store.feedback_records import count_votes, every_vote
from services.store.file_records import find_file
from services.store.file_store import FileStore
from services.store.settings import StoreSettings

_EXIT_NOTHING = 3
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What is asked for; see the options of the command."""

    out: Path
    image_folders: tuple[Path, ...] = ()
    validation: float = 0.1
    test: float = 0.1
    salt: str = ""


@dataclass(slots=True)
class _Found:
    """Votes that go out, and why others do not."""

    num_votes: int = 0
    candidates: list[Candidate] = field(default_factory=list[Candidate])
    left_out: Counter[str] = field(default_factory=Counter[str])


def run_export(plan: ExportPlan, settings: StoreSettings | None = None) -> int:
    """Export votes; returns the exit code. Raises CommandError."""
    if plan.out.exists():
        raise CommandError(f"{plan.out} is there already; name a folder that is not")
    store = settings or StoreSettings()
    partial = plan.out.with_name(f"{plan.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    mask = os.umask(0o077)  # what is exported may be patients' data
    try:
        (partial / "images").mkdir(parents=True)
        manifest = asyncio.run(_Export(plan, store, partial).run())
        write_json(partial / "manifest.json", manifest)
        sync_to_disk(partial)
        partial.replace(plan.out)
    except DATABASE_AWAY as error:
        raise CommandError(f"votes cannot be exported: {type(error).__name__}") from error
    finally:
        os.umask(mask)
        shutil.rmtree(partial, ignore_errors=True)
    _tell(plan.out, manifest)
    return 0 if manifest["num_records"] else _EXIT_NOTHING


class _Export:
    """One export into a folder."""

    def __init__(self, plan: ExportPlan, settings: StoreSettings, folder: Path) -> None:
        self._plan = plan
        self._database = Database(settings.database)
        self._files = FileStore(settings.files)
        self._folder = folder
        self._by_hash: dict[str, Path] | None = None
        self._names: dict[str, str] = {}  # of images that are written already
        self._problems: dict[str, str] = {}  # of images that cannot be

    async def run(self) -> dict[str, object]:
        """Write all; returns the manifest."""
        await self._database.open()
        try:
            found = await self._votes()
            await self._write_images(found)
        finally:
            await self._database.close()
        return self._write_records(found)

    async def _votes(self) -> _Found:
        found = _Found()
        async with self._database.begin() as session:
            total = await count_votes(session)
            with CountProgress("read", total, vanishes=True) as progress:
                async for row in every_vote(session):
                    found.num_votes += 1
                    candidate = candidate_of(row)
                    if isinstance(candidate, str):
                        found.left_out[candidate] += 1
                    else:
                        found.candidates.append(candidate)
                    progress.show(found.num_votes, "votes")
        return found

    async def _write_images(self, found: _Found) -> None:
        """Write the images of all candidates; those that miss one are left out.

        What is missing is told once all are written: an image that one vote names by its hash alone
        may be another's upload.
        """
        problems: list[list[str]] = []
        with CountProgress("looked at", len(found.candidates), vanishes=True) as progress:
            for number, candidate in enumerate(found.candidates, 1):
                tenant_id = candidate.row.tenant_id
                whys = [await self._write_image(tenant_id, image) for image in candidate.images]
                problems.append(whys)
                progress.show(number, "votes with images")
        kept: list[Candidate] = []
        for candidate, whys in zip(found.candidates, problems, strict=True):
            missing = [
                self._problems.get(image.name, why)
                for image, why in zip(candidate.images, whys, strict=True)
                if image.name not in self._names
            ]
            if missing:
                found.left_out[missing[0]] += 1
            else:
                kept.append(candidate)
        found.candidates = kept

    async def _write_image(self, tenant_id: str, image: Shown) -> str:
        """Write one image, once; returns why it cannot be, or ""."""
        if image.name in self._names:
            return ""
        if image.name not in self._problems:
            content = await self._content(tenant_id, image)
            if isinstance(content, str):
                return content  # another vote may know a file of the same content
            self._problems[image.name] = self._write_clean(image, content)
        return self._problems[image.name]

    async def _content(self, tenant_id: str, image: Shown) -> bytes | str:
        digest = image.sha256
        if image.file_id:
            async with self._database.begin() as session:
                file = await find_file(session, tenant_id, image.file_id, may_be_expired=True)
            if file is not None:
                try:
                    with self._files.open(file.key) as opened:
                        return _checked(opened, digest)
                except OSError:
                    return "an image's file cannot be read"
        path = self._local_images().get(digest)
        if path is None:
            return "an image is not here"
        with path.open("rb") as opened:
            return _checked(opened, digest)

    def _local_images(self) -> dict[str, Path]:
        """Return the files of the folders that were named, by the hash of their content."""
        if self._by_hash is None:
            self._by_hash = {}
            for path in _files_in(self._plan.image_folders):
                with path.open("rb") as file:
                    self._by_hash[hashlib.file_digest(file, "sha256").hexdigest()] = path
        return self._by_hash

    def _write_clean(self, image: Shown, content: bytes) -> str:
        """Write an image's pixels without its metadata; returns why it cannot be, or ""."""
        clean = clean_image(content, image.preprocess)
        if isinstance(clean, str):
            return clean
        file_name = f"{image.name}.png"
        clean.save(self._folder / "images" / file_name)
        self._names[image.name] = file_name
        return ""

    def _write_records(self, found: _Found) -> dict[str, object]:
        splitter = Splitter(self._plan.validation, self._plan.test, self._plan.salt)
        for candidate in found.candidates:
            splitter.join(candidate.groups)
        lines: dict[Split, list[str]] = {split: [] for split in _SPLITS}
        subjects: dict[Split, set[str]] = {split: set() for split in _SPLITS}
        images: dict[Split, set[str]] = {split: set() for split in _SPLITS}
        licences: Counter[str] = Counter()
        for candidate in found.candidates:
            split = splitter.split_of(candidate.groups[0])
            shown = [image.name for image in candidate.images]
            names = [self._names[each] for each in shown]
            record = training_record(candidate, names, split)
            lines[split].append(json.dumps(record, ensure_ascii=False))
            subjects[split].add(candidate.groups[0])
            images[split].update(shown)
            licences[candidate.row.licence or ""] += 1
        for split in _SPLITS:
            if lines[split]:
                text = "".join(f"{line}\n" for line in lines[split])
                (self._folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
        used = set[str]().union(*images.values())
        for shown, file_name in self._names.items():
            if shown not in used:  # of a vote that misses another image
                (self._folder / "images" / file_name).unlink()
        return {
            "format": "LLaVA-Med training records, one a line; `image` is a name in images/",
            "num_votes": found.num_votes,
            "num_records": len(found.candidates),
            "splits": {
                split: {
                    "records": len(lines[split]),
                    "subjects": len(subjects[split]),
                    "images": len(images[split]),
                }
                for split in _SPLITS
            },
            "shares": {"validation": self._plan.validation, "test": self._plan.test},
            "salt": self._plan.salt,
            "licences": dict(sorted(licences.items())),
            "consent": "every record has its voter's consent as it was at the export",
            "left_out": dict(sorted(found.left_out.items())),
        }


def _checked(file: IO[bytes], digest: str) -> bytes | str:
    content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        return "an image has too many bytes"
    if hashlib.sha256(content).hexdigest() != digest:
        return "an image's file has changed"
    return content


def _files_in(folders: tuple[Path, ...]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _tell(out: Path, manifest: dict[str, object]) -> None:
    terminal = Terminal()
    terminal.result(f"{out}: {manifest['num_records']} records of {manifest['num_votes']} votes")
    left_out = manifest["left_out"]
    assert isinstance(left_out, dict)  # noqa: S101 - it is ours
    for reason, count in left_out.items():  # pyright: ignore[reportUnknownVariableType] - as above
        terminal.result(f"  left out: {count}: {reason}")
