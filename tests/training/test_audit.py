"""All records are looked at before a model loads: what is usable, and what stops a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.llava_med_records import (
    Record,
    record,
    text_only,
    write_images,
    write_lines,
    write_list,
)
from training import audit as module
from training.audit import PROBLEMS_FILE, DataTable, audit
from training.audit_pass import STRETCH
from training.config import TrainConfig
from training.errors import TrainingError
from training.examples import ExampleTokeniser
from training.processor import LlavaProcessing, open_processing

EVERYTHING = dict.fromkeys(("missing_images", "truncated", "without_loss", "malformed"), 1.0)
MALFORMED = record("<image>\nCanary?", "Canary.", image=None)
TWICE = record("<image>\nWhich side?", "Left.")


@pytest.fixture(scope="module")
def processing(tiny: Path) -> LlavaProcessing:
    return open_processing(tiny)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def recipe(folder: Path, records: Sequence[object] | Path, **data: Any) -> TrainConfig:
    """A recipe whose image folder has `scan.png` and `other.png`."""
    images = write_images(folder / "images", "scan.png", "other.png")
    file = records if isinstance(records, Path) else write_list(folder / "data.json", records)
    return TrainConfig.model_validate(
        {
            "name": "test",
            "model": {"path": "unused"},
            "train": {},
            "data": {"files": [file], "image_folder": images, "workers": 0, **data},
            "batch": {"examples": 1},
            "optimizer": {"learning_rate": 1e-3},
            "output": {"folder": "unused"},
        }
    )


def problems_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / PROBLEMS_FILE).read_text().splitlines()]


def test_the_table_has_what_the_examples_have(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    records = [
        record(),
        text_only(1),
        TWICE,
        record(image="other.png"),
        record("<image> <image>\nDiffer?", "No.", image=["scan.png", "other.png"]),
        record("Which side?\n<image>", "Left."),
    ]

    table = audit(recipe(tmp_path, records), processing, run)

    tokeniser = ExampleTokeniser(processing, None, 2048)
    examples = [tokeniser.tokenise(n, each) for n, each in enumerate(records)]
    assert table.record.tolist() == list(range(len(records)))
    assert table.num_tokens.tolist() == [each.num_tokens for each in examples]
    assert table.num_trained.tolist() == [each.num_trained_tokens for each in examples]
    assert table.prefix_length.tolist() == [each.shared_prefix_length for each in examples]
    assert table.num_images.tolist() == [1, 0, 1, 1, 2, 1]
    assert [table.example(n) for n in range(len(table))] == examples
    assert table.problems.summary() == "no record has a problem"


def test_images_and_prefixes_have_keys_that_say_what_is_alike(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    question_first = record("Which side?\n<image>", "Left.")
    records = [record(), text_only(1), TWICE, record(image="other.png"), question_first]

    table = audit(recipe(tmp_path, records), processing, run)

    first, text, twice, other, last = table.image_key.tolist()
    assert first == twice == last != other
    assert text == -1
    first, text, twice, other, last = table.prefix_key.tolist()
    assert first == twice
    assert len({first, other, last}) == 3
    assert text == -1


def test_statistics_are_those_of_usable_examples(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    table = audit(recipe(tmp_path, [record(), TWICE, text_only()]), processing, run)
    found = table.statistics()

    assert found.num_examples == 3
    assert found.mean_tokens == pytest.approx(table.num_tokens.mean())
    assert found.mean_answer_tokens == pytest.approx(table.num_trained.mean())
    assert found.images_per_example == pytest.approx(2 / 3)
    assert found.examples_per_image == 2


def test_every_problem_is_counted_and_listed_with_its_place(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    records = [
        record(),
        MALFORMED,
        record(image="lost.png"),
        record("<image>\nCanary?"),
        record("<image>\nWhich organ?", "Canary " * 80),
        record("Canary!", "<image>\nWhich organ?", "Liver.", begins="gpt"),
    ]
    file = write_lines(tmp_path / "data.jsonl", records)

    table = audit(recipe(tmp_path, file, max_length=128, limits=EVERYTHING), processing, run)

    assert table.record.tolist() == [0, 4, 5]
    listed = problems_of(run)
    assert [(each["kind"], each["record"], each["line"]) for each in listed] == [
        ("malformed", 1, 2),
        ("missing_images", 2, 3),
        ("without_loss", 3, 4),
        ("truncated", 4, 5),
        ("dropped_leading_answers", 5, 6),
    ]
    assert {each["file"] for each in listed} == {str(file)}
    assert "'lost.png' is no file in" in listed[1]["reason"]
    assert "Canary" not in (run / PROBLEMS_FILE).read_text()
    assert table.problems.summary() == (
        "of 6 records: 1 malformed, 1 missing_images, 1 without_loss, 1 truncated, "
        f"1 dropped_leading_answers; listed in {run / PROBLEMS_FILE}"
    )


@pytest.mark.parametrize(
    ("kind", "bad", "more"),
    [
        ("malformed", MALFORMED, {}),
        ("missing_images", record(image="lost.png"), {}),
        ("without_loss", record("<image>\nCanary?"), {}),
        ("truncated", record("<image>\nWhich organ?", "Canary " * 80), {"max_length": 128}),
    ],
)
def test_more_than_the_allowed_share_stops(
    tmp_path: Path, run: Path, processing: LlavaProcessing, kind: str, bad: Record,
    more: dict[str, Any],
):  # fmt: skip
    records = [record(), record(), bad, record()]
    audit(recipe(tmp_path, records, limits={**EVERYTHING, kind: 0.25}, **more), processing, run)

    with pytest.raises(TrainingError) as error:
        audit(recipe(tmp_path, records, limits={**EVERYTHING, kind: 0.24}, **more), processing, run)

    said = str(error.value)
    assert said.startswith("1 of 4 records (0.25)")
    assert f"data.limits.{kind} allows 0.24" in said
    assert f"the first is {tmp_path / 'data.json'} record 2: " in said
    assert str(run / PROBLEMS_FILE) in said
    assert "\n" not in said
    assert "Canary" not in said


def test_a_leading_answer_stops_nothing(tmp_path: Path, run: Path, processing: LlavaProcessing):
    records = [record("Hello!", "<image>\nWhich?", "Liver.", begins="gpt")]
    table = audit(recipe(tmp_path, records), processing, run)
    assert len(table) == 1
    assert table.problems.counts["dropped_leading_answers"] == 1


def test_a_text_only_file_is_no_alignment_data(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    records = [text_only(n) for n in range(3)]
    with pytest.raises(TrainingError, match="all 3 records are text-only, beginning with"):
        audit(recipe(tmp_path, records, requires_images=True), processing, run)


def test_a_text_among_alignment_data_is_malformed(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    records = [record(), text_only()]
    with pytest.raises(TrainingError, match=r"data\.json record 1: it shows no image"):
        audit(recipe(tmp_path, records, requires_images=True), processing, run)


def test_alignment_data_that_lost_its_image_when_cut_is_no_example(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    late = record("Hello.", "Hi.", "<image>\nWhich organ?", "Liver.")
    options = {"requires_images": True, "max_length": 30, "limits": EVERYTHING}
    table = audit(recipe(tmp_path, [record("<image>", "A."), late], **options), processing, run)
    assert table.record.tolist() == [0]
    assert table.problems.counts["truncated"] == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"image_folder": "/nowhere"}, "data.image_folder /nowhere is no folder"),
        ({"image_folder": None}, "record 0 shows an image; set data.image_folder"),
    ],
)
def test_without_its_folder_of_images_nothing_begins(
    tmp_path: Path, run: Path, processing: LlavaProcessing, data: dict[str, Any], said: str
):
    with pytest.raises(TrainingError) as error:
        audit(recipe(tmp_path, [record()], **data), processing, run)
    assert said in str(error.value)


def test_texts_need_no_folder_of_images(tmp_path: Path, run: Path, processing: LlavaProcessing):
    table = audit(recipe(tmp_path, [text_only()], image_folder=None), processing, run)
    assert len(table) == 1


def test_a_name_too_long_for_a_file_is_a_missing_image(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    with pytest.raises(TrainingError, match="lack an image"):
        audit(recipe(tmp_path, [record(image="x" * 5000)]), processing, run)


def test_an_empty_dataset_is_refused(tmp_path: Path, run: Path, processing: LlavaProcessing):
    with pytest.raises(TrainingError, match=r"data\.json holds no records"):
        audit(recipe(tmp_path, []), processing, run)


def test_data_of_which_nothing_is_usable_is_refused(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    with pytest.raises(TrainingError, match=r"none of 2 records can be used; the first problem is"):
        audit(recipe(tmp_path, [MALFORMED] * 2, limits=EVERYTHING), processing, run)


# ------------------------------------------------------------------------- what is kept of it


def refuse_to_look(*_: object) -> None:
    raise AssertionError("records were looked at again")


def columns(table: DataTable) -> list[list[int]]:
    arrays = (table.record, table.num_tokens, table.num_trained, table.prefix_length)
    return [array.tolist() for array in (*arrays, table.image_key, table.prefix_key)]


def test_a_restart_does_not_tokenise_again(
    tmp_path: Path, run: Path, processing: LlavaProcessing, monkeypatch: pytest.MonkeyPatch
):
    config = recipe(tmp_path, [record(), MALFORMED, record(image="lost.png")], limits=EVERYTHING)
    before = audit(config, processing, run)
    listed = problems_of(run)
    monkeypatch.setattr(module, "look_at_all", refuse_to_look)

    after = audit(config, processing, run)

    assert columns(after) == columns(before)
    assert problems_of(run) == listed
    assert after.problems.summary() == before.problems.summary()


@pytest.mark.parametrize("data", [{"max_length": 1000}, {"requires_images": True}])
def test_other_options_are_looked_at_anew(
    tmp_path: Path, run: Path, processing: LlavaProcessing, data: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    audit(recipe(tmp_path, [record()]), processing, run)
    monkeypatch.setattr(module, "look_at_all", refuse_to_look)
    with pytest.raises(AssertionError, match="looked at again"):
        audit(recipe(tmp_path, [record()], **data), processing, run)


def test_other_data_are_looked_at_anew(tmp_path: Path, run: Path, processing: LlavaProcessing):
    audit(recipe(tmp_path, [record()]), processing, run)
    assert len(audit(recipe(tmp_path, [record(), TWICE]), processing, run)) == 2


def test_an_image_that_came_since_counts(tmp_path: Path, run: Path, processing: LlavaProcessing):
    config = recipe(tmp_path, [record(), record(image="late.png")], limits=EVERYTHING)
    assert len(audit(config, processing, run)) == 1

    write_images(tmp_path / "images", "late.png")

    assert len(audit(config, processing, run)) == 2
    assert problems_of(run) == []


def test_a_damaged_file_of_counts_is_made_anew(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    config = recipe(tmp_path, [record(), TWICE])
    before = audit(config, processing, run)
    [kept] = run.glob("audit-*.npz")
    content = kept.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no archive"):
        kept.write_bytes(damaged)
        assert columns(audit(config, processing, run)) == columns(before)
    assert [each.name for each in run.iterdir() if "partial" in each.name] == []


# --------------------------------------------------------------------------- several processes


def test_several_processes_find_what_one_finds(
    tmp_path: Path, processing: LlavaProcessing, monkeypatch: pytest.MonkeyPatch
):
    odd = [MALFORMED, record(image="lost.png"), text_only()]
    records = [odd[n % 100] if n % 100 < 3 else record() for n in range(2 * STRETCH + 7)]
    alone = audit(recipe(tmp_path, records, limits=EVERYTHING), processing, tmp_path / "alone")
    monkeypatch.setattr(module, "_MOST_WITHOUT_PROCESSES", STRETCH)

    config = recipe(tmp_path, records, limits=EVERYTHING, workers=2)
    together = audit(config, processing, tmp_path / "together")

    assert columns(together) == columns(alone)
    assert problems_of(tmp_path / "together") == problems_of(tmp_path / "alone")


def test_an_error_of_a_process_is_the_audits(
    tmp_path: Path, run: Path, processing: LlavaProcessing, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MOST_WITHOUT_PROCESSES", 1)
    config = recipe(tmp_path, [text_only(), record()], image_folder=None, workers=2)
    with pytest.raises(TrainingError, match="record 1 shows an image; set data"):
        audit(config, processing, run)


# ------------------------------------------------------------------------------- while it trains


def test_an_image_found_unreadable_later_is_counted_with_the_others(
    tmp_path: Path, run: Path, processing: LlavaProcessing
):
    records = [record(image="lost.png"), *[record()] * 3]
    table = audit(recipe(tmp_path, records, limits={"missing_images": 0.25}), processing, run)
    table.problems.check_share("missing_images", len(records))

    table.problems.add("missing_images", 2, "'scan.png' is no image")

    assert problems_of(run)[-1] == {
        "kind": "missing_images",
        "file": str(tmp_path / "data.json"),
        "record": 2,
        "reason": "'scan.png' is no image",
    }
    with pytest.raises(TrainingError, match=r"2 of 4 records .* record 0: 'lost\.png'"):
        table.problems.check_share("missing_images", len(records))


def test_the_columns_are_rising_and_small(tmp_path: Path, run: Path, processing: LlavaProcessing):
    table = audit(recipe(tmp_path, [record()] * 5), processing, run)
    assert table.record.dtype == np.int64
    assert table.num_tokens.dtype == table.image_key.dtype == np.int32
    assert (np.diff(table.record) > 0).all()
