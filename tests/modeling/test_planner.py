"""What the planner says of layouts: which fit, which is best, what is refused, and its tables."""

import json
from pathlib import Path

import pytest

from modeling.cards import CardsError, main_memory, parse_cards
from modeling.memory_forecast import Layout
from modeling.model_shape import (
    UnknownModelError,
    preset_config,
    read_shape,
    shape_of_config,
)
from modeling.plan_options import Asked
from modeling.planner import PlannerError, check, choose, plan
from services.launcher.plan_command import run_plan
from services.launcher.terminal import CommandError
from services.worker.settings import WorkerSettings
from tests.golden_files import GoldenFiles

SMALL, LARGE = "llava-med-v1.5-7b", "llava-next-34b"


@pytest.mark.parametrize("preset", [SMALL, LARGE])
def test_tables_of_the_usual_cards(
    preset: str, golden: GoldenFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 5):
        run_plan(preset, f"{number}x24GB", None, 16, as_json=False)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    golden.check(f"plan-{preset}.txt", "\n".join(lines) + "\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_plan_fails_where_nothing_fits(
    capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    assert run_plan(SMALL, "1x24GB", None, 16, as_json=as_json) == 0
    capsys.readouterr()
    assert run_plan(LARGE, "1x4GB", None, 16, as_json=as_json) == 1
    out = capsys.readouterr().out
    if as_json:
        assert {each["fits"] for each in json.loads(out)} == {False}
    else:
        assert "Nothing fits: take more or larger cards, or a smaller model.\n" in out


def test_planned_commands_say_which_redis_unless_the_environment_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GALEN_WORKER_REDIS_URL", raising=False)
    run_plan(SMALL, "1x24GB", None, 16, as_json=True)
    commands = [each["command"] for each in json.loads(capsys.readouterr().out)]
    default = WorkerSettings().redis_url.get_secret_value()
    assert [f" --redis-url {default}" in command for command in commands] == [True] * 4

    monkeypatch.setenv("GALEN_WORKER_REDIS_URL", "redis://:secret@queue:6379/0")
    run_plan(SMALL, "1x24GB", None, 16, as_json=True)
    out = capsys.readouterr().out
    assert "--redis-url" not in out
    assert "secret" not in out


def test_planned_commands_name_the_model_as_a_worker_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(preset_config(SMALL)))
    run_plan(str(folder / "config.json"), "1x24GB", None, 16, as_json=True)
    commands = [each["command"] for each in json.loads(capsys.readouterr().out)]
    assert [" --model-id my-model " in command for command in commands] == [True] * 4


@pytest.mark.parametrize("as_json", [False, True])
def test_a_context_beyond_the_models_own_is_refused_rather_than_lowered(*, as_json: bool) -> None:
    with pytest.raises(CommandError) as caught:
        run_plan(SMALL, "1x24GB", 99_999_999, 16, as_json=as_json)
    assert caught.value.message == (
        f"{SMALL}: --context 99999999 exceeds the model's own limit of 32768 tokens; "
        "take at most 32768, or leave it out"
    )
    run_plan(SMALL, "1x24GB", 32_768, 16, as_json=as_json)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("llava-med-v1.5-7", "did you mean llava-med-v1.5-7b"),
        ("nothing like it", "presets: llava-1.5-13b"),
    ],
)
def test_an_unknown_model_names_those_there_are(source: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        read_shape(source)


@pytest.mark.parametrize("text", ["", "2x", "24", "0x24GB", "x24GB", "2x0GB", "65x24GB", "RTX9999"])
def test_cards_that_are_none_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(CardsError) as caught:
        parse_cards(text)
    assert "\n" not in str(caught.value)


def test_cards_are_named_in_many_ways() -> None:
    assert [card.total_bytes for card in parse_cards("2x24GB")] == [24 * 10**9] * 2
    assert [card.total_bytes for card in parse_cards("24GiB,48GiB")] == [24 << 30, 48 << 30]
    assert [card.name for card in parse_cards("2xrtx-4090")] == ["RTX4090"] * 2


def test_a_control_group_limits_main_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(str(1 << 30))
    (tmp_path / "memory.current").write_text(str(1 << 29))
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {1 << 20}\n")
    card = main_memory(tmp_path)
    assert card.total_bytes == 1 << 30
    assert card.free_bytes == (1 << 30) - (1 << 29) + (1 << 20)


def test_the_smallest_change_that_fits_is_chosen() -> None:
    small, large = read_shape(SMALL), read_shape(LARGE)
    one = choose(small, parse_cards("1x24GB"), Asked(has_vllm=True))
    assert (one.layout.engine, one.layout.quantization) == ("vllm", "none")
    four = choose(large, parse_cards("4x24GB"), Asked(has_vllm=True))
    assert (four.layout.tensor_parallel_size, four.layout.quantization) == (4, "none")
    three = choose(large, parse_cards("3x24GB"), Asked())
    assert (three.layout.device_map, three.layout.num_cards) == ("auto", 3)
    assert three.layout.quantization == "bnb-int8"


def test_replicas_give_way_to_tensor_parallelism_where_more_requests_are_asked_for() -> None:
    shape, cards = read_shape(SMALL), parse_cards("2x24GB")
    few = choose(shape, cards, Asked(concurrency=8, has_vllm=True)).layout
    many = choose(shape, cards, Asked(concurrency=64, has_vllm=True)).layout
    assert (few.replicas, few.tensor_parallel_size) == (2, 1)
    assert (many.replicas, many.tensor_parallel_size) == (1, 2)


def test_three_cards_are_used_by_a_device_map_because_three_divides_no_heads() -> None:
    shape = read_shape("llava-1.5-13b")
    options = plan(shape, parse_cards("3x24GB"), Asked())
    assert 3 not in {option.layout.tensor_parallel_size for option in options}
    best = choose(shape, parse_cards("3x10GB"), Asked())
    assert (best.layout.device_map, best.layout.num_cards) == ("auto", 3)
    assert best.settings()["device_map"] == "auto"


def test_a_shorter_context_is_taken_rather_than_nothing_unless_it_was_asked_for() -> None:
    shape, cards = read_shape(LARGE), parse_cards("1x24GB")
    best = choose(shape, cards, Asked())
    assert shape.image_tokens < best.context < 4096
    assert f"of {best.context} tokens" in best.reason
    with pytest.raises(PlannerError, match=r"does not fit on 1 x 24 GB.*are missing"):
        choose(shape, cards, Asked(context=4096))
    with pytest.raises(PlannerError, match=r"does not fit on 1 x 16 GB.*are missing"):
        choose(shape, parse_cards("1x16GB"), Asked())


def test_bitsandbytes_is_never_planned_on_vllm() -> None:
    for number in range(1, 5):
        options = plan(read_shape(SMALL), parse_cards(f"{number}x24GB"), Asked(has_vllm=True))
        quantized = {o.layout.engine for o in options if o.layout.quantization != "none"}
        assert quantized == {"transformers"}
    with pytest.raises(PlannerError, match="no layout on 1 x 24 GB is as asked"):
        choose(
            read_shape(SMALL), parse_cards("1x24GB"), Asked(engine="vllm", quantization="bnb-nf4")
        )


def test_a_model_that_vllm_does_not_know_is_never_planned_on_it() -> None:
    shape = shape_of_config({**preset_config(SMALL), "image_aspect_ratio": "keep"}, "keeping")
    options = plan(shape, parse_cards("2x24GB"), Asked(has_vllm=True))
    assert {option.layout.engine for option in options} == {"transformers"}


def test_vllm_is_told_of_less_where_a_card_is_in_use() -> None:
    shape, (card,) = read_shape(SMALL), parse_cards("1x48GB")
    busy = [type(card)(card.name, card.total_bytes, card.total_bytes * 3 // 4)]
    best = choose(shape, busy, Asked(has_vllm=True))
    assert best.settings()["gpu_memory_fraction"] == "0.75"
    assert best.forecast.usable_bytes <= busy[0].free_bytes
    with pytest.raises(PlannerError, match=r"vLLM would take 90%.*--gpu-memory-fraction 0.75"):
        check(shape, Layout(engine="vllm"), busy, 4096, 8)
    check(shape, Layout(engine="vllm"), busy, 4096, 8, memory_fraction=0.75)


def test_a_worker_that_does_not_fit_is_refused_with_the_numbers() -> None:
    shape, cards = read_shape("llava-1.5-13b"), parse_cards("1x24GB")
    with pytest.raises(PlannerError, match=r"needs 26\.\d\d GB weights.*are missing"):
        check(shape, Layout(), cards, 4096, 1)
    check(shape, Layout(quantization="bnb-int8"), cards, 2048, 1)
    with pytest.raises(PlannerError, match="2 cards are asked for, and there are 1"):
        check(shape, Layout(tensor_parallel_size=2), cards, 2048, 1)


def test_all_slots_of_the_transformers_engine_must_fit_and_what_would_is_said() -> None:
    shape, cards, layout = read_shape(SMALL), parse_cards("1x24GB"), Layout()
    with pytest.raises(PlannerError, match="not 16 requests of 8192 tokens at once") as caught:
        check(shape, layout, cards, 8192, 16)
    words = str(caught.value).replace(" or ", " ").split()
    slots = int(words[words.index("--slots") + 1])
    context = int(words[words.index("--context-length") + 1])
    check(shape, layout, cards, 8192, slots)
    check(shape, layout, cards, context, 16)
    for too_much in ((8192, slots + 1), (context + 1, 16)):
        with pytest.raises(PlannerError):
            check(shape, layout, cards, *too_much)
    check(shape, Layout(engine="vllm"), cards, 8192, 16)  # there, requests wait
