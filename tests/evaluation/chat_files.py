"""Small sets of the medical chat's questions, with images, and an endpoint that answers them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.responses import Response

from evaluation.chat_items import DOMAINS
from tests.support.stub_endpoint import completion, text_of


def chat_record(number: int, *domains: str, **changes: Any) -> dict[str, Any]:
    """Return a question."""
    flags = dict.fromkeys(DOMAINS, False)
    return {
        "question_id": number,
        "image": f"{number // 2}.jpg",
        "text": f"What is seen {number}?\n<image>",
        "gpt4_answer": "A mass.",
        "fig_caption": "A slice.",
        "in_text_mention": [{"tokens": "Figure 1 shows a mass."}],
        "domain": flags | dict.fromkeys(domains, True),
        "type": "conversation" if number % 3 else "detailed_description",
    } | changes


def write_chat(folder: Path, records: list[dict[str, Any]]) -> Path:
    """Write the file of the questions, and images beside it; returns the file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in {record["image"] for record in records}:
        pixels = np.random.default_rng(len(name)).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    file = folder / "qa50.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return file


def is_for_judge(body: Mapping[str, Any]) -> bool:
    """Whether a request is one to the judge."""
    return "[Assistant 1]" in text_of(body)


def fair(body: Mapping[str, Any], number: int) -> Response:
    """Answer "Said NUMBER."; as the judge give the model's answers 5 and the reference 10."""
    asked = text_of(body)
    if not is_for_judge(body):
        return completion(f"Said {asked.split()[-1].rstrip('?')}.")
    is_first = asked.index("A mass.\n[End") < asked.index("Said ")
    return completion("10 5\nWell." if is_first else "5 10\nWell.")
