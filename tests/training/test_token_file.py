"""Tokens come back from their file as they were."""

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling.prompt import TokenisedPrompt
from training.token_file import TokenFile, TokenWriter, packed

IMAGE_IDS = (7, 5, 5, 8)

tokens = st.tuples(st.integers(0, 2**31 - 2), st.booleans())
texts = st.lists(tokens, min_size=1, max_size=6)  # an example without a token is none


@st.composite
def prompts(draw: st.DrawFn) -> TokenisedPrompt:
    prompt = TokenisedPrompt()
    stretches = draw(st.lists(texts, min_size=1, max_size=4))
    for number, stretch in enumerate(stretches):
        if number:
            start = len(prompt.token_ids)
            prompt.token_ids += IMAGE_IDS
            prompt.is_trained += [False] * len(IMAGE_IDS)
            prompt.image_spans.append((start, start + len(IMAGE_IDS)))
        prompt.token_ids += [token_id for token_id, _ in stretch]
        prompt.is_trained += [is_trained for _, is_trained in stretch]
    return prompt


def written(path: Path, some: list[TokenisedPrompt]) -> TokenFile:
    parts = [packed(prompt) for prompt in some]
    with TokenWriter(path) as writer:
        for part in parts:
            writer.append(part)
    return TokenFile(path, np.array([len(part) for part in parts]), IMAGE_IDS)


@given(some=st.lists(prompts(), min_size=1, max_size=5))
def test_prompts_come_back_as_they_were(some: list[TokenisedPrompt], tmp_path_factory):
    file = written(tmp_path_factory.mktemp("tokens") / "tokens", some)

    assert file.is_whole
    assert [file.prompt(number) for number in range(len(some))] == some


def test_it_goes_to_another_process_though_it_is_mapped(tmp_path: Path):
    prompt = TokenisedPrompt([3, *IMAGE_IDS, 4], [False] * 5 + [True], [(1, 5)])
    file = written(tmp_path / "tokens", [prompt])
    file.prompt(0)

    assert copy.copy(file).prompt(0) == prompt


def test_a_file_that_was_cut_is_not_whole(tmp_path: Path):
    file = written(tmp_path / "tokens", [TokenisedPrompt([3, 4], [False, True])])
    with (tmp_path / "tokens").open("r+b") as opened:
        opened.truncate(4)

    assert not file.is_whole


def _write_and_stop(path: Path) -> None:
    with TokenWriter(path) as writer:
        writer.append(np.array([1], np.uint32))
        raise KeyboardInterrupt


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        _write_and_stop(tmp_path / "tokens")

    assert list(tmp_path.iterdir()) == []
