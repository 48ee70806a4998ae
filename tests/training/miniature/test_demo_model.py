"""The miniature that ships: it answers about scans that nobody has drawn before, by seeing them."""

import json
from dataclasses import dataclass

import pytest
from PIL import Image

from datagen.phantoms.writing import Counts, write_data
from modeling.checkpoint_files import open_checkpoint
from services.launcher.demo_files import DEMO_CHECKPOINT, demo_scan
from training.finished import TRAINING_FILE
from training.miniature.answers import Scores, score
from training.miniature.curriculum import ask
from training.miniature.shipping import CARD_FILE, MOST_BYTES, SCANS_FILE

NOT_TRAINED_ON = 20_261_125  # seed: no curriculum had it
NUM_SCANS = 800
# Below what the card says by two to three standard errors of so few questions.
CLOSED, OPEN, BY_KIND, CLOSED_ON_NOISE, OPEN_ON_NOISE = 0.92, 0.92, 0.80, 0.56, 0.42


@dataclass(frozen=True, slots=True)
class Asked:
    seen: Scores
    on_noise: Scores


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("scans") / "data"
    counts = dict.fromkeys(Counts.__dataclass_fields__, 0) | {"vqa_test": NUM_SCANS}
    write_data(folder, NOT_TRAINED_ON, Counts(**counts))
    questions = folder / "phantoms" / "vqa" / "test.json"
    seen, on_noise = (
        score(ask(DEMO_CHECKPOINT, questions, shows_noise=noise)) for noise in (False, True)
    )
    return Asked(seen, on_noise)


@pytest.mark.timeout(300)
def test_it_answers_rightly(asked: Asked) -> None:
    assert asked.seen.closed > CLOSED
    assert asked.seen.open > OPEN
    assert len(asked.seen.by_kind) == 12
    assert min(mean for mean, _ in asked.seen.by_kind.values()) > BY_KIND


@pytest.mark.timeout(300)
def test_without_the_image_it_guesses(asked: Asked) -> None:
    assert asked.on_noise.closed < CLOSED_ON_NOISE
    assert asked.on_noise.open < OPEN_ON_NOISE


def test_it_is_a_small_checkpoint_without_code_or_paths() -> None:
    checkpoint = open_checkpoint(DEMO_CHECKPOINT)
    weights = sum(file.stat().st_size for file in DEMO_CHECKPOINT.glob("*.safetensors"))
    training = (DEMO_CHECKPOINT / TRAINING_FILE).read_text(encoding="utf-8")

    assert checkpoint.path == DEMO_CHECKPOINT
    assert weights <= MOST_BYTES
    assert '"/' not in training
    assert len(json.loads(training)["run"]["data_hash"]) == 64


def test_its_scans_are_images_with_questions_about_each_modality() -> None:
    scans = json.loads((DEMO_CHECKPOINT / SCANS_FILE).read_text(encoding="utf-8"))["scans"]

    assert len(scans) == 5
    assert {file.name for file in DEMO_CHECKPOINT.glob("*.png")} == {s["image"] for s in scans}
    for scan in scans:
        with Image.open(DEMO_CHECKPOINT / scan["image"]) as image:
            assert (image.mode, image.size) == ("RGB", (64, 64))
        assert len(scan["questions"]) > 3
    assert demo_scan().image == DEMO_CHECKPOINT / scans[0]["image"]


def test_its_card_says_what_it_is_not_for() -> None:
    card = (DEMO_CHECKPOINT / CARD_FILE).read_text(encoding="utf-8")

    assert "knows nothing about real images" in card
    assert "\n| vqa on noise | " in card
