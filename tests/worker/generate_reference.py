"""What plain Hugging Face `generate` says, one request at a time: the measure of every engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from services.protocol.messages import TextPart
from services.worker.engines.base import EngineJob


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """More would wait for one another beside an engine that has the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


class Reference:
    """A checkpoint in fp32 on the CPU, with its own preprocessing in PIL."""

    def __init__(self, path: Path) -> None:
        model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self._model: Any = model.eval()  # its classes are mixins with protocols for self
        self._processor: Any = AutoProcessor.from_pretrained(path, backend="pil")

    def inputs(self, job: EngineJob) -> Any:
        """The prompt of a request, as the checkpoint's own chat template makes it."""
        images = iter(job.images)
        conversation = [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": part.text}
                    if isinstance(part, TextPart)
                    else {"type": "image", "image": next(images)}
                    for part in message.parts
                ],
            }
            for message in job.request.messages
        ]
        return self._processor.apply_chat_template(
            conversation,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )

    def generate(self, job: EngineJob, **options: Any) -> list[int]:
        """Greedy token ids of the answer, its end of sequence included."""
        inputs = self.inputs(job)
        with _on_one_thread():
            output = self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=job.request.sampling.max_tokens,
                **options,
            )
        return output[0, inputs["input_ids"].shape[1] :].tolist()

    def log_probabilities(self, job: EngineJob, token_ids: list[int]) -> torch.Tensor:
        """For each token of an answer, of all tokens at its place: [answer, vocabulary]."""
        inputs = self.inputs(job)
        ids = torch.cat([inputs["input_ids"], torch.tensor([token_ids])], dim=1)
        pixels = {k: v for k, v in inputs.items() if k == "pixel_values"}
        with _on_one_thread():
            output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels)
        return output.logits[0, inputs["input_ids"].shape[1] - 1 : -1].log_softmax(-1)

    def text_of(self, token_ids: list[int]) -> str:
        """An answer as its tokenizer decodes it."""
        return self._processor.tokenizer.decode(token_ids, skip_special_tokens=True)


def generate(path: Path, jobs: list[EngineJob], **options: Any) -> list[list[int]]:
    """Each job by itself through the model's own `generate`."""
    reference = Reference(path)
    return [reference.generate(job, **options) for job in jobs]
