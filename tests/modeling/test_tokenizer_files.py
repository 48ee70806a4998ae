import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from modeling.checkpoints.tokenizer_files import read_tokenizer
from tests.modeling import original_layouts as originals


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    originals.write_v1_tokenizer(folder)
    return folder


TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)


@given(text=TEXTS)
def test_ids_are_those_of_sentencepiece(folder: Path, text: str):
    slow = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    fast = read_tokenizer(folder).tokenizer
    fast.encode_special_tokens = True
    assert fast.encode(text, add_special_tokens=False).ids == slow.encode(text)


@given(text=TEXTS)
def test_ids_become_the_text_again(folder: Path, text: str):
    fast = read_tokenizer(folder).tokenizer
    fast.encode_special_tokens = True
    assert fast.decode(fast.encode(text, add_special_tokens=False).ids) == text


SLOW = Path(__file__).parents[1] / "golden/slow_tokenizer"
SLOW_CASES: list[tuple[str, list[int]]] = json.loads((SLOW / "cases.json").read_text("utf-8"))[
    "cases"
]


@pytest.mark.parametrize(("text", "token_ids"), SLOW_CASES)
def test_ids_are_those_of_the_library_that_the_weights_were_trained_with(
    text: str, token_ids: list[int]
):
    found = read_tokenizer(SLOW, swallows_spaces=True)
    assert found.tokenizer.encode(text, add_special_tokens=False).ids == token_ids


@pytest.mark.parametrize(
    ("text", "stretches"),
    [  # what `LlamaTokenizer` of transformers 4.28.1 says of such files
        (
            "Human: <im_start><im_patch><im_end>\nWhat is shown?",
            ("Human:", "", "", "What is shown?"),
        ),
        ("shown?\n<im_start>", ("shown?", "")),
        ("x [PAD] y", ("x", "y")),
        ("What<im_start>What", ("What", "What")),
    ],
)
def test_added_tokens_swallow_spaces_and_each_stretch_gets_one_of_its_own(
    text: str, stretches: tuple[str, ...], folder: Path
):
    """As the slow tokenizer of 2023 did, with which the weights were trained."""
    found = read_tokenizer(folder, swallows_spaces=True)
    slow = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    added = [found.id_of(token) for token in re.findall(r"<im_\w+>|\[PAD\]", text)]
    expected = [*slow.encode(stretches[0])]
    for token_id, stretch in zip(added, stretches[1:], strict=True):
        expected += [token_id, *slow.encode(stretch)]
    assert found.tokenizer.encode(text, add_special_tokens=False).ids == expected


def test_later_tokenizers_keep_spaces(folder: Path):
    found = read_tokenizer(folder)
    slow = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = found.tokenizer.encode("What<im_start>\nWhat", add_special_tokens=False).ids
    assert ids == [*slow.encode("What"), found.id_of("<im_start>"), *slow.encode("\nWhat")]


def test_the_map_of_special_tokens_wins_over_the_tokenizers_config(folder: Path):
    found = read_tokenizer(folder)
    assert found.special["bos_token"] == "</s>"
    assert found.bos_from == "special_tokens_map.json"
    assert found.special_id("bos_token") == found.special_id("eos_token") == 2


def test_without_the_map_the_tokenizers_config_is_taken(folder: Path, tmp_path: Path):
    for name in ("tokenizer.model", "added_tokens.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert read_tokenizer(tmp_path).special["bos_token"] == "<s>"


@pytest.mark.parametrize(
    "order", [("<im_patch>", "<im_start>", "<im_end>", "[PAD]"), ("<im_patch>", "<im_start>")]
)
def test_ids_come_from_the_files_in_whatever_order(order: tuple[str, ...], tmp_path: Path):
    """LLaVA-13b-delta-v0 has another order than LLaVA-Med, LLaVA-Lightning no [PAD]."""
    originals.write_sentencepiece(tmp_path)
    added = {token: originals.VOCAB + index for index, token in enumerate(order)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    found = read_tokenizer(tmp_path)
    assert {token: found.id_of(token) for token in order} == added
