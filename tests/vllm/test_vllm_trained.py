"""What `galen train` wrote is served by both engines through `galen up`, with the same answers."""

import json
from pathlib import Path

import pytest
from openai import OpenAI
from PIL import Image

from services.launcher.demo_files import DEMO_CHECKPOINT
from tests.end_to_end.chat import user
from tests.end_to_end.launched import LaunchedUp

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RIGHT_SHARE = 0.8
START_LIMIT_S = 300.0


def answers_of(engine: str, temporary: Path) -> dict[tuple[str, str, str], str]:
    """Ask the miniature that ships all that its scans come with."""
    scans = json.loads((DEMO_CHECKPOINT / "scans.json").read_text(encoding="utf-8"))["scans"]
    options = ("--engine", engine, "--model", f"trained={DEMO_CHECKPOINT}", "--dtype", "float32")
    answers: dict[tuple[str, str, str], str] = {}
    with LaunchedUp(temporary, "--port", "0", "--no-ask", *options) as up:
        client = OpenAI(base_url=up.url(START_LIMIT_S), api_key="unused")
        for scan in scans:
            with Image.open(DEMO_CHECKPOINT / scan["image"]) as image:
                for exchange in scan["questions"]:
                    said = client.chat.completions.create(
                        model="trained",
                        messages=[user(image, exchange["question"])],
                        temperature=0,
                        max_completion_tokens=16,
                    )
                    key = (scan["image"], exchange["question"], exchange["answer"])
                    answers[key] = said.choices[0].message.content or ""
    return answers


def test_both_engines_give_the_same_right_answers(short_folder: Path) -> None:
    on_vllm = answers_of("vllm", short_folder)
    on_transformers = answers_of("transformers", short_folder)

    right = [said.strip() == answer for (_, _, answer), said in on_vllm.items()]
    assert on_vllm == on_transformers
    assert len(right) > 25
    assert sum(right) > RIGHT_SHARE * len(right)
