"""Small sets of questions in LLaVA-Med's format, with images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Record = dict[str, Any]


def question(
    name: int | str, text: str, answer: str, *, image: str | None = "0.png", closed: bool = False
) -> Record:
    """Return a record."""
    shown = {} if image is None else {"image": image}
    marker = "" if image is None else "\n<image>"
    return {
        "id": name,
        **shown,
        "answer_type": "CLOSED" if closed else "OPEN",
        "question_type": "PRES" if closed else "ORGAN",
        "conversations": [
            {"from": "human", "value": f"{text}{marker}"},
            {"from": "gpt", "value": answer},
        ],
    }


def write_set(folder: Path, num_images: int = 4, each: int = 5) -> Path:
    """Write `test.json` and `images`: open and closed questions in turn; returns the folder."""
    (folder / "images").mkdir(parents=True)
    records: list[Record] = []
    for image in range(num_images):
        pixels = np.random.default_rng(image).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{image}.png")
        for number in range(each):
            closed = number % 2 == 1
            records.append(
                question(
                    len(records),
                    f"Question {len(records)}?",
                    ("yes", "no")[image % 2] if closed else "left lung",
                    image=f"{image}.png",
                    closed=closed,
                )
            )
    # Questions of one image need not stand together.
    records = records[::2] + records[1::2]
    (folder / "test.json").write_text(json.dumps(records), "utf-8")
    return folder


def write_answers(file: Path, answers: dict[str, str]) -> Path:
    """Write answers as LLaVA-Med's scripts do."""
    lines = [json.dumps({"question_id": k, "text": v}) + "\n" for k, v in answers.items()]
    file.write_text("".join(lines), "utf-8")
    return file
