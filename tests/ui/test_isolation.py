"""Two people at once: neither sees anything of the other, and what they uploaded goes with them."""

import secrets

import httpx
import pytest
from playwright.async_api import Browser, expect

from services.ui.chat_tab import shipped_scans
from tests.gateway.media.image_files import noise, saved
from tests.modeling.medical_images.dicom_files import ct
from tests.support.browser import needs_browser
from tests.support.stack import MODEL
from tests.ui.chat_page import ChatPage, payload
from tests.ui.page_stack import PageStack
from tests.ui.test_medical_images import FRAMES

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def test_nobody_sees_the_images_of_another(
    chat: ChatPage, browser: Browser, platform: PageStack
):
    await chat.upload(
        payload("mine.png", "image/png", saved(noise(60, 60, 3), "PNG")),
        payload("mine.dcm", "application/dicom", ct(FRAMES + 3)),
    )
    await chat.ask_fully("a secret question [[n=3]]", "zq0002")
    pictures = [
        await each.get_attribute("src") for each in await chat.page.locator("#chat img").all()
    ]
    uploads = [
        f"{platform.url}/gradio_api/file={file}"
        for name in ("mine.png", "mine.dcm")
        for file in platform.uploaded(name)
    ]
    assert len(pictures) == len(uploads) == 2
    urls = [url for url in (*pictures, *uploads) if url]
    assert [(await chat.page.request.get(url)).status for url in urls] == [200] * 4

    async with ChatPage.opened(browser, platform.url, MODEL) as other:
        assert [(await other.page.request.get(url)).status for url in urls] == [404] * 4
        await expect(other.asked).to_have_count(0)
        assert "secret" not in await other.page.content()
        await other.ask_fully("[[n=4]]", "zq0003")
        await expect(other.answers).to_have_count(1)

    await expect(chat.answers).to_have_count(1)


async def test_one_session_cannot_follow_or_stop_the_events_of_another(
    chat: ChatPage, browser: Browser, platform: PageStack
):
    """The name of a page stands in addresses; it is of use to the session that has it."""
    seen: list[str] = []
    chat.page.on("request", lambda asked: seen.append(asked.url))
    await chat.ask("[[n=60 d=50]]")
    await expect(chat.answers.last).to_contain_text("zq0003")
    stream = next(url for url in seen if "/queue/data" in url)
    page = stream.partition("session_hash=")[2].partition("&")[0]
    api = f"{platform.url}/gradio_api"

    async with ChatPage.opened(browser, platform.url, MODEL) as other:
        request = other.page.request
        answers = [
            await request.get(stream),
            await request.get(f"{api}/heartbeat/{page}"),
            await request.post(f"{api}/cancel", data={"session_hash": page, "fn_index": 0,
                                                      "event_id": "x"}),
            await request.post(f"{api}/queue/join", data={"session_hash": page, "fn_index": 0,
                                                          "data": []}),
        ]  # fmt: skip
        assert [answer.status for answer in answers] == [404] * 4

    await expect(chat.answers.last).to_contain_text("zq0059")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/dev/zero", "http://127.0.0.1:1/a.png", "", None, 7, ["/etc/passwd"]]
)
@pytest.mark.parametrize("shape", ["with meta", "bare", "nested", "event"])
async def test_only_ones_own_uploads_can_be_named(shape: str, path: object, platform: PageStack):
    page = secrets.token_hex(6)
    file: dict[str, object] = {"path": path}
    if shape == "with meta":
        file |= {"meta": {"_type": "gradio.FileData"}}
    value = {"text": "x", "files": [file]} if shape == "nested" else file
    body = {"session_hash": page, "fn_index": 0, "data": [value]}
    if shape == "event":
        body = {"session_hash": page, "fn_index": 0, "data": [], "event_data": file}

    async with httpx.AsyncClient(base_url=platform.url) as http:
        await http.get("/")  # which begins a session
        answer = await http.post("/gradio_api/queue/join", json=body)

    assert answer.status_code == 403
    assert answer.json() == {"detail": "that file was not uploaded here"}


async def test_the_upload_of_another_cannot_be_named(chat: ChatPage, platform: PageStack):
    await chat.upload(payload("theirs.png", "image/png", saved(noise(60, 60, 9), "PNG")))
    [file] = platform.uploaded("theirs.png")
    body = {"session_hash": secrets.token_hex(6), "fn_index": 0, "data": [{"path": str(file)}]}

    async with httpx.AsyncClient(base_url=platform.url) as http:
        await http.get("/")
        joined = await http.post("/gradio_api/queue/join", json=body)
        read = await http.get(f"/gradio_api/file={file}")

    assert (joined.status_code, read.status_code) == (403, 404)


async def test_the_end_of_a_session_takes_no_drawn_scan_along(
    browser: Browser, platform: PageStack
):
    """The same bytes lie once, whoever has them."""
    scan, _ = shipped_scans()[0]
    async with ChatPage.opened(browser, platform.url, MODEL) as chat:
        await chat.upload(scan)
        await chat.ask_fully("[[n=3]]", "zq0002")
        await chat.button("New conversation").click()
        await expect(chat.asked).to_have_count(0)

    async with ChatPage.opened(browser, platform.url, MODEL) as chat:
        for picture in await chat.page.locator("#chat .examples img, #chat .example img").all():
            assert await picture.evaluate("each => each.complete && each.naturalWidth > 0")
    assert platform.uploaded(scan.name)
