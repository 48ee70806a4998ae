"""F02 with the transformers engine: an answer goes on, to the character, on another worker."""

from pathlib import Path

from modeling.tiny import make_tiny_llava
from tests.support.interruption import assert_answers_survive_a_kill, real_stack


async def test_answers_of_a_real_engine_go_on_where_a_kill_cut_them(tmp_path: Path) -> None:
    checkpoint = make_tiny_llava(tmp_path / "tiny-llava")
    async with real_stack(tmp_path, "transformers", checkpoint) as stack:
        await assert_answers_survive_a_kill(stack)
