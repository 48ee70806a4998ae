"""`galen convert` and `galen inspect`: what is printed, exit codes, nothing half-done."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from modeling.checkpoints import convert_command, inspect_command
from modeling.checkpoints.output_folder import MANIFEST
from tests.end_to_end.launched import galen_anew
from tests.modeling import original_layouts as originals
from tests.modeling.conftest import Converted


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


class Tool(Protocol):
    def __call__(self, *words: str | Path) -> Done: ...


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    """Runs a command line in this process: the libraries are loaded once for all tests."""

    def run(*words: str | Path) -> Done:
        name, *arguments = map(str, words)
        main = {"convert": convert_command.main, "inspect": inspect_command.main}[name]
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments)
        out, err = capsys.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return run


@pytest.mark.parametrize("command", ["apply-delta", "make-delta", "v1", "v15", "to-v1"])
def test_each_conversion_explains_itself_with_an_example(command: str, tool: Tool):
    done = tool("convert", command, "--help")
    assert done.returncode == 0
    assert f"galen convert {command} " in done.stdout
    assert "--dry-run" in done.stdout


def test_inspect_explains_itself_with_an_example(tool: Tool):
    done = tool("inspect", "--help")
    assert done.returncode == 0
    assert "galen inspect ./" in done.stdout


def test_help_needs_no_torch(tmp_path: Path):
    """As in an installation without the extra `worker`."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    without = {"PYTHONPATH": str(tmp_path)}
    done = galen_anew("convert", "v1", "--help", variables=without)
    assert done.returncode == 0
    assert "Convert LLaVA-Med v1.0" in done.stdout
    done = galen_anew(
        "convert", "v1", str(tmp_path), "--out", str(tmp_path / "x"), variables=without
    )
    assert done.returncode == 1
    assert done.stderr == "galen: galen convert needs torch: pip install 'galen[worker]'\n"


def test_a_dry_run_says_what_would_be_and_writes_nothing(v1: Converted, tmp_path: Path, tool: Tool):
    assert v1.tower is not None
    out = tmp_path / "out"
    done = tool("convert", "v1", v1.original, "--tower", v1.tower, "--out", out, "--dry-run")
    assert done.returncode == 0
    for words in (
        f"would write {out}:",
        "80 tensors",
        "vision tower: CLIP, 56 px in patches of 14, 16 tokens per image",
        "conversation template: v0",
        "bos_token: '</s>' (2)",
        "image token: '<im_patch>' (421)",
        "answers end at: '###'",
        "images: square",
    ):
        assert words in done.stdout
    assert "bos_token_id 0 -> 2, eos_token_id 1 -> 2, pad_token_id -1 -> 420" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_a_delta_writes_nothing(v1: Converted, tmp_path: Path, tool: Tool):
    base = originals.write_llama(tmp_path / "llama")
    words = ("--base", base, "--target", v1.original, "--out", tmp_path / "out", "--dry-run")
    done = tool("convert", "make-delta", *words)
    assert done.returncode == 0
    assert "would write" in done.stdout
    assert not (tmp_path / "out").exists()


def test_v15_compares_the_towers_and_says_so(v15_stock: Converted, tmp_path: Path, tool: Tool):
    assert v15_stock.tower is not None
    words = ("--vision-tower", "checkpoint", "--tower", v15_stock.tower, "--out", tmp_path / "out")
    done = tool("convert", "v15", v15_stock.original, *words)
    assert done.returncode == 0
    assert "the checkpoint's vision tower is not the stock one: 55 of 55 tensors" in done.stderr
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert len(manifest["tower_difference"]) == 55
    assert manifest["tower_difference"][0]["largest"] > 0


def test_v15_whose_tower_is_the_stock_one_says_so(tmp_path: Path, tool: Tool):
    tensors = originals.v15_tensors()
    prefix = "model.vision_tower.vision_tower.vision_model."
    same = originals.clip_tensors(originals.MISTRAL_SIZES, seed=7, prefix=prefix)
    tensors |= {name: tensor for name, tensor in same.items() if name in tensors}
    source = originals.write_v15(tmp_path / "v15", tensors=tensors)
    tower = originals.write_clip(tmp_path / "clip", originals.MISTRAL_SIZES)
    words = ("--vision-tower", "stock", "--tower", tower, "--out", tmp_path / "out", "--dry-run")
    done = tool("convert", "v15", source, *words)
    assert "equals the stock one in all 55 tensors" in done.stderr


def test_v15_asks_for_a_choice_of_towers(v15: Converted, tmp_path: Path, tool: Tool):
    done = tool("convert", "v15", v15.original, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "--vision-tower" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("size", ["5", "0GB", "many", "-1GB"])
def test_a_size_that_is_none_is_refused(size: str, v1: Converted, tmp_path: Path, tool: Tool):
    out = tmp_path / "out"
    done = tool("convert", "to-v1", v1.hf, "--out", out, "--max-shard-size", size)
    assert done.returncode == 2
    assert "give one such as 5GB or 500MB" in done.stderr


def test_a_mistake_is_one_line_without_a_trace(tmp_path: Path, tool: Tool):
    done = tool("convert", "to-v1", tmp_path / "nope", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == (
        f"galen: {tmp_path / 'nope'} is no directory: give the folder of a checkpoint\n"
    )


def test_inspect_ends_with_2_where_something_would_be_wrong(v1: Converted, tool: Tool):
    assert tool("inspect", v1.hf).returncode == 0
    done = tool("inspect", v1.original)
    assert done.returncode == 2
    assert "  > galen convert v1 " in done.stdout


def test_an_interrupt_says_how_to_go_on(
    v1: Converted, tmp_path: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("modeling.checkpoints.to_v1.v1_outputs", interrupted)
    done = tool("convert", "to-v1", v1.hf, "--out", tmp_path / "out")
    assert done.returncode == 130
    assert "goes on when the same command is run again" in done.stderr


def test_the_next_step_is_said(v1: Converted, tmp_path: Path, tool: Tool):
    assert v1.tower is not None
    out = tmp_path / "my model"
    done = tool("convert", "v1", v1.original, "--tower", v1.tower, "--out", out)
    assert done.stdout.splitlines()[-1] == f"next: galen up --model '{out}'"


def test_a_partial_folder_is_known_as_such(v1: Converted, tmp_path: Path, tool: Tool):
    partial = tmp_path / "x.partial"
    partial.mkdir()
    (partial / "galen_journal.json").write_text("{}")
    for file in v1.hf.glob("*.safetensors"):
        (partial / file.name).symlink_to(file)
    done = tool("inspect", partial)
    assert done.returncode == 2
    assert "it goes on" in done.stdout


def test_galen_becomes_the_tools(v1: Converted):
    assert galen_anew("inspect", str(v1.hf)).returncode == 0
    assert galen_anew("inspect", str(v1.original)).returncode == 2
    assert "apply-delta" in galen_anew("convert", "--help").stdout


def test_inspect_prints_json(v1: Converted, tool: Tool):
    found = json.loads(tool("inspect", v1.hf, "--json", "--hash").stdout)
    assert found["problems"] == []
    assert "as its manifest says" in found["facts"]["hash"]


def test_options_are_part_of_what_may_go_on(v1: Converted, tmp_path: Path, tool: Tool):
    """Chosen settings reach the result."""
    assert v1.tower is not None
    out = tmp_path / "out"
    options = ("--dtype", "bfloat16", "--bos", "<s>", "--template", "vicuna_v1_1")
    words = (v1.original, "--tower", v1.tower, "--out", out, "--image-aspect-ratio", "pad")
    done = tool("convert", "v1", *words, *options)
    assert done.returncode == 0
    assert "prompts begin with '<s>', as --bos says" in done.stderr
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["image_aspect_ratio"] == "pad"
    assert config["text_config"]["bos_token_id"] == 1
    assert "USER: " in (out / "chat_template.jinja").read_text()
    assert "stop_strings" not in json.loads((out / "generation_config.json").read_text())
