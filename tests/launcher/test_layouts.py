"""Which engine, on which cards: refused before anything starts, explained in a line."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

import pytest

from modeling import cards
from modeling.tiny import make_tiny_llava
from services.launcher.layouts import (
    Machine,
    choose_layouts,
    find_machine,
    visible_devices,
)
from services.launcher.placement import Candidates, candidates_beside, place_workers
from services.launcher.terminal import CommandError
from services.protocol.admin import Card, LoadModel
from tests.support.sparse_checkpoint import sparse_checkpoint

GPUS = tuple(Card(index, "a card", 24 << 30, 23 << 30) for index in range(2))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_llava(tmp_path_factory.mktemp("layouts") / "m"))


def test_without_a_card_transformers_is_chosen_whatever_is_installed(checkpoint: str) -> None:
    wish = LoadModel("m", checkpoint, workers=2)
    [layout] = choose_layouts([wish], Machine(has_vllm=True))

    assert (layout.engine, layout.cards, layout.python) == ("transformers", ((), ()), None)
    assert layout.reason.startswith("transformers engine, CPU, fp32: no card here; ")
    assert layout.reason.endswith("requests of 2048 tokens at once; 2 workers")
    assert (layout.settings["context_length"], layout.settings["slots"]) == ("2048", "8")


def test_without_a_card_memory_is_divided_among_models_and_workers(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def room(*wishes: LoadModel) -> int:
        memory = cards.Card("CPU", 8 << 30, 4 << 30)
        monkeypatch.setattr(cards, "main_memory", lambda: memory)
        reason = choose_layouts(wishes, Machine())[0].reason
        return int(reason.partition(" requests of")[0].rpartition(" ")[2])

    alone = room(LoadModel("a", checkpoint))
    assert room(LoadModel("a", checkpoint, workers=2)) < alone // 2
    assert room(LoadModel("a", checkpoint), LoadModel("b", checkpoint)) < alone // 2
    assert room(LoadModel("a", checkpoint, tensor_parallel_size=2)) < alone  # two processes


def test_the_line_says_what_was_set_and_how_many_ranks_there_are(checkpoint: str) -> None:
    wish = LoadModel(
        "m", checkpoint, tensor_parallel_size=2, dtype="bfloat16", context_length=64, slots=3
    )
    [layout] = choose_layouts([wish], Machine())

    assert layout.settings["tensor_parallel_size"] == "2"
    assert layout.reason.startswith("transformers engine, CPU, TP 2, bf16: no card here; ")
    assert layout.reason.endswith(
        " requests of 64 tokens at once; set: --slots 3, --tensor-parallel-size 2, "
        "--dtype bfloat16, --context-length 64"
    )
    [plain] = choose_layouts([LoadModel("m", checkpoint)], Machine())
    assert "set:" not in plain.reason


@pytest.mark.parametrize("engine", ["fake", "vllm"])
def test_the_line_says_what_was_set_also_where_nothing_is_planned(
    checkpoint: str, engine: Literal["fake", "vllm"]
) -> None:
    path = "" if engine == "fake" else checkpoint
    wish = LoadModel("m", path, engine, slots=2, context_length=64)
    [layout] = choose_layouts([wish], Machine(has_vllm=True))

    assert layout.reason.endswith("; set: --slots 2, --context-length 64")


def test_ranks_without_a_card_are_never_quantized(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "main_memory", lambda: cards.Card("CPU", 1 << 30, 1 << 30))
    with pytest.raises(CommandError, match=r"\(CPU, TP 2, fp32\).* are missing") as caught:
        choose_layouts([LoadModel("m", checkpoint, tensor_parallel_size=2)], Machine())
    needed = re.findall(
        r"([\d.]+) GB (?:weights|KV|activations|vision|overhead)", str(caught.value)
    )
    [missing] = re.findall(r"([\d.]+) GB are missing", str(caught.value))
    assert sum(map(float, needed)) == pytest.approx(1.08 + float(missing), abs=0.06)


def test_model_of_unknown_size_gets_what_is_asked(checkpoint: str, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    config = json.loads((path / "config.json").read_text())
    config["text_config"] = {"model_type": "novel"}
    (path / "config.json").write_text(json.dumps(config | {"model_type": "novel"}))
    [plain] = choose_layouts([LoadModel("m", str(path))], Machine(GPUS))
    [split] = choose_layouts([LoadModel("m", str(path), device_map="auto")], Machine(GPUS))

    assert (plain.engine, plain.cards) == ("transformers", ((0,),))
    assert "config.json of other does not say" in plain.reason
    assert split.cards == ((0, 1),)


def test_one_model_uses_every_card(checkpoint: str) -> None:
    [layout] = choose_layouts([LoadModel("m", checkpoint)], Machine(GPUS))

    assert layout.cards == ((0,), (1,))
    assert layout.settings["engine"] == "transformers"
    assert layout.settings["dtype"] == "bfloat16"
    assert "2 x 1 card" in layout.reason


def test_two_models_get_a_card_each(checkpoint: str) -> None:
    layouts = choose_layouts([LoadModel(name, checkpoint) for name in "ab"], Machine(GPUS))

    assert [layout.cards for layout in layouts] == [((0,),), ((1,),)]
    assert ["shared" in layout.reason for layout in layouts] == [False, False]


def test_models_share_cards_where_there_are_too_few_and_say_so(checkpoint: str) -> None:
    layouts = choose_layouts([LoadModel(name, checkpoint) for name in "abc"], Machine(GPUS))

    assert [layout.cards for layout in layouts] == [((0,),), ((1,),), ((0,),)]
    assert ["shared" in layout.reason for layout in layouts] == [True, True, True]
    assert {layout.settings["gpu_memory_fraction"] for layout in layouts} == {"0.45"}


def test_model_that_is_loaded_later_takes_unused_cards_or_the_roomiest() -> None:
    busy = (Card(0, "a card", 100, 40), Card(1, "a card", 100, 90))

    assert candidates_beside(busy, {0}) == Candidates((busy[1],))
    assert candidates_beside(busy, {0, 1}) == Candidates((busy[1],), 0.855)
    assert candidates_beside((), frozenset()) == Candidates(())
    alike = (Card(0, "a card", 100, 40), Card(1, "a card", 100, 36))
    assert candidates_beside(alike, {0, 1}) == Candidates(alike, 0.95 * 0.36)


@pytest.fixture(scope="module")
def seven(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("seven") / "llava-7b"
    return str(sparse_checkpoint("llava-1.5-7b", Path(checkpoint), out))


@pytest.fixture(scope="module")
def thirteen(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("thirteen") / "llava-13b"
    return str(sparse_checkpoint("llava-1.5-13b", Path(checkpoint), out))


@pytest.mark.parametrize("has_vllm", [False, True])
def test_two_large_models_get_a_card_each(seven: str, *, has_vllm: bool) -> None:
    layouts = choose_layouts(
        [LoadModel(name, seven) for name in "ab"], Machine(GPUS, has_vllm=has_vllm)
    )

    assert sorted(layout.cards for layout in layouts) == [((0,),), ((1,),)]
    assert {layout.engine for layout in layouts} == {"vllm" if has_vllm else "transformers"}


def test_model_that_needs_more_than_its_share_gets_it_and_one_card_is_left(
    seven: str, thirteen: str
) -> None:
    three = tuple(Card(index, "a card", 20 << 30, 19 << 30) for index in range(3))
    wishes = [
        LoadModel("large", thirteen, quantization="none", device_map="auto"),
        LoadModel("small", seven, quantization="bnb-int8"),
    ]
    large, small = choose_layouts(wishes, Machine(three))

    assert (len(large.cards[0]), len(small.cards[0])) == (2, 1)
    assert not set(large.cards[0]) & set(small.cards[0])


@pytest.mark.parametrize("free_gib", [2, 8])
def test_card_that_is_in_use_is_left_out(seven: str, free_gib: int) -> None:
    busy = (Card(0, "a card", 24 << 30, free_gib << 30), Card(1, "a card", 24 << 30, 23 << 30))
    [layout] = choose_layouts([LoadModel("m", seven)], Machine(busy))

    assert layout.cards == ((1,),)
    assert "quantization" not in layout.settings


def test_more_workers_than_cards_share_them(seven: str) -> None:
    one = (Card(0, "a card", 48 << 30, 47 << 30),)
    [layout] = choose_layouts([LoadModel("m", seven, workers=2)], Machine(one))

    assert layout.cards == ((0,), (0,))
    assert layout.settings["gpu_memory_fraction"] == "0.45"
    assert 2 * layout.card_bytes <= one[0].free_bytes


def test_slots_are_those_of_each_worker_and_all_of_them_fit(seven: str) -> None:
    wish = LoadModel("m", seven, slots=16, context_length=2048)
    [layout] = choose_layouts([wish], Machine(GPUS))

    assert layout.settings["slots"] == "16"
    assert layout.settings.get("tensor_parallel_size") == "2"  # a card alone has room for fewer
    assert layout.card_bytes <= GPUS[0].free_bytes


def test_slots_that_do_not_fit_are_refused_with_what_does(seven: str) -> None:
    wish = LoadModel("m", seven, slots=64, context_length=4096, quantization="none")
    with pytest.raises(CommandError, match=r"not 64 requests of 4096 tokens at once.*--slots \d+"):
        choose_layouts([wish], Machine(GPUS))


def test_adapters_are_left_room_for_and_never_given_to_sharded_transformers(
    thirteen: str, tmp_path: Path
) -> None:
    [sharded] = choose_layouts([LoadModel("m", thirteen)], Machine(GPUS))
    wish = LoadModel("m", thirteen, adapters_dir=str(tmp_path))
    [adapted] = choose_layouts([wish], Machine(GPUS))
    [on_vllm] = choose_layouts([wish], Machine(GPUS, has_vllm=True))

    assert sharded.settings["tensor_parallel_size"] == "2"
    assert "tensor_parallel_size" not in adapted.settings
    assert (on_vllm.engine, on_vllm.settings["tensor_parallel_size"]) == ("vllm", "2")


def test_what_excludes_every_layout_is_named(seven: str) -> None:
    wish = LoadModel("m", seven, tensor_parallel_size=2)
    with pytest.raises(CommandError, match=r"as asked \(--tensor-parallel-size 2\)"):
        choose_layouts([wish], Machine(GPUS[:1]))
    [mapped] = choose_layouts([LoadModel("m", seven, device_map="auto")], Machine(GPUS[:1]))
    assert mapped.cards == ((0,),)


def test_vllm_is_chosen_on_cards_unless_it_cannot_do_what_is_asked(checkpoint: str) -> None:
    machine = Machine(GPUS, Path("/other/python"), has_vllm=True)
    plain, small = choose_layouts(
        [LoadModel("a", checkpoint), LoadModel("b", checkpoint, quantization="bnb-nf4")], machine
    )

    assert (plain.engine, plain.python) == ("vllm", Path("/other/python"))
    assert (small.engine, small.python) == ("transformers", None)
    assert small.settings["quantization"] == "bnb-nf4"


def test_every_choice_can_be_overridden(checkpoint: str) -> None:
    wish = LoadModel(
        "m", checkpoint, "transformers", workers=1, slots=3, tensor_parallel_size=2,
        dtype="float32", context_length=64,
    )  # fmt: skip
    [layout] = choose_layouts([wish], Machine(GPUS, has_vllm=True))

    assert layout.cards == ((0, 1),)
    assert layout.settings == {
        "model_id": "m",
        "model_path": checkpoint,
        "engine": "transformers",
        "slots": "3",
        "tensor_parallel_size": "2",
        "dtype": "float32",
        "context_length": "64",
    }


def test_model_that_does_not_fit_is_refused_with_the_numbers(checkpoint: str) -> None:
    small = (Card(0, "a card", 1 << 20, 1 << 20),)

    with pytest.raises(CommandError, match=r"does not fit on 1 x a card .* are missing"):
        choose_layouts([LoadModel("m", checkpoint)], Machine(small))


@pytest.mark.parametrize(
    ("num_workers", "each", "placed"),
    [(2, 1, ((0,), (1,))), (1, 2, ((0, 1),)), (3, 1, ((0,), (1,), (0,))), (2, 2, ((0, 1),) * 2)],
)
def test_workers_take_the_cards_that_fewest_use(
    num_workers: int, each: int, placed: tuple[tuple[int, ...], ...]
) -> None:
    assert place_workers(num_workers, each, GPUS) == placed


def test_too_few_cards_are_refused() -> None:
    with pytest.raises(CommandError, match="needs 3 cards, and 2 can be used"):
        place_workers(1, 3, GPUS)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (LoadModel("m", "/nowhere"), "is no directory"),
        (LoadModel("m", "", engine="transformers"), "needs a checkpoint"),
        (LoadModel("m", "", engine="fake", adapters_dir="/nowhere"), "is no directory"),
    ],
)
def test_what_is_no_checkpoint_is_refused(wish: LoadModel, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        choose_layouts([wish], Machine())


@pytest.mark.parametrize("context", [2049, 999_999])
def test_a_context_beyond_the_models_own_is_refused_before_anything_starts(
    checkpoint: str, context: int
) -> None:
    with pytest.raises(CommandError, match=r"--context-length .* own limit of 2048 tokens"):
        choose_layouts([LoadModel("m", checkpoint, context_length=context)], Machine())


def test_vllm_that_is_not_there_is_refused(checkpoint: str) -> None:
    with pytest.raises(CommandError, match="name the Python that has it with --worker-python"):
        choose_layouts([LoadModel("m", checkpoint, engine="vllm")], Machine())


def test_python_of_workers_is_tried() -> None:
    assert find_machine(Path(sys.executable)).worker_python == Path(sys.executable)
    with pytest.raises(CommandError, match="is no Python that runs"):
        find_machine(Path("/bin/false"))


def test_workers_see_cards_by_the_names_that_we_see_them_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices((0, 1)) == "0,1"

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")
    assert visible_devices((1,)) == "GPU-abc"
    assert visible_devices((0, 1)) == "3,GPU-abc"
