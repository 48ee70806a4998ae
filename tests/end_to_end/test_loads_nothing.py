"""Nothing that serves a request loads objects, and the decoder child opens nothing of its input's.

What the watch can see: every class that a pickle names (Python's own audit event), every call of
pickle's functions by their names, every use of marshal outside of imports, in the gateway, its
decoder children, the worker and its engine. What it cannot see: a parser of pickles in C that uses
none of these; `tests/contracts` looks for such modules in the source.
"""

import asyncio
import base64
import site
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.bad_requests import DICOM_ROWS, MODEL
from tests.end_to_end.chat import text_part
from tests.gateway.media.image_files import noise, saved
from tests.modeling.medical_images.shipped import shipped
from tests.support.program import ROOT, Program
from tests.support.stack import Stack
from tests.support.waiting import wait_until
from tests.support.watched import DECODER, Watch

pytestmark = pytest.mark.e2e

LIBRARIES = tuple(
    str(Path(place).resolve())
    for place in (sys.prefix, sys.base_prefix, *site.getsitepackages(), ROOT)
)
OWN = ("/dev/null", "/proc/self/statm", "__editable__.")
"""The last is what an editable installation has on its path."""
IPV6 = ("socket.__new__", "socket.bind")
"""urllib3, which pydicom brings, tries whether there is IPv6; nothing is sent."""
PROGRAM = """
import pickle, marshal, collections
pickle.loads(pickle.dumps([1]))
pickle.loads(pickle.dumps(collections.OrderedDict()))
marshal.loads(marshal.dumps([1]))
"""


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_what_is_loaded_is_noticed(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "loads_much.py").write_text(PROGRAM)
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    program = Program("loads", (str(watch.script), "-m", "loads_much"), environment, tmp_path / "l")
    program.start()
    wait_until(lambda: program.exit_code == 0, "its end", 20)

    reports = [line.split()[1] for line in watch.reports()]
    assert watch.started() == {"loads_much"}
    assert reports == ["pickle.loads", "pickle.loads", "pickle.find_class", "marshal.loads"]


def url_of(kind: str, file: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(file).decode()}"


def question(url: str) -> dict[str, Any]:
    parts = [text_part("What is seen? [[n=3]]"), {"type": "image_url", "image_url": {"url": url}}]
    return {"model": MODEL, "messages": [{"role": "user", "content": parts}]}


async def test_no_process_loads_objects_or_opens_files(watch: Watch, tmp_path: Path) -> None:
    urls = [
        url_of("image/png", saved(noise(60, 60), "PNG")),
        url_of("image/tiff", saved(noise(60, 60), "TIFF")),
        url_of("application/dicom", shipped("CT_small.dcm")),
    ]
    stack = Stack(
        tmp_path,
        num_workers=1,
        settings={"GALEN_WORKER_MODEL_ID": MODEL},
        gateway_module=watch.module("services.gateway.main"),
        worker_module=watch.module("services.worker.main"),
    )
    async with stack, httpx.AsyncClient(timeout=30) as http:
        chat = f"http://127.0.0.1:{stack.port}/v1/chat/completions"
        answers = [await http.post(chat, json=question(url)) for url in urls]
        streamed = await http.post(chat, json={**question(urls[0]), "stream": True})
        headers = {"content-type": "application/json"}
        bad = [await http.post(chat, content=row.body, headers=headers) for row in DICOM_ROWS]
        reports = await asyncio.to_thread(watch.reports)

    assert [answer.status_code for answer in (*answers, streamed)] == [200] * 4
    assert {answer.status_code for answer in bad} == {400}
    assert watch.started() == {
        "services.gateway.main", DECODER, "services.worker.main", "services.worker.engine_process",
    }  # fmt: skip
    assert "\n".join(line for line in reports if not is_a_librarys_own_file(line)) == ""


def is_a_librarys_own_file(report: str) -> bool:
    """Whether a decoder child reports no more than an import, or the end of its own output."""
    _, what, *names = report.split(maxsplit=2)
    name = names[0].strip("'\"") if names else ""
    is_open_already = name.isdigit()  # a descriptor
    if what == "open":
        return is_open_already or name.startswith((*OWN, *LIBRARIES))
    return what in IPV6
