"""The watched folder, with the fake engine: what comes, changes, goes, and is refused."""

import json
import shutil
from pathlib import Path

import pytest
import structlog
import torch
from safetensors.torch import save_file

from services.protocol.errors import ErrorCode
from services.protocol.messages import GenerationRequest, ModelCard, SamplingParams
from services.worker.adapters import AdapterFolder
from services.worker.engines.fake_engine import FakeEngine
from services.worker.settings import WorkerSettings

CARD = ModelCard("llava", "fake", 100, 0, frozenset(), frozenset())


def make_adapter(path: Path, rank: int = 2, **manifest: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(config))
    prefix = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    matrices = {
        f"{prefix}.lora_A.weight": torch.zeros(rank, 8),
        f"{prefix}.lora_B.weight": torch.zeros(8, rank),
    }
    save_file(matrices, path / "adapter_model.safetensors")
    if manifest:
        (path / "galen_adapter.json").write_text(json.dumps(manifest))
    return path


class Watched:
    """A folder, its watcher, and what the card says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changes = 0
        self.engine = FakeEngine("llava")
        settings = WorkerSettings(model_id="llava", adapters_dir=path, max_lora_rank=8)
        self.folder = AdapterFolder(settings, self.engine, self._count)

    def _count(self) -> None:
        self.changes += 1

    @property
    def served(self) -> list[str]:
        return [adapter.served_id for adapter in self.folder.on_card(CARD).adapters]

    async def look_twice(self) -> list[dict[str, object]]:
        with structlog.testing.capture_logs() as logs:
            await self.folder.look()
            await self.folder.look()
        return [dict(log) for log in logs]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    (tmp_path / "adapters").mkdir()
    return Watched(tmp_path / "adapters")


async def test_what_is_there_at_the_start_is_loaded_before_the_worker_is_ready(
    watched: Watched,
) -> None:
    make_adapter(watched.path / "chest")

    await watched.folder.start()

    [adapter] = watched.folder.on_card(CARD).adapters
    assert (adapter.name, adapter.served_id) == ("chest", "llava:chest")
    assert not adapter.is_base_verified
    assert adapter.created > 1_700_000_000
    assert len(adapter.fingerprint) == 64


async def test_folder_is_taken_when_two_looks_find_it_the_same(watched: Watched) -> None:
    await watched.folder.start()
    make_adapter(watched.path / "chest")
    await watched.folder.look()
    assert watched.served == []

    (watched.path / "chest" / "more").write_text("still being copied")
    await watched.folder.look()
    assert watched.served == []

    await watched.folder.look()
    assert (watched.served, watched.changes) == (["llava:chest"], 1)


async def test_what_is_new_is_looked_at_again_soon_so_that_it_is_known_within_2_s(
    watched: Watched,
) -> None:
    await watched.folder.start()
    idle_s = watched.folder.next_look_s
    make_adapter(watched.path / "chest")
    (watched.path / "refused").mkdir()
    await watched.folder.look()

    assert watched.folder.next_look_s < idle_s
    assert watched.folder.next_look_s + idle_s < 2
    await watched.folder.look()
    assert (watched.served, watched.folder.next_look_s) == (["llava:chest"], idle_s)


async def test_half_copied_folder_is_refused_once_and_taken_when_it_is_whole(
    watched: Watched, tmp_path: Path
) -> None:
    whole = make_adapter(tmp_path / "whole") / "adapter_model.safetensors"
    copy = make_adapter(watched.path / "chest") / "adapter_model.safetensors"
    copy.write_bytes(whole.read_bytes()[:-5])

    logs = await watched.look_twice() + await watched.look_twice()
    refused = [log for log in logs if log["event"] == "adapter.refused"]
    assert len(refused) == 1
    assert "is damaged" in str(refused[0]["cause"])

    shutil.copy(whole, copy)
    await watched.look_twice()
    assert watched.served == ["llava:chest"]


async def test_folder_that_is_taken_away_is_unloaded(watched: Watched) -> None:
    await watched.folder.start()
    path = make_adapter(watched.path / "chest")
    await watched.look_twice()
    shutil.rmtree(path)

    await watched.folder.look()

    assert (watched.served, watched.changes) == ([], 2)
    assert not watched.folder.has("chest")


async def test_broken_change_leaves_the_earlier_adapter_in_place(watched: Watched) -> None:
    path = make_adapter(watched.path / "chest")
    await watched.folder.start()
    (path / "adapter_config.json").write_text("{")

    [refused] = await watched.look_twice()

    assert (refused["event"], refused["still_serves_earlier"]) == ("adapter.refused", True)
    assert watched.served == ["llava:chest"]


async def test_new_manifest_renames_the_adapter(watched: Watched) -> None:
    path = make_adapter(watched.path / "chest")
    await watched.folder.start()
    make_adapter(path, served_id="reader")

    await watched.look_twice()

    assert watched.served == ["reader"]


async def test_name_that_is_taken_is_refused_until_it_is_free(watched: Watched) -> None:
    first = make_adapter(watched.path / "a", served_id="reader")
    make_adapter(watched.path / "b", served_id="reader")
    make_adapter(watched.path / "c", served_id="llava")
    with structlog.testing.capture_logs() as logs:
        await watched.folder.start()
    causes = [str(log["cause"]) for log in logs if log["event"] == "adapter.refused"]
    assert len(causes) == 2
    assert "'reader' is taken by a;" in causes[0]
    assert "'llava' is taken by the base model;" in causes[1]

    shutil.rmtree(first)
    await watched.look_twice()
    assert [a.name for a in watched.folder.on_card(CARD).adapters] == ["b"]


async def test_missing_fingerprint_is_said(watched: Watched) -> None:
    make_adapter(watched.path / "chest")

    with structlog.testing.capture_logs() as logs:
        await watched.folder.start()

    [notice] = [log for log in logs if log["event"] == "adapter.base.unverified"]
    assert "unverified base" in notice["notice"]


async def test_hidden_and_stray_entries_are_no_adapters(watched: Watched) -> None:
    make_adapter(watched.path / ".partial")
    (watched.path / "notes.txt").write_text("x")

    assert await watched.look_twice() == []
    assert watched.served == []


async def test_unreadable_folder_is_said_once_and_keeps_what_is_loaded(watched: Watched) -> None:
    make_adapter(watched.path / "chest")
    await watched.folder.start()
    watched.path.rename(watched.path.with_name("away"))

    logs = await watched.look_twice()

    assert [log["event"] for log in logs] == ["adapters.unreadable"]
    assert watched.served == ["llava:chest"]


async def test_file_that_breaks_its_parser_is_logged_and_the_worker_goes_on(
    watched: Watched,
) -> None:
    path = make_adapter(watched.path / "deep")
    make_adapter(watched.path / "sound")
    (path / "adapter_config.json").write_text("[" * 200_000)

    with structlog.testing.capture_logs() as logs:
        await watched.folder.start()

    refused = [log["cause"] for log in logs if log["event"] == "adapter.refused"]
    assert len(refused) == 1
    assert "RecursionError" in refused[0]
    assert watched.served == ["llava:sound"]


def request(adapter: str) -> GenerationRequest:
    return GenerationRequest(
        "r", "g", "t", "llava", "interactive", (), SamplingParams(), adapter=adapter
    )


async def test_request_for_an_adapter_that_just_came_makes_the_worker_look_at_once(
    watched: Watched,
) -> None:
    await watched.folder.start()
    make_adapter(watched.path / "chest")

    assert await watched.folder.refusal(request("chest")) is None
    assert watched.served == ["llava:chest"]


async def test_request_for_an_adapter_that_is_not_there_ends_with_its_name(
    watched: Watched,
) -> None:
    failed = await watched.folder.refusal(request("chest"))

    assert failed is not None
    assert (failed.code, failed.param) == (ErrorCode.MODEL_NOT_FOUND, "model")
    assert "'chest'" in failed.message


async def test_without_a_folder_there_is_nothing_to_watch() -> None:
    folder = AdapterFolder(WorkerSettings(), FakeEngine("llava"), lambda: None)

    await folder.start()

    assert folder.on_card(CARD) is CARD
    assert folder.has(None)
    assert await folder.refusal(request("chest")) is not None
