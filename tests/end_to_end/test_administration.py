"""Models loaded and unloaded, workers cordoned and drained, while `galen up` serves.

Also what a bad checkpoint does to it: nothing, but for one line. The bad ones: `test_joining.py`.
"""

import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from modeling.tiny import make_tiny_llava
from tests.end_to_end.launched import ROOT, LaunchedUp, galen
from tests.end_to_end.test_joining import BAD_MODELS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

LONG = "[[n=60 d=30]]"  # 1.8 s
LONGER = "[[n=60 d=120]]"  # 7 s: another client starts meanwhile, also on a busy machine
LONG_ANSWER = "".join(f"zq{token:04d} " for token in range(60))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("sound") / "tiny")


@dataclass
class Running:
    """A `galen up` and ways to talk to it."""

    up: LaunchedUp
    url: str
    temporary: Path
    http: httpx.Client

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return galen(*words, variables={"TMPDIR": str(self.temporary)})

    def state_of(self, model: str) -> str:
        answer = self.http.get(f"{self.url}/models/{model}")
        return answer.json()["state"] if answer.status_code == 200 else str(answer.status_code)

    def hosted(self) -> set[str]:
        [host] = self.http.get(f"{self.url}/admin/hosts").json()["data"]
        return {model["id"] for model in host["models"]}

    def answers(self, model: str) -> bool:
        messages = [{"role": "user", "content": "[[n=1]]"}]
        body = {"model": model, "messages": messages}
        answer = self.http.post(f"{self.url}/chat/completions", json=body)
        return answer.json()["choices"][0]["message"]["content"] == "zq0000 "

    def worker_ids(self, model: str) -> list[str]:
        listed = self.http.get(f"{self.url}/admin/workers").json()["data"]
        return [worker["id"] for worker in listed if worker["model"] == model]

    def load(self, name: str) -> None:
        done = self.command("models", "load", "--engine", "fake", "--name", name)
        assert done.returncode == 0, done.stderr
        assert f"{name} is ready" in done.stdout

    def begin(self, model: str, prompt: str = LONG) -> "subprocess.Popen[str]":
        """Ask without waiting for the answer."""
        asking = [sys.executable, "-m", "services.cli", "ask", "--url", self.url, "--model", model]
        pipe = subprocess.PIPE
        return subprocess.Popen([*asking, prompt], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)

    def begin_streaming(self, model: str, prompt: str = LONG) -> "subprocess.Popen[str]":
        client = self.begin(model, prompt)
        assert client.stdout is not None
        assert client.stdout.read(7) == "zq0000 "
        return client

    def ended(self, client: "subprocess.Popen[str]") -> tuple[int, str, str]:
        out, err = client.communicate(timeout=30)
        return client.returncode, out, err


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    temporary = Path(tempfile.mkdtemp(prefix="up-"))
    options = ("--engine", "fake", "--port", "0", "--no-ask", "--slots", "1")
    with LaunchedUp(temporary, *options, "--model", "one", "--model", "two") as up:
        url = up.url()
        found = galen("workers", "list", variables={"TMPDIR": str(temporary)})
        assert found.returncode == 0, found.stderr
        [file] = temporary.glob("galen-up-*/admin.json")
        key = httpx.Response(200, text=file.read_text(encoding="utf-8")).json()["key"]
        with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=30) as http:
            yield Running(up, url, temporary, http)
        assert up.end(signal.SIGINT, 6.0) == 0
    shutil.rmtree(temporary)


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


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_model_is_refused_in_one_line_within_2_s_and_the_others_serve_on(
    running: Running, sound: Path, tmp_path: Path, kind: str
) -> None:
    bad = BAD_MODELS[kind]
    path = shutil.copytree(sound, tmp_path / "bad")
    bad.spoil(path)
    began = time.monotonic()
    done = running.command("models", "load", str(path), *bad.options)
    took_s = time.monotonic() - began

    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert re.search(bad.said, line)
    assert line.endswith("(model_load_refused, HTTP 409)")
    assert took_s < 2.0
    assert "bad" not in running.hosted()  # no worker was started
    assert running.answers("one")


@pytest.mark.parametrize("kind", ["cut short", "ranks", "too large", "too long"])
def test_bad_model_ends_the_start_of_everything_in_one_line(
    sound: Path, tmp_path: Path, kind: str
) -> None:
    bad = BAD_MODELS[kind]
    path = shutil.copytree(sound, tmp_path / "bad")
    bad.spoil(path)
    done = galen(
        *("up", "--no-ask", "--port", "0", "--model", str(path), *bad.options),
        variables={"TMPDIR": str(tmp_path)},
    )

    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert re.search(bad.said, line)
    assert not list(tmp_path.glob("galen-*"))


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


# ------------------------------------------------------------------------ cordon and drain


def test_cordoned_worker_claims_nothing_until_it_may_again(running: Running) -> None:
    streaming = running.begin_streaming("two")
    assert running.command("workers", "cordon", running.worker_ids("two")[0]).returncode == 0
    wait_until(lambda: running.state_of("two") == "cordoned", "the cordon", 3)
    waiting = running.begin("two", "[[n=1]]")
    code, rest, _ = running.ended(streaming)  # what runs goes on

    assert (code, "zq0000 " + rest) == (0, LONG_ANSWER + "\n")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1.5)
    running.http.post(f"{running.url}/admin/workers/{running.worker_ids('two')[0]}/uncordon")
    assert running.ended(waiting)[:2] == (0, "zq0000 \n")


def test_engine_that_dies_cordoned_comes_back_cordoned(running: Running) -> None:
    [worker_id] = running.worker_ids("two")
    running.http.post(f"{running.url}/admin/workers/{worker_id}/cordon")
    wait_until(lambda: running.state_of("two") == "cordoned", "the cordon", 3)
    parent = next(p for p in running.up.family() if p.cmdline()[:1] == ["galen worker [two]"])
    parent.children()[0].kill()
    wait_until(lambda: running.worker_ids("two") not in ([], [worker_id]), "the next engine", 10)

    assert running.state_of("two") == "cordoned"
    running.http.post(f"{running.url}/admin/workers/{running.worker_ids('two')[0]}/uncordon")
    wait_until(lambda: running.state_of("two") == "ready", "the end of the cordon", 3)


def test_list_says_how_many_workers_of_a_layout_were_drained(running: Running) -> None:
    loading = ("models", "load", "--engine", "fake", "--name", "twice", "--workers", "2")
    assert "fake engine, workers: 2; set: --slots 1" in running.command(*loading).stdout
    wait_until(lambda: len(running.worker_ids("twice")) == 2, "both workers", 20)
    assert running.command("workers", "drain", running.worker_ids("twice")[0]).returncode == 0
    said = "workers: 2; set: --slots 1; 1 of 2 workers drained"
    wait_until(lambda: said in running.command("models", "list").stdout, "the truth", 10)
    running.command("models", "unload", "twice")


def test_drained_worker_finishes_and_is_not_started_again(running: Running) -> None:
    running.load("third")
    client = running.begin_streaming("third")
    [worker_id] = running.worker_ids("third")
    assert running.command("workers", "drain", worker_id, "--timeout", "20").returncode == 0
    code, rest, _ = running.ended(client)

    assert (code, "zq0000 " + rest) == (0, LONG_ANSWER + "\n")
    running.up.line_with("was drained; it is not started again")
    wait_until(lambda: running.worker_ids("third") == [], "the end of the worker", 5)
    running.load("third")  # it may be loaded again
    running.command("models", "unload", "third")
