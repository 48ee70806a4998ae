"""DICOM through the real gateway, Redis and a worker: it is answered, and no tag comes with it."""

import base64
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.end_to_end.chat import text_part
from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.stack import RunningStack
from tests.end_to_end.test_patient_data import dump_of, output_of, values_in
from tests.modeling.medical_images.canary import canary_file
from tests.modeling.medical_images.dicom_files import dicom

pytestmark = pytest.mark.e2e


def url_of(file: bytes) -> str:
    return f"data:application/dicom;base64,{base64.b64encode(file).decode()}"


def question(file: bytes, **image: Any) -> Any:
    part = {"type": "image_url", "image_url": {"url": url_of(file), **image}}
    return [{"role": "user", "content": [text_part("What is seen? [[n=3]]"), part]}]


def store_of(stack: RunningStack) -> dict[str, bytes]:
    """The database, with its journal, and every file that is kept."""
    return {
        str(path.relative_to(stack.store_folder)): path.read_bytes()
        for path in stack.store_folder.rglob("*")
        if path.is_file()
    }


def test_a_dicom_file_is_answered_and_its_words_are_nowhere(narrow_stack: RunningStack) -> None:
    with narrow_stack.client() as client:
        ask: Any = client.chat.completions.with_raw_response.create
        answer = ask(model=FAKE_MODEL, messages=question(canary_file()))
        with pytest.raises(openai.BadRequestError) as caught:
            ask(model=FAKE_MODEL, messages=question(canary_file(BurnedInAnnotation="YES")))
        with pytest.raises(openai.BadRequestError):
            ask(model=FAKE_MODEL, messages=question(canary_file()[:-50]))
        streamed = ask(model=FAKE_MODEL, messages=question(canary_file()), stream=True)
        streamed_text = "".join(streamed.iter_lines()) if hasattr(streamed, "iter_lines") else ""
    preview = httpx.post(
        f"{narrow_stack.base_url}/v1/galen/preview",
        json={"model": FAKE_MODEL, "image_url": {"url": url_of(canary_file())}},
    )

    assert caught.value.code == "phi_burned_in"
    assert answer.headers["x-galen-preprocess"].startswith("default@1/")
    assert streamed.headers["x-galen-preprocess"] == answer.headers["x-galen-preprocess"]
    assert preview.status_code == 200
    places = {
        **values_in(narrow_stack.redis),
        **output_of(narrow_stack),
        **store_of(narrow_stack),
        "dump": dump_of(narrow_stack),
        "answer": answer.text.encode() + repr(answer.headers).encode(),
        "stream": streamed_text.encode(),
        "error": caught.value.response.content,
        "preview": preview.content + repr(preview.headers).encode(),
    }
    assert "galen.db" in places
    assert [place for place, held in places.items() if b"Canary-Dicom" in held] == []


def test_an_uploaded_dicom_file_is_in_its_own_file_alone_and_goes_with_it(
    fake_stack: RunningStack,
) -> None:
    with fake_stack.client() as client:
        file = client.files.create(file=("film.dcm", canary_file()), purpose="vision")
        part = {"type": "image_url", "image_url": {"url": file.id}}
        messages: Any = [{"role": "user", "content": [text_part("What? [[n=2]]"), part]}]
        client.chat.completions.create(model=FAKE_MODEL, messages=messages)
        kept = store_of(fake_stack)
        client.files.delete(file.id)

    assert [place for place, held in kept.items() if b"Canary-Dicom" in held] == [
        f"files/files/{file.id}"
    ]
    places = {
        **store_of(fake_stack),
        **values_in(fake_stack.redis),
        **output_of(fake_stack),
        "described": file.to_json().encode(),
    }
    assert [place for place, held in places.items() if b"Canary-Dicom" in held] == []


def test_a_preview_shows_the_models_view_and_says_how(fake_stack: RunningStack) -> None:
    pixels = np.arange(-1000, -1000 + 80 * 40, dtype=np.int16).reshape(40, 80)
    file = dicom(pixels, Modality="CT", RescaleSlope=1, RescaleIntercept=0)
    image = {"url": url_of(file), "preprocess": {"window": "bone"}}

    found = httpx.post(
        f"{fake_stack.base_url}/v1/galen/preview", json={"model": FAKE_MODEL, "image_url": image}
    ).json()

    assert (found["width"], found["height"]) == (336, 336)  # the fake engine's recipe
    assert found["facts"]["modality"] == "CT"
    assert (found["facts"]["window"], found["facts"]["center"]) == ("bone", 400)
    assert base64.b64decode(found["image"].partition(",")[2]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("preprocess", "field"),
    [
        ({"window": "nonsense"}, "preprocess.window"),
        ({"recipe": "nonsense"}, "preprocess.recipe"),
        ({"frame": 2}, "preprocess.frame"),
        ({"slice": 1}, "preprocess.slice"),
        ({"window": {"center": 0, "width": 0}}, "preprocess.window"),
    ],
)
def test_a_choice_that_does_not_fit_names_its_parameter(
    fake_stack: RunningStack, preprocess: dict[str, Any], field: str
) -> None:
    with fake_stack.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=FAKE_MODEL, messages=question(canary_file(), preprocess=preprocess)
        )

    assert caught.value.code == "invalid_value"
    assert caught.value.param == f"messages[0].content[1].image_url.{field}"
