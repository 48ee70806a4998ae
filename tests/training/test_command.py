"""`galen train`: what is said, exit codes, and bad input in one line before a model loads."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from modeling.checkpoints.output_folder import partial_of
from tests.end_to_end.launched import ROOT, galen_anew
from tests.support.waiting import wait_until
from tests.training.llava_med_records import Record, record, text_only, write_lines, write_list
from tests.training.small_runs import Workshop
from training.command import main
from training.config import TrainConfig, recipe_names
from training.run import run_folder
from training.run_state import checkpoints_in, step_of

SHOWN = record("<image>\nWhich?", "Left.", image="0.png")
MODEL = "model.path=llava-med-v1.5-7b"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str

    @property
    def line(self) -> str:
        """The one line that was said."""
        assert self.stderr.count("\n") == 1, self.stderr
        assert self.stderr.startswith("galen: ")
        return self.stderr


class Tool(Protocol):
    def __call__(self, *words: str | Path) -> Done: ...


@pytest.fixture
def tool(capfd: pytest.CaptureFixture[str]) -> Tool:
    """Runs a command line in this process: the libraries are loaded once for all tests."""

    def run(*words: str | Path) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return run


def write_recipe(config: TrainConfig, folder: Path) -> Path:
    """Write a recipe as a file; JSON is YAML."""
    file = folder / "small.yaml"
    file.write_text(config.model_dump_json(), encoding="utf-8")
    return file


# -------------------------------------------------------------------------- what comes at once


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "galen train RECIPE"),
        (["stage2_qlora", "--set", MODEL, "--plan", "--gpus", "1x24GB"], 0, "fits: "),
        (["stage2_instruct", "--set", MODEL, "--plan", "--gpus", "1x24GB"], 1, "does not fit: "),
        (["stage3"], 1, "no recipe 'stage3'; take one of stage1_align"),
        (["stage1_align", "--set", MODEL, "--plan", "--set", "optimizer.rate=1"], 1, "unknown key"),
        (["stage1_align", "--set", "model.pat=x"], 1, "unknown key model.pat; allowed there: "),
        (["mine.yaml"], 1, "mine.yaml cannot be read"),
    ],
)
def test_what_needs_no_torch_does_without(
    without_torch: dict[str, str], words: list[str], code: int, said: str
):
    done = galen_anew("train", *words, variables=without_torch)

    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_torch_says_what_to_install(without_torch: dict[str, str]):
    needed = ("--set", MODEL, "--set", "data.files=[x]", "--set", "output.folder=y")
    done = galen_anew("train", "stage2_qlora", *needed, variables=without_torch)

    assert done.returncode == 1
    assert done.stderr == "galen: galen train needs torch: pip install 'galen[training]'\n"


@pytest.mark.parametrize("command", ["run", "recipes", "show", "merge-lora", "export"])
def test_each_command_explains_itself(command: str, tool: Tool):
    done = tool(command, "--help")

    assert done.returncode == 0
    assert f"galen train {command}" in done.stdout


def test_recipes_are_listed_and_shown_with_their_comments(tool: Tool):
    listed = tool("recipes").stdout.splitlines()
    assert [line.split()[0] for line in listed] == recipe_names()

    for name in recipe_names():
        assert tool("show", name).stdout == (ROOT / f"training/recipes/{name}.yaml").read_text()
    assert "no recipe 'stage3'" in tool("show", "stage3").line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stage1_align", "--gpus", "H100"], "--gpus is for --plan"),
        (["stage1_align", "--nodes", "2"], "--nodes needs --rendezvous"),
        (["stage1_align", "--rendezvous", "a"], "are for --nodes 2 and more"),
        (["stage1_align", "--nodes", "2", "--rendezvous", "a:b"], "write HOST or HOST:PORT"),
        (
            ["stage1_align", "--nodes", "2", "--rendezvous", "a", "--node-rank", "2"],
            "from 0 to 1",
        ),
        (["run"], "RECIPE"),
        (["merge-lora"], "--base"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(words: list[str], said: str, tool: Tool):
    done = tool(*words)

    assert done.returncode == 2
    assert said in done.line


def test_a_plan_with_unknown_cards_or_model_is_one_line(tool: Tool):
    words = ("stage1_align", "--plan")
    assert "is no card" in tool(*words, "--set", MODEL, "--gpus", "1xXYZ").line
    assert (
        "did you mean llava-med-v1.5-7b" in tool(*words, "--set", "model.path=llava-med-v1.5").line
    )
    assert "needs linear" not in tool(*words, "--set", MODEL, "--gpus", "1xH200").stderr


# ------------------------------------------------------------------------------------ bad input


def one(second: Record | None) -> list[Record]:
    """Two records, of which the second is wrong."""
    return [SHOWN, *([second] if second else [])]


BOTH_HUMAN: Record = {
    **SHOWN,
    "conversations": [{"from": "human", "value": "<image>"}, {"from": "human", "value": "Well?"}],
}


@pytest.mark.parametrize(
    ("records", "settings", "said"),
    [
        (
            one(None),
            {"data__image_folder": Path("/no-such-folder")},
            "/no-such-folder is no folder",
        ),
        (
            one(record("<image><image>\nA?", "B.", image="1.png")),
            {},
            "record 1 (line 2): it names 1 ",
        ),
        (one(BOTH_HUMAN), {}, "record 1 (line 2): "),
        (one(record(image="none.png")), {}, "record 1 (line 2): 'none.png' is no file"),
        (
            [text_only(), text_only(1)],
            {"data__requires_images": True},
            "all 2 records are text-only, beginning with ",
        ),
        (
            one(None),
            {"data__max_length": 10**6, "batch__row_tokens": 10**9},
            "does not fit on main memory",
        ),
    ],
    ids=["folder", "markers", "turns", "image", "text-only", "memory"],
)
def test_bad_data_are_one_line_with_file_and_record_before_a_model_loads(
    workshop: Workshop,
    tmp_path: Path,
    tool: Tool,
    records: list[Record],
    settings: dict[str, Any],
    said: str,
):
    file = write_lines(tmp_path / "data.jsonl", records)
    config = workshop.recipe(tmp_path / "out", **{"data__files": (file,), **settings})

    done = tool(write_recipe(config, tmp_path), "--cards", "1")

    assert done.returncode == 1
    assert said in done.line  # and so no "Loading weights"
    assert said.startswith(("/no", "does")) or str(file) in done.line
    assert not config.output.folder.exists()


def test_an_empty_dataset_is_one_line(workshop: Workshop, tmp_path: Path, tool: Tool):
    for content, said in (([], "holds no records"), ([1], "record 0")):
        file = write_list(tmp_path / "data.json", content)
        recipe = write_recipe(workshop.recipe(tmp_path / "out", data__files=(file,)), tmp_path)
        assert said in tool(recipe, "--cards", "1").line


def set_key(name: str, *path: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        *parents, last = path
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (set_key("config.json", "model_type", value="qwen2_vl"), "only 'llava' is trained"),
        (set_key("config.json", "image_aspect_ratio", value="anyres"), "image_aspect_ratio"),
        (
            set_key("config.json", "vision_config", "image_size", value=56),
            "the files are of different checkpoints",
        ),
    ],
    ids=["family", "image recipe", "mixed image recipes"],
)
def test_a_checkpoint_of_another_kind_is_one_line(
    workshop: Workshop, tmp_path: Path, tool: Tool, spoil: Callable[[Path], None], said: str
):
    base = shutil.copytree(workshop.base, tmp_path / "base")
    spoil(base)
    recipe = write_recipe(workshop.recipe(tmp_path / "out", model__path=base), tmp_path)

    for words in ((), ("--plan",)):
        done = tool(recipe, "--cards", "1", *words)
        assert done.returncode == 1
        assert said in done.line


def test_an_output_that_exists_is_one_line(workshop: Workshop, tmp_path: Path, tool: Tool):
    config = workshop.recipe(tmp_path / "out")
    config.output.folder.mkdir()

    assert "is there already" in tool(write_recipe(config, tmp_path), "--cards", "1").line


# ------------------------------------------------------------------------------ runs and plans


def test_a_plan_counts_the_data_that_are_there(workshop: Workshop, tmp_path: Path, tool: Tool):
    recipe = write_recipe(workshop.recipe(tmp_path / "out"), tmp_path)
    done = tool(recipe, "--plan")
    assert done.returncode == 0
    assert "(counted)" in done.stdout

    done = tool(recipe, "--plan", "--set", "data.files=[nowhere.json]")
    assert done.returncode == 0
    assert "nowhere.json is not there, so nothing is counted" in done.line
    assert not partial_of(tmp_path / "out").exists()


def test_ctrl_c_says_where_the_same_command_goes_on(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(tmp_path / "out", optimizer__epochs=10_000, output__save_every_steps=1)
    command = [sys.executable, "-m", "services.cli", "train", str(write_recipe(config, tmp_path))]
    process = subprocess.Popen(
        [*command, "--cards", "1"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts the suite in the background has it ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread
    )
    with process:
        try:
            wait_until(lambda: checkpoints_in(run_folder(config)), "a checkpoint", 60)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()

    step = step_of(checkpoints_in(run_folder(config))[-1])
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1] == f"galen: stopped; the same command goes on behind step {step}"


def test_two_cards_train_and_what_one_refuses_is_one_line(workshop: Workshop, tmp_path: Path):
    out = tmp_path / "out"
    recipe = write_recipe(workshop.recipe(out, optimizer__max_steps=2), tmp_path)
    done = galen_anew("train", str(recipe), "--cards", "2", timeout_s=110)
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").is_file()

    shutil.rmtree(out)
    done = galen_anew("train", str(recipe), "--cards", "2", "--set", "seed=1", timeout_s=110)
    assert done.returncode == 1
    assert "seed was 0, now 1" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
