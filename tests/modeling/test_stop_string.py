from pathlib import Path

import pytest
from transformers import AutoTokenizer

from modeling.checkpoints.conversions import convert_v1
from modeling.checkpoints.llava_med_v1 import V1Options
from tests.modeling import original_layouts as originals
from tests.modeling.conftest import job
from tests.modeling.stopping import PROMPT, STOP, write_v1_that_stops
from tests.modeling.test_converted_logits import V1, clip_images
from tests.modeling.test_served_llava_med import engine, job_of
from tests.worker.engine_harness import running


@pytest.mark.parametrize("is_told", [True, False])
async def test_an_answer_of_v1_ends_at_its_stop_by_default(is_told: bool, tmp_path: Path):
    source = write_v1_that_stops(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip")
    convert_v1(source, tower, V1Options(), job(tmp_path / "hf"))
    if not is_told:  # the control: without it, the answer goes on
        (tmp_path / "hf/generation_config.json").write_text('{"eos_token_id": 2}')
    async with running(lambda: engine(tmp_path / "hf")) as started:
        [found] = await started.run(job_of("a", PROMPT))

    greedy = V1(source, clip_images).greedy(PROMPT, 10)
    text = AutoTokenizer.from_pretrained(tmp_path / "hf").decode(greedy, skip_special_tokens=True)
    assert STOP in text
    if is_told:
        assert found.text == text[: text.index(STOP)]
        assert found.finished.finish_reason == "stop"
    else:
        assert found.text.startswith(text[: text.index(STOP) + len(STOP)])
