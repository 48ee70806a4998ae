"""LLaVA-Med in three commands, as its page says them, on small checkpoints of its layouts."""

import shlex
import signal
from pathlib import Path

import httpx
import pytest

from modeling.checkpoints.conversions import make_delta
from tests.contracts.source_tree import ROOT
from tests.docs.blocks import Block, blocks_of
from tests.docs.place import Place
from tests.end_to_end.launched import LaunchedUp, galen
from tests.modeling import original_layouts as originals
from tests.modeling.conftest import job

BLOCKS = {"v15": "galen convert v15", "v1": "galen convert apply-delta"}


def block_of(generation: str) -> Block:
    page = ROOT / "docs" / "llava-med.md"
    [block] = [b for b in blocks_of(page) if b.text.startswith(BLOCKS[generation])]
    return block


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """A folder as the page's reader has it, with models of a few hundred weights."""
    originals.write_v15(tmp_path / "llava-med-v1.5-mistral-7b")
    originals.write_clip(tmp_path / "clip-vit-large-patch14")
    base = originals.write_llama(tmp_path / "llama-7b")
    make_delta(base, originals.write_v1(tmp_path / "target"), job(tmp_path / "llava-med-7b-delta"))
    return tmp_path


@pytest.mark.e2e
@pytest.mark.parametrize("generation", ["v15", pytest.param("v1", marks=pytest.mark.long)])
def test_llava_med_is_served_as_the_page_says(
    downloads: Path, short_folder: Path, generation: str
) -> None:
    commands = block_of(generation).commands
    [up_command] = [command for command in commands if command.startswith("galen up ")]
    at = commands.index(up_command)
    place = Place(downloads, "http://127.0.0.1:1/v1", short_folder)
    for command in commands[:at]:
        done = place.run(Block("", 0, command, "run"))
        assert done.returncode == 0, done.stderr

    words = [word.replace("./", f"{downloads}/") for word in shlex.split(up_command)[2:]]
    with LaunchedUp(short_folder, *words, "--port", "0", "--no-ask", "--jobs", "0") as up:
        url = up.url()
        asked = [shlex.split(command)[1:] for command in commands[at + 1 :]]
        for question in asked or [["ask", "What does this image show?"]]:
            there = [str(downloads / word) if word == "scan.png" else word for word in question]
            done = galen(*there, "--url", url, "--max-tokens", "4")
            assert done.returncode == 0, done.stderr
        assert [m["id"] for m in httpx.get(f"{url}/models").json()["data"]] == ["llava-med"]
        up.end(signal.SIGTERM)
