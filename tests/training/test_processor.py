"""What makes a checkpoint unfit for training is said before it is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.modeling.conftest import Converted
from training.errors import TrainingError
from training.processor import open_processing

Change = Callable[[Path], None]


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "checkpoint")


def change(name: str, **values: Any) -> Change:
    """Set keys of one of the checkpoint's JSON files, with dots in their parents' names."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        for key, value in values.items():
            *parents, last = key.split("__")
            inner = content
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
        (folder / name).write_text(json.dumps(content))

    return apply


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def test_a_tiny_llava_has_as_many_image_tokens_as_patches(tiny: Path):
    processing = open_processing(tiny)
    assert processing.num_image_tokens == processing.config["image_seq_length"] == 16
    assert processing.image_token_id == 3
    assert processing.recipe is not None
    assert processing.recipe.mode == "crop"


def test_all_llava_meds_have_what_their_config_says(
    v1: Converted, v1_biomedclip: Converted, v15: Converted
):
    for made, mode in ((v1, "crop"), (v1_biomedclip, "crop"), (v15, "pad")):
        processing = open_processing(made.hf)
        assert processing.num_image_tokens == processing.config["image_seq_length"]
        assert processing.recipe is not None
        assert processing.recipe.mode == mode


def test_the_class_token_counts_where_it_is_kept(copied: Path):
    change("config.json", vision_feature_select_strategy="full")(copied)
    assert open_processing(copied).num_image_tokens == 17


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (change("config.json", model_type="llava_next"), "model_type 'llava_next'; only 'llava'"),
        (change("config.json", image_aspect_ratio="keep"), "which is not trained yet"),
        (change("config.json", image_aspect_ratio="anyres"), "image_aspect_ratio 'anyres'"),
        (change("config.json", image_token_id=2, image_token_index=2), "image_token_id is 2 in"),
        (change("config.json", vision_config__image_size=70), "files are of different checkpoints"),
        (
            change("processor_config.json", image_processor__do_center_crop=False),
            "images of several sizes",
        ),
        (remove("chat_template.jinja"), "no chat template; set model.conversation"),
        (remove("tokenizer.json"), "no fast tokenizer"),
        (remove("processor_config.json"), "no image processor"),
        (remove("config.json"), "no config.json"),
        (shutil.rmtree, "is no directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_trained_is_refused_in_one_line(copied: Path, spoil: Change, said: str):
    spoil(copied)

    with pytest.raises(TrainingError) as error:
        open_processing(copied)

    assert said in str(error.value)
    assert str(copied) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_chat_template_does_with_a_named_one(copied: Path):
    (copied / "chat_template.jinja").unlink()
    assert open_processing(copied, has_template=True).num_image_tokens == 16


def test_the_original_layout_is_sent_to_convert(v1: Converted):
    with pytest.raises(TrainingError, match="galen"):
        open_processing(v1.original)
