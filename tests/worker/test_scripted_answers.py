"""The fake engine says what a script has for a question."""

from pathlib import Path

import pytest

from services.worker.engines.base import EngineStartError
from services.worker.engines.fake_engine import FakeEngine
from services.worker.engines.scripted_answers import read_script
from tests.worker.engine_harness import job, running

SCRIPT = '{"match": "LUNG|chest", "answer": "User: Clear?\\n\\nAssistant:  Yes."}\n'


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.jsonl"
    path.write_text(SCRIPT, "utf-8")
    return path


async def test_a_question_that_fits_gets_its_answer_and_another_gets_numbers(script: Path):
    def engine() -> FakeEngine:
        return FakeEngine("fake", script=read_script(script))

    async with running(engine) as started:
        told, other = await started.run(job("a", "the lung?"), job("b", "the liver? [[n=2]]"))

    assert told.text == "User: Clear?\n\nAssistant:  Yes."
    assert told.finished.finish_reason == "stop"
    assert told.finished.completion_tokens == 4
    assert other.text == "zq0000 zq0001 "


async def test_a_script_obeys_length_stop_strings_and_resumes(script: Path):
    def engine() -> FakeEngine:
        return FakeEngine("fake", script=read_script(script))

    async with running(engine) as started:
        cut, stopped, resumed = await started.run(
            job("a", "the lung? [[n=2]]"),
            job("b", "the lung?", stop=("Clear",)),
            job("c", "the lung?", resume_token_ids=[0, 1, 2]),
        )

    assert cut.text == "User: Clear?\n\n"
    assert stopped.text == "User: "
    assert resumed.text == "Yes."


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "empty"),
        ("no\n", "line 1 is no JSON"),
        ('{"answer": "a"}\n{"match": 1, "answer": "a"}\n', "line 2 is no answer"),
        ('{"answer": " "}\n', "line 1 is no answer"),
        ('{"match": "(", "answer": "a"}\n', "no regular expression"),
    ],
)
def test_a_bad_script_is_named(tmp_path: Path, content: str, word: str):
    path = tmp_path / "script.jsonl"
    path.write_text(content, "utf-8")

    with pytest.raises(EngineStartError, match=word):
        read_script(path)


def test_a_script_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(EngineStartError, match="cannot be read"):
        read_script(tmp_path / "none.jsonl")
