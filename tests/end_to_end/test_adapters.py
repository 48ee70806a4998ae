"""A LoRA adapter's life through the whole platform, as the unmodified OpenAI client sees it."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI

from modeling.checkpoint_files import open_checkpoint, sampled_fingerprint
from modeling.tiny import TinySizes, make_tiny_llava
from services.worker.engines.checkpoint import LoadOptions
from services.worker.engines.transformers_engine import TransformersEngine
from tests.end_to_end.chat import read_stream, user
from tests.end_to_end.conftest import TINY_IMAGE_PX, TINY_MODEL
from tests.end_to_end.launched import galen
from tests.end_to_end.stack import RunningStack, running_stack
from tests.gateway.media.image_files import noise
from tests.support.adapters import make_adapter, make_merged
from tests.support.waiting import wait_until
from tests.worker.engine_harness import job, running

pytestmark = pytest.mark.e2e

CHEST = f"{TINY_MODEL}:chest"
READER = "ct/reader"
QUESTION = "What does this image show?"
IMAGE = noise(TINY_IMAGE_PX, TINY_IMAGE_PX, seed=3)  # the model's own size: nothing is resized


@pytest.fixture(scope="module")
def adapters_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, adapters_dir: Path
) -> Iterator[RunningStack]:
    worker = {
        "ENGINE": "transformers",
        "MODEL_PATH": str(tiny_checkpoint),
        "DEVICE": "cpu",
        "NUM_THREADS": "1",
        "ADAPTERS_DIR": str(adapters_dir),
    }
    folder = tmp_path_factory.mktemp("adapter-stack")
    with running_stack(folder, model=TINY_MODEL, worker=worker) as stack:
        yield stack


@pytest.fixture(scope="module")
def client(stack: RunningStack) -> Iterator[OpenAI]:
    with stack.client() as client:
        yield client


def listed(client: OpenAI) -> set[str]:
    return {model.id for model in client.models.list()}


def put(adapter: Path, place: Path) -> None:
    """Copy an adapter as docs/operations.md says: under a hidden name first."""
    hidden = shutil.copytree(adapter, place.with_name(f".{place.name}"))
    hidden.rename(place)


def answer(client: OpenAI, model: str, *content) -> tuple[str, str]:
    """The answer's text, and the model that it names."""
    said = client.chat.completions.create(
        model=model, messages=[user(*(content or (QUESTION,)))], temperature=0, max_tokens=24
    )
    return said.choices[0].message.content or "", said.model


async def merged_answers(checkpoint: Path) -> list[str]:
    """What weights that PEFT has merged answer, in this process."""
    load = LoadOptions(dtype="float32", device="cpu")
    async with running(lambda: TransformersEngine(checkpoint, "m", 2, load=load)) as engine:
        jobs = [job("text", QUESTION), job("image", QUESTION, [IMAGE.convert("RGB")])]
        return [each.text for each in await engine.run(*jobs)]


def test_adapter_comes_answers_and_goes_while_the_model_serves(
    client: OpenAI,
    stack: RunningStack,
    adapters_dir: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    manifest = {"base_fingerprint": sampled_fingerprint(open_checkpoint(tiny_checkpoint))}
    made = make_adapter(tiny_checkpoint, tmp_path / "chest", seed=5, manifest=manifest)
    merged = make_merged(tiny_checkpoint, made, tmp_path / "merged")
    expected = asyncio.run(merged_answers(merged))
    base, _ = answer(client, TINY_MODEL)
    assert listed(client) == {TINY_MODEL}

    shutil.copytree(made, adapters_dir / "chest")
    wait_until(lambda: CHEST in listed(client), "the adapter in the list", 30)

    described = client.models.retrieve(CHEST)
    assert described.model_extra is not None
    assert described.model_extra["parent"] == TINY_MODEL
    assert described.model_extra["is_base_verified"] is True
    assert described.model_extra["state"] == "ready"
    assert len(described.model_extra["adapter_fingerprint"]) == 64
    assert len(described.model_extra["provenance"]["checkpoint_fingerprint"]) == 64
    assert described.model_extra["image_recipe"]["shortest_edge_px"] > 0
    assert answer(client, CHEST) == (expected[0], CHEST)
    assert answer(client, CHEST, IMAGE, QUESTION) == (expected[1], CHEST)
    assert answer(client, TINY_MODEL) == (base, TINY_MODEL)
    assert base != expected[0]
    with client.chat.completions.create(
        model=CHEST, messages=[user(QUESTION)], temperature=0, max_tokens=24, stream=True
    ) as stream:
        streamed = read_stream(stream)
    assert streamed.text == expected[0]
    assert {chunk.model for chunk in streamed.chunks} == {CHEST}
    finished = "galen_gateway_finished_choices_total"
    assert stack.gateway_count(finished, model=CHEST, finish_reason="length") == 3

    shutil.rmtree(adapters_dir / "chest")
    wait_until(lambda: CHEST not in listed(client), "the end of the adapter", 30)

    with pytest.raises(NotFoundError, match="does not exist"):
        answer(client, CHEST)
    with pytest.raises(NotFoundError):
        client.models.retrieve(CHEST)
    assert answer(client, TINY_MODEL) == (base, TINY_MODEL)


def test_third_party_adapter_answers_to_its_own_name_and_is_said_to_be_unverified(
    client: OpenAI, stack: RunningStack, adapters_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    made = make_adapter(tiny_checkpoint, tmp_path / "ct", seed=7, manifest={"served_id": READER})
    base, _ = answer(client, TINY_MODEL)
    put(made, adapters_dir / "ct")
    wait_until(lambda: READER in listed(client), "the adapter in the list", 30)

    said, name = answer(client, READER)
    assert (name, said != base) == (READER, True)
    described = client.models.retrieve(READER).model_extra
    assert described is not None
    assert (described["parent"], described["is_base_verified"]) == (TINY_MODEL, False)
    assert stack.logs()[stack.worker.name].count("unverified base") == 1
    with pytest.raises(NotFoundError):  # it has one name
        answer(client, f"{TINY_MODEL}:ct")

    shutil.rmtree(adapters_dir / "ct")
    wait_until(lambda: READER not in listed(client), "the end of the adapter", 30)


@pytest.fixture(scope="module")
def strange_adapters(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another base: by its fingerprint, and by its shapes."""
    folder = tmp_path_factory.mktemp("strange")
    other = make_tiny_llava(folder / "base", sizes=TinySizes(text_width=64))
    make_adapter(other, folder / "shapes", seed=6)
    make_adapter(
        tiny_checkpoint, folder / "fingerprint", seed=6, manifest={"base_fingerprint": "0" * 64}
    )
    return folder


@pytest.mark.parametrize("name", ["fingerprint", "shapes"])
def test_adapter_of_another_base_is_refused_in_one_line_and_the_model_goes_on(
    client: OpenAI, stack: RunningStack, adapters_dir: Path, strange_adapters: Path, name: str
) -> None:
    put(strange_adapters / name, adapters_dir / name)

    def refusals() -> list[str]:
        lines = stack.logs()[stack.worker.name].splitlines()
        return [line for line in lines if "adapter.refused" in line and f'"{name}"' in line]

    wait_until(refusals, "the refusal in the log", 4)  # the goal is 2 s on an idle machine

    [line] = refusals()
    assert "is an adapter of another base" in line
    assert listed(client) == {TINY_MODEL}
    assert answer(client, TINY_MODEL)[1] == TINY_MODEL
    shutil.rmtree(adapters_dir / name)


def test_command_checks_an_adapter_against_its_base(
    tiny_checkpoint: Path, strange_adapters: Path, tmp_path: Path
) -> None:
    sound = make_adapter(tiny_checkpoint, tmp_path / "chest", seed=5)
    taken = galen("adapters", "check", str(sound), "--base", str(tiny_checkpoint))

    assert (taken.returncode, taken.stderr) == (0, "")
    assert "base: unverified" in taken.stdout
    for name in ("fingerprint", "shapes", "nowhere"):
        folder = str(strange_adapters / name)
        refused = galen("adapters", "check", folder, "--base", str(tiny_checkpoint))
        assert (refused.returncode, refused.stdout) == (1, "")
        [line] = refused.stderr.splitlines()
        assert folder in line
