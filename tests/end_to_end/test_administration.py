"""Models loaded and unloaded while `galen up` serves; who may order it, and how it is told.

Also what a bad checkpoint does to it: nothing, but for one line. The bad ones: `test_joining.py`.
"""

import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from modeling.tiny import make_tiny_llava
from tests.end_to_end.administered import LONG_ANSWER, LONGER, Running, administered_up
from tests.end_to_end.launched import galen
from tests.end_to_end.test_joining import BAD_MODELS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

# The same check of every kind, by a worker that joins: test_joining.py.
ALWAYS = ("cut short", "not finite", "ranks", "too large", "too long")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("sound") / "tiny")


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with administered_up() as running:
        yield running


# ----------------------------------------------------------------------------------- the key


def test_access_is_for_its_user_alone(running: Running) -> None:
    [file] = running.temporary.glob("galen-up-*/admin.json")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic abc"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/workers"),
        ("GET", "/admin/hosts"),
        ("POST", "/admin/workers/w/drain"),
        ("POST", "/admin/models"),
        ("DELETE", "/admin/models/one"),
    ],
)
def test_nobody_gets_in_without_the_key(
    running: Running, method: str, path: str, header: str | None
) -> None:
    headers = {"authorization": header} if header else {}
    answer = httpx.request(method, f"{running.url}{path}", headers=headers)

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "admin_forbidden"
    assert running.state_of("one") == "ready"


def test_unknown_worker_model_and_path_are_refused_by_name(running: Running) -> None:
    cordon = running.http.post(f"{running.url}/admin/workers/nobody/cordon")
    unload = running.http.delete(f"{running.url}/admin/models/nothing")
    load = running.http.post(f"{running.url}/admin/models", json={"path": "/nowhere"})
    again = running.http.post(f"{running.url}/admin/models", json={"engine": "fake", "id": "one"})

    codes = [(a.status_code, a.json()["error"]["code"]) for a in (cordon, unload, load, again)]
    assert codes == [
        (404, "worker_not_found"),
        (404, "model_not_found"),
        (409, "model_load_refused"),
        (409, "model_load_refused"),
    ]
    assert "/nowhere is no directory" in load.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "path"),
        ({"path": "relative"}, "path"),
        ({"path": "/a", "workers": 0}, "workers"),
        ({"path": "/a", "engin": "fake"}, "engin"),
        ({"engine": "fake"}, "id"),
        ({"engine": "fake", "id": "two words"}, "id"),
        ({"engine": "fake", "id": "a", "path": "/a"}, "path"),
        ({"path": "/a", "host": "no-such"}, "host"),
    ],
)
def test_bad_body_names_its_parameter(running: Running, body: dict, param: str) -> None:
    answer = running.http.post(f"{running.url}/admin/models", json=body)

    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["param"] == param


def test_command_says_in_one_line_what_is_wrong(running: Running) -> None:
    done = running.command("models", "load", "/nowhere")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "galen: /nowhere is no directory: give a checkpoint in Hugging Face layout "
        "(model_load_refused, HTTP 409)\n"
    )


def test_commands_list_models_and_workers(running: Running) -> None:
    models = running.command("models", "list").stdout.splitlines()
    workers = running.command("workers", "list").stdout.splitlines()

    assert [line.split()[:3] for line in models if line[:4] in ("one ", "two ")] == [
        ["one", "fake", "ready"],
        ["two", "fake", "ready"],
    ]
    ids = [*running.worker_ids("one"), *running.worker_ids("two")]
    assert {line.split()[0] for line in workers[1:]} >= set(ids)


def test_worker_is_named_by_an_unambiguous_beginning(running: Running) -> None:
    done = running.command("workers", "cordon", "worker-")

    assert (done.returncode, done.stdout) == (1, "")
    first, *names = done.stderr.splitlines()
    assert first == "galen: more than one worker is called 'worker-'; there are:"
    assert {name.strip() for name in names} >= set(running.worker_ids("one"))
    assert running.state_of("one") == "ready"


def test_wrong_key_is_one_line(running: Running) -> None:
    done = running.command("workers", "list", "--url", running.url, "--admin-key", "wrong")

    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "admin_forbidden" in line


@pytest.mark.parametrize("end", ["", "/", "/v1/"])
def test_address_may_be_written_without_its_version(running: Running, end: str) -> None:
    done = running.command("models", "list", "--url", running.url.removesuffix("/v1") + end)

    assert done.returncode == 0, done.stderr
    assert "one " in done.stdout


def test_command_without_a_launcher_says_so(tmp_path: Path) -> None:
    done = galen("workers", "list", variables={"TMPDIR": str(tmp_path)})

    assert done.returncode == 1
    assert "no `galen up` of yours was found" in done.stderr


# ------------------------------------------------------------------------- load and unload


def test_host_says_what_it_has(running: Running) -> None:
    [host] = running.http.get(f"{running.url}/admin/hosts").json()["data"]

    assert host["total_memory_bytes"] == psutil.virtual_memory().total
    assert {model["id"] for model in host["models"]} >= {"one", "two"}


def test_model_is_loaded_and_unloaded_while_another_streams(running: Running) -> None:
    client = running.begin_streaming("one")
    running.load("extra")
    assert running.ended(running.begin("extra", "[[n=2]]"))[:2] == (0, "zq0000 zq0001 \n")
    done = running.command("models", "unload", "extra")
    assert done.returncode == 0, done.stderr
    assert running.state_of("extra") == "404"

    code, rest, _ = running.ended(client)
    assert (code, "zq0000 " + rest) == (0, LONG_ANSWER + "\n")
    running.up.line_with("extra was unloaded")
    wait_until(lambda: "extra" not in running.command("models", "list").stdout, "its end", 10)


def test_unloading_lets_what_runs_finish_and_ends_what_waits(running: Running) -> None:
    running.load("brief")
    streaming = running.begin_streaming("brief", LONGER)
    waiting = running.begin("brief")  # the one slot is taken
    metric = 'waiting_requests{lane="interactive",model="brief"} 1.0'
    wait_until(
        lambda: metric in running.http.get(f"{running.url[:-3]}/metrics").text, "the queue", 5
    )
    answer = running.http.delete(f"{running.url}/admin/models/brief")
    told_at = time.monotonic()

    assert "1 waiting request was ended" in answer.json()["note"]
    assert running.state_of("brief") == "404"
    code, _, said = running.ended(waiting)
    assert time.monotonic() - told_at < 1.5
    assert (code, "model_unloaded" in said) == (1, True)
    code, rest, said = running.ended(streaming)
    assert (code, "zq0000 " + rest) == (0, LONG_ANSWER + "\n"), said


def test_what_does_not_finish_in_time_ends_with_a_clear_error(running: Running) -> None:
    running.load("hasty")
    client = running.begin_streaming("hasty")
    running.http.request("DELETE", f"{running.url}/admin/models/hasty", json={"timeout_s": 0.2})
    code, _, said = running.ended(client)

    assert code == 1
    assert "was unloaded before the answer was complete" in said
    assert running.ended(running.begin("one", "[[n=1]]"))[0] == 0


def test_model_that_fails_to_load_leaves_the_others_alone(
    running: Running, sound: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(sound, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("no JSON", encoding="utf-8")
    done = running.command("models", "load", str(broken))

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("galen: broken failed: worker ")
    assert f"{broken} does not load" in line  # the worker's own reason, not its exit code alone
    assert running.answers("one")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in ALWAYS else pytest.mark.long) for kind in BAD_MODELS],
)
def test_bad_model_is_refused_in_one_line_within_2_s_and_the_others_serve_on(
    running: Running, sound: Path, tmp_path: Path, kind: str
) -> None:
    bad = BAD_MODELS[kind]
    path = shutil.copytree(sound, tmp_path / "bad")
    bad.spoil(path)
    began = time.monotonic()
    done = running.command_anew("models", "load", str(path), *bad.options)
    took_s = time.monotonic() - began

    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert re.search(bad.said, line)
    assert line.endswith("(model_load_refused, HTTP 409)")
    assert took_s < 2.0
    assert "bad" not in running.hosted()  # no worker was started
    assert running.answers("one")


@pytest.mark.parametrize(
    "kind",
    [
        *("cut short", "ranks"),
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("too large", "too long")),
    ],
)
def test_bad_model_ends_the_start_of_everything_in_one_line(
    sound: Path, short_folder: Path, kind: str
) -> None:
    bad = BAD_MODELS[kind]
    path = shutil.copytree(sound, short_folder / "bad")
    bad.spoil(path)
    done = galen(
        *("up", "--no-ask", "--no-ui", "--port", "0", "--model", str(path), *bad.options),
        variables={"TMPDIR": str(short_folder)},
    )

    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert re.search(bad.said, line)
    assert not list(short_folder.glob("galen-*"))


@pytest.mark.parametrize("field", ["path", "adapters_dir"])
def test_name_that_no_file_system_takes_is_refused(
    running: Running, sound: Path, field: str
) -> None:
    body = {"path": str(sound), "id": "x", field: f"/{'a' * 300}"}
    answer = running.http.post(f"{running.url}/admin/models", json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_load_refused")
    assert "the order failed" not in answer.json()["error"]["message"]
    assert running.answers("one")
    assert {"one", "two"} <= running.hosted()


def test_real_checkpoint_is_loaded_beside_the_fake_ones(running: Running, sound: Path) -> None:
    done = running.command("models", "load", f"real={sound}")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("real: transformers engine, ")
    code, answer, said = running.ended(running.begin("real", "Is it clear?"))
    assert (code, bool(answer.strip())) == (0, True), said
    assert running.command("models", "unload", "real").returncode == 0
