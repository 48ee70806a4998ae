"""What a plan needs to know of the data: counted by the audit, or assumed of the published sets.

What does *not* live here: the counting (`audit.py`).
"""

import math
from dataclasses import dataclass

from modeling.model_shape import ModelShape
from training.config import TrainConfig

# Sizes of LLaVA-Med's files and its number of records (data/ of its repository): alignment 500k,
# 341.5 MiB; instruct 60k with inline mentions, 83.6 MiB. Four bytes a token is the usual rule for
# English (OpenAI's tokenizer guide); the JSON around the text is counted as text, so it is a bound.
_BYTES_PER_TOKEN = 4
_MIB = 1 << 20
_ALIGNMENT = (500_000, 341.5 * _MIB / 500_000 / _BYTES_PER_TOKEN)
_INSTRUCT = (60_000, 83.6 * _MIB / 60_000 / _BYTES_PER_TOKEN)
# Train splits as LLaVA-Med converts them. A question and a short answer of these sets are about
# 20 tokens; the rest is room for the system text of v1.0's template (our estimate).
_VQA_TEXT_TOKENS = 64
_PUBLISHED: dict[str, tuple[int, float]] = {
    "stage1_align": _ALIGNMENT,
    "stage2_instruct": _INSTRUCT,
    "stage2_lora": _INSTRUCT,
    "stage2_qlora": _INSTRUCT,
    "vqa_rad": (3064, _VQA_TEXT_TOKENS),
    "vqa_slake": (4919, _VQA_TEXT_TOKENS),
    "vqa_pathvqa": (19_755, _VQA_TEXT_TOKENS),
}
_ANSWER_SHARE = 0.5  # of the text, where nobody counted; it decides the output layer's work only


@dataclass(frozen=True, slots=True)
class DataStatistics:
    """Of all files of a recipe together.

    Args:
        mean_tokens: of one example, image tokens included, after truncation.
        mean_answer_tokens: that carry loss.
        images_per_example: 0: text only.
        examples_per_image: mean number of examples that show one and the same image.
        source: where the numbers are from, in words.
    """

    num_examples: int
    mean_tokens: float
    mean_answer_tokens: float
    images_per_example: float = 1.0
    examples_per_image: float = 1.0
    source: str = "counted"


def published_statistics(config: TrainConfig, shape: ModelShape) -> DataStatistics | None:
    """Return what is assumed of the data that a recipe is named after; None for other names."""
    if config.name not in _PUBLISHED:
        return None
    num_examples, text = _PUBLISHED[config.name]
    tokens = min(config.data.max_length, math.ceil(text) + shape.image_tokens)
    return DataStatistics(
        num_examples,
        mean_tokens=tokens,
        mean_answer_tokens=_ANSWER_SHARE * max(0, tokens - shape.image_tokens),
        source="assumed of LLaVA-Med's published files, nothing was counted",
    )


def longest_statistics(config: TrainConfig, shape: ModelShape) -> DataStatistics:
    """Return the worst case of data that nobody counted: one example, as long as allowed."""
    tokens = config.data.max_length
    return DataStatistics(
        num_examples=0,
        mean_tokens=tokens,
        mean_answer_tokens=_ANSWER_SHARE * max(0, tokens - shape.image_tokens),
        source=f"assumed: all examples as long as data.max_length ({tokens}); not counted",
    )
