"""A v1.0 checkpoint that says `###` after a few tokens, as the released one does when it ends."""

from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor

from tests.modeling import original_layouts as originals
from tests.modeling.test_converted_logits import PROMPTS, V1, clip_images

STOP = "###"
PROMPT = PROMPTS["image first"]
NUM_BEFORE = 3


def write_v1_that_stops(folder: Path) -> Path:
    """Write v1.0 whose greedy answer to PROMPT has at least NUM_BEFORE tokens and then the stop.

    The output layer's rows of `###` and of the token that came there are exchanged.
    """
    before = V1(originals.write_v1(folder.with_name(f"{folder.name}-before")), clip_images)
    greedy = before.greedy(PROMPT, 12)
    place = next(i for i in range(NUM_BEFORE, 12) if greedy[i] not in greedy[:i])
    tokenizer = folder.with_name(f"{folder.name}-before") / "tokenizer.model"
    stop_id = SentencePieceProcessor(model_file=str(tokenizer)).piece_to_id(f"▁{STOP}")
    assert stop_id not in {0, *greedy}
    tensors = originals.v1_tensors()
    rows = [greedy[place], stop_id]
    head = tensors["lm_head.weight"]
    head[rows] = head[torch.tensor(rows[::-1])].clone()
    return originals.write_v1(folder, tensors=tensors)
