"""DICOM and NIfTI in the page: what can be chosen of them, and that the picture follows."""

import hashlib

import numpy as np
import pytest
from playwright.async_api import expect

from tests.modeling.medical_images.dicom_files import ct
from tests.modeling.medical_images.nifti_files import nifti
from tests.support.browser import needs_browser
from tests.support.waiting import eventually
from tests.ui.chat_page import ChatPage, payload

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SLOPE = np.linspace(-1000, 1000, 64)
FRAMES = np.stack([np.tile(SLOPE, (64, 1)), np.tile(SLOPE[:, None], (1, 64)), np.eye(64) * 500])


async def picture(chat: ChatPage) -> str:
    """Return the hash of what the model sees, as the browser has it."""
    source = await chat.seen.get_attribute("src")
    assert source is not None
    answer = await chat.page.request.get(source)
    assert answer.status == 200
    return hashlib.sha256(await answer.body()).hexdigest()


async def another_picture(chat: ChatPage, *known: str) -> str:
    """Wait until the model sees something else, and return its hash."""
    found: list[str] = []

    async def is_new() -> bool:
        found[:] = [await picture(chat)]
        return found[0] not in known

    await eventually(is_new, 10, "another picture")
    return found[0]


async def test_the_picture_follows_frame_and_window(chat: ChatPage):
    await chat.upload(payload("three.dcm", "application/dicom", ct(FRAMES)))
    await expect(chat.facts).to_contain_text("modality: CT")
    first = await picture(chat)

    frame = chat.page.get_by_label("range slider for Frame (of 3)")
    await frame.focus()
    await frame.press("ArrowRight")
    second = await another_picture(chat, first)

    await chat.choose("Window", "lung")
    await expect(chat.facts).to_contain_text("lung")
    third = await another_picture(chat, first, second)

    await chat.choose("Window", "custom")
    await expect(chat.facts).to_contain_text("window: values")
    width = chat.page.get_by_label("Window width")
    await width.fill("150")
    await width.press("Enter")
    await expect(chat.facts).to_contain_text("150")
    await another_picture(chat, first, second, third)

    await chat.ask_fully("[[n=3]]", "zq0002")
    await expect(chat.page.locator("#chat .user img")).to_be_visible()


async def test_of_quick_keys_the_last_frame_is_the_one_that_is_shown(chat: ChatPage):
    ramps = np.stack([np.tile(SLOPE * share, (64, 1)) for share in np.linspace(0.2, 1, 8)])
    await chat.upload(payload("eight.dcm", "application/dicom", ct(ramps)))
    await expect(chat.facts).to_contain_text("frame 1 of 8")

    frame = chat.page.get_by_label("range slider for Frame (of 8)")
    await frame.focus()
    for _ in range(4):
        await frame.press("ArrowRight", delay=30)

    await expect(chat.facts).to_contain_text("frame 5 of 8")
    await expect(frame).to_have_value("5")


async def test_a_volume_is_cut_in_the_plane_that_is_chosen(chat: ChatPage):
    volume = np.arange(30 * 32 * 34, dtype=np.int16).reshape(30, 32, 34)
    await chat.upload(payload("head.nii", "application/octet-stream", nifti(volume)))
    await expect(chat.facts).to_contain_text("format: NIFTI")
    axial = await picture(chat)

    await chat.choose("Plane", "coronal")

    await expect(chat.page.get_by_label("range slider for Slice (of 32)")).to_be_visible()
    await another_picture(chat, axial)


async def test_of_several_images_each_can_be_looked_at(chat: ChatPage):
    files = [
        payload(f"{index}.dcm", "application/dicom", ct(FRAMES[index] + index)) for index in (0, 1)
    ]
    await chat.upload(*files)
    await expect(chat.page.get_by_label("2. 1.dcm")).to_be_checked()
    second = await picture(chat)

    await chat.page.get_by_label("1. 0.dcm").check()

    await another_picture(chat, second)
    await chat.ask_fully("[[n=3]]", "zq0002")
    await expect(chat.page.locator("#chat .user img")).to_have_count(2)


async def test_a_refused_image_says_why(chat: ChatPage):
    await chat.page.set_input_files(
        "#question input[type=file]", payload("broken.png", "image/png", b"\x89PNG\r\n\x1a\nno")
    )

    await expect(chat.facts).to_contain_text("image")
    await expect(chat.seen).to_have_count(0)
    await chat.ask("What is this?")
    await expect(chat.answers).to_contain_text("image")
    await expect(chat.answers.locator("strong")).to_be_visible()
