"""Converted LLaVA-Med checkpoints, served by `galen up` on vLLM and on transformers.

Both must answer, greedily, what a plain forward pass over the original tensors says, to the token.
"""

import base64
import io
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI
from PIL import Image
from transformers import AutoTokenizer

from modeling.checkpoints.conversions import convert_v1, convert_v15
from modeling.checkpoints.llava_med_v1 import V1Options
from modeling.checkpoints.llava_med_v15 import V15Options
from tests.end_to_end.launched import LaunchedUp, galen
from tests.modeling import original_layouts as originals
from tests.modeling.conftest import Converted, job
from tests.modeling.stopping import STOP, write_v1_that_stops
from tests.modeling.test_converted_logits import (
    V1,
    V15,
    Original,
    Part,
    clip_images,
    own_images,
    picture,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MAX_TOKENS = 12
START_LIMIT_S = 180.0  # two workers with vLLM on two cores
PROMPTS: dict[str, list[Part]] = {
    "image first": [picture(1), "\nWhat is shown?"],
    "image last": ["What is shown?\n", picture(2, 50, 120)],
    "two images": [picture(3), "\nand\n", picture(4), "\nWhat differs?"],
    "text only": ["Is the heart enlarged?"],
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    folder = tmp_path_factory.mktemp("llava-med")
    tower = originals.write_clip(folder / "clip")
    v1 = write_v1_that_stops(folder / "v1")
    v15 = originals.write_v15(folder / "v15")
    convert_v1(v1, tower, V1Options(), job(folder / "v1-hf"))
    convert_v15(v15, None, V15Options("checkpoint"), job(folder / "v15-hf"))
    return {
        "v1": Converted(v1, tower, folder / "v1-hf"),
        "v15": Converted(v15, None, folder / "v15-hf"),
    }


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str
    prompt_tokens: int


Answers = dict[tuple[str, str], Answer]


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def served(request: pytest.FixtureRequest, converted: dict[str, Converted]) -> Iterator[Answers]:
    temporary = Path(tempfile.mkdtemp(prefix="up-"))  # short: a socket's path has 107 characters
    models = [word for name, c in converted.items() for word in ("--model", f"{name}={c.hf}")]
    options = ("--engine", request.param, "--port", "0", "--no-ask", "--dtype", "float32", *models)
    with LaunchedUp(temporary, *options, GALEN_WORKER_KV_CACHE_GIB="1") as up:
        with OpenAI(base_url=up.url(START_LIMIT_S), api_key="unused", max_retries=0) as client:
            answers = {
                (name, prompt): ask(client, name, parts)
                for name in converted
                for prompt, parts in PROMPTS.items()
            }
        yield answers
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", ["v1", "v15"])
def test_both_engines_answer_as_the_original_to_the_token(
    name: str, prompt: str, served: Answers, converted: dict[str, Converted]
) -> None:
    found = served[name, prompt]
    original = original_of(name, converted[name])
    token_ids = original.greedy(PROMPTS[prompt], MAX_TOKENS)
    tokenizer = AutoTokenizer.from_pretrained(converted[name].hf)
    expected, reason = until_stop(tokenizer, token_ids, ends_at_eos=name == "v15")

    assert found.text == expected
    assert found.finish_reason == reason
    assert found.prompt_tokens == len(original.run(PROMPTS[prompt]).token_ids)


def test_both_engines_end_at_the_stop_that_the_checkpoint_names(served: Answers) -> None:
    found = served["v1", "image first"]
    assert found.finish_reason == "stop"
    assert found.text
    assert STOP not in found.text


def test_a_tower_that_vllm_does_not_know_is_refused_before_anything_starts(tmp_path: Path) -> None:
    source = originals.write_v1(tmp_path / "v1", mm_vision_tower=originals.BIOMEDCLIP)
    tower = originals.write_biomedclip(tmp_path / "biomedclip")
    convert_v1(source, tower, V1Options(), job(tmp_path / "hf"))
    done = galen("up", "--engine", "vllm", "--model", str(tmp_path / "hf"), "--port", "0")
    assert done.returncode == 1
    assert "no vision tower of type 'vit'" in done.stderr
    assert "--engine transformers" in done.stderr


def ask(client: OpenAI, model: str, parts: list[Part]) -> Answer:
    content: list = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in parts
    ]
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        max_tokens=MAX_TOKENS,
        temperature=0,
    )
    choice = reply.choices[0]
    assert reply.usage is not None
    return Answer(choice.message.content or "", choice.finish_reason, reply.usage.prompt_tokens)


def data_url(image: Image.Image) -> str:
    blob = io.BytesIO()
    image.save(blob, "PNG")
    return "data:image/png;base64," + base64.b64encode(blob.getvalue()).decode()


def original_of(name: str, converted: Converted) -> Original:
    if name == "v1":
        return V1(converted.original, clip_images)
    return V15(converted.original, own_images)


def until_stop(tokenizer, token_ids: list[int], *, ends_at_eos: bool) -> tuple[str, str]:
    """Return text and finish reason of an answer that is cut where the checkpoint says."""
    eos = tokenizer.eos_token_id
    is_ended = eos in token_ids
    text = tokenizer.decode(
        token_ids[: token_ids.index(eos)] if is_ended else token_ids, skip_special_tokens=True
    )
    if not ends_at_eos and STOP in text:
        return text[: text.index(STOP)], "stop"
    return text, "stop" if is_ended else "length"
