"""`galen up` with real processes: it answers, and however it ends, it leaves nothing behind."""

import base64
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from modeling.tiny import make_tiny_llava
from services.launcher.demo_files import check_packages, demo_scan
from services.launcher.pasted_commands import curl_command
from services.launcher.terminal import CommandError
from tests.end_to_end.launched import ROOT, LaunchedUp, alive_after
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

END_LIMIT_S = 15.0  # after Ctrl-C; 5 s on a quiet machine (docs/operations.md)
FAKE = ("--engine", "fake", "--port", "0")


@pytest.fixture
def temporary(short_folder: Path) -> Path:
    return short_folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("up") / "tiny-llava")


def bash(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False
    )


def worker_that_answers(run_folder: Path) -> int:
    """Return the number of the only worker that holds a request."""
    with redis.Redis(
        unix_socket_path=str(run_folder / "redis.sock"), decode_responses=True
    ) as client:
        [key] = client.keys("galen:running:worker-*")
    return int(str(key).removeprefix("galen:running:worker-")[0])


def test_once_answers_and_leaves_cleanly(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--once", "--workers", "2") as up:
        up.line_with("zq0000 zq0001 ")
        family = up.family()
        code = up.end()

        assert code == 0
        assert "route=other" not in "".join(up.lines)
        assert any(line.startswith("worker 2 │ ") for line in up.lines)
        assert alive_after(family, 0) == []
        assert up.left_over() == []


def test_once_answers_about_a_real_image_with_a_real_model(
    temporary: Path, checkpoint: Path
) -> None:
    image = demo_scan().image
    options = ("--model", str(checkpoint), "--image", str(image), "--question", "Is it clear?")
    with LaunchedUp(temporary, "--port", "0", "--once", *options) as up:
        up.line_with("Is it clear?")
        code = up.end()

        assert code == 0, "\n".join(up.lines)
        finished = [line for line in up.lines if "/v1/chat/completions" in line]
        assert ["model=tiny-llava" in line and "status=200" in line for line in finished] == [True]


def test_the_demo_answers_its_scan_rightly(temporary: Path) -> None:
    scan = demo_scan()
    with LaunchedUp(temporary, "--port", "0", "--once") as up:
        up.line_with(scan.question)
        code = up.end()

        assert code == 0, "\n".join(up.lines)
        asked = next(at for at, line in enumerate(up.lines) if scan.question in line)
        assert up.lines[asked + 1 :][:2] == [scan.answer, f"(Drawn: {scan.answer})"]
        assert up.left_over() == []


def test_once_fails_where_the_answer_fails(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--once", "--question", "[[fail=0]]") as up:
        assert up.end() == 1
        assert up.lines[-1] == "galen: the fake engine was told to fail (internal_error, HTTP 500)"
        assert up.left_over() == []


def test_port_in_use_is_one_clear_line(temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with LaunchedUp(temporary, "--engine", "fake", "--port", str(port)) as up:
            assert up.end() == 1
            assert up.lines == [f"galen: port {port} is in use; choose another with --port"]


def test_dead_child_is_named_once(temporary: Path, checkpoint: Path) -> None:
    broken = shutil.copytree(checkpoint, temporary / "broken")
    (broken / "tokenizer.json").write_text("no JSON", encoding="utf-8")
    with LaunchedUp(temporary, "--port", "0", "--model", str(broken)) as up:
        assert up.end() == 1
        assert up.lines[-1] == "galen: worker ended with code 3; everything was ended"
        assert "".join(up.lines).count("engine.start.refused") == 1
        assert "Traceback" not in "".join(up.lines)
        assert up.left_over() == ["broken"]


def test_folder_without_a_checkpoint_is_one_clear_line(temporary: Path) -> None:
    empty = temporary / "empty"
    empty.mkdir()
    with LaunchedUp(temporary, "--port", "0", "--model", str(empty)) as up:
        assert up.end() == 1
        assert up.lines == [
            f"galen: {empty} has no config.json: not a checkpoint in Hugging Face layout"
        ]


def test_address_and_engine_come_from_the_environment(temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    variables = {"GALEN_GATEWAY_PORT": str(port), "GALEN_WORKER_ENGINE": "fake"}
    with LaunchedUp(temporary, "--no-ask", GALEN_WORKER_NAME="mine", **variables) as up:
        assert up.url() == f"http://127.0.0.1:{port}/v1"
        assert "GALEN_WORKER_NAME is ignored" in "".join(up.lines)


def test_missing_package_is_named_before_anything_starts() -> None:
    with pytest.raises(CommandError, match=r"needs no_such_package: pip install 'galen\[worker\]'"):
        check_packages(["json", "no_such_package"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_ends_everything_in_time(temporary: Path, number: signal.Signals) -> None:
    with LaunchedUp(temporary, *FAKE) as up:
        port = int(up.url().rpartition(":")[2].removesuffix("/v1"))
        family = up.family()
        code = up.end(number, END_LIMIT_S)

        assert code == 0
        assert len(family) >= 4  # redis, gateway, worker and its engine
        assert alive_after(family, 0) == []
        assert up.left_over() == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_signal_during_the_start_ends_everything(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE) as up:
        up.line_with("waiting until")
        family = up.family()

        assert up.end(signal.SIGINT, END_LIMIT_S) == 128 + signal.SIGINT
        assert alive_after(family, 0) == []
        assert up.left_over() == []
        assert "engine.died" not in "".join(up.lines)


def test_child_that_does_not_listen_is_killed_in_time(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask") as up:
        up.url()
        family = up.family()
        up.child("galen gateway").suspend()

        assert up.end(signal.SIGINT, END_LIMIT_S) == 0
        assert alive_after(family, 0) == []


def test_second_signal_kills_at_once(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask") as up:
        up.url()
        up.child("galen gateway").suspend()
        up.process.send_signal(signal.SIGINT)
        up.line_with("ending everything")

        assert up.end(signal.SIGINT, 2.5) == 0  # a first one alone gives it 3 s


def test_killed_launcher_takes_its_children_with_it(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask") as up:
        up.url()
        family = up.family()
        up.process.kill()

        assert alive_after(family, END_LIMIT_S) == []
        assert len(up.left_over()) == 1
    with LaunchedUp(temporary, *FAKE, "--redis-url", "redis://127.0.0.1:1/0") as next_up:
        assert next_up.end() == 1
        assert next_up.left_over() == []


def test_folder_of_a_living_launcher_stays(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask") as up:
        up.url()
        before = up.left_over()
        with LaunchedUp(temporary, *FAKE, "--redis-url", "redis://127.0.0.1:1/0") as other:
            other.end()

        assert up.left_over() == before != []


def test_child_that_dies_while_serving_ends_everything(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask") as up:
        up.url()
        family = up.family()
        up.child("galen gateway").send_signal(signal.SIGKILL)

        assert up.end(limit_s=END_LIMIT_S) == 1
        assert "galen: gateway was killed by SIGKILL" in "\n".join(up.lines)
        assert alive_after(family, 0) == []
        assert up.left_over() == []


def test_answer_goes_on_when_its_worker_is_killed(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask", "--workers", "2") as up:
        url = up.url()
        wait_until(lambda: len(up.children("galen worker")) == 2, "both workers", 30)
        asking = [sys.executable, "-m", "services.cli", "ask", "--url", url, "[[n=200 d=20]]"]
        with subprocess.Popen(asking, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            answer = client.stdout.read(7)
            number = worker_that_answers(temporary / up.left_over()[0])
            up.children("galen worker")[number - 1].kill()
            up.line_with(f"worker {number} was killed by SIGKILL; starting it again")
            answer += client.stdout.read()

        assert client.returncode == 0
        assert answer == "".join(f"zq{token:04d} " for token in range(200)) + "\n"
        wait_until(lambda: len(up.children("galen worker")) == 2, "the new worker", 30)
        assert up.end(signal.SIGINT, END_LIMIT_S) == 0


def test_worker_that_dies_all_the_time_ends_everything(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask") as up:
        up.url()
        for _ in range(2):
            up.children("galen worker")[0].kill()
            up.line_with("was killed by SIGKILL; starting it again")
            wait_until(lambda: up.children("galen worker"), "the new worker", 30)
        up.children("galen worker")[0].kill()

        assert up.end(limit_s=END_LIMIT_S) == 1
        assert up.lines[-1] == (
            "galen: worker died 3 times within 60 s, now it was killed by SIGKILL; "
            "everything was ended"
        )
        assert up.left_over() == []


def test_ask_says_that_the_server_went_away(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask") as up:
        asking = [sys.executable, "-m", "services.cli", "ask", "--url", up.url(), "[[n=900 d=40]]"]
        pipe = subprocess.PIPE
        with subprocess.Popen(asking, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as client:
            assert client.stdout is not None
            client.stdout.read(7)
            up.child("galen gateway").kill()
            _, said = client.communicate(timeout=30)

        assert client.returncode == 1
        assert "broke before the answer was complete" in said
        assert said.count("\n") == 1


def test_printed_commands_work_when_they_are_pasted(temporary: Path) -> None:
    with LaunchedUp(temporary, *FAKE, "--no-ask") as up:
        up.url()
        asked = next(line for line in up.lines if " ask --temperature 0 --image " in line)
        curl = next(line for line in up.lines if line.startswith("curl "))

        assert "--model" not in asked
        assert bash(asked).stdout.startswith("zq0000 zq0001 ")
        events = bash(curl).stdout
        assert '"content":"zq0000 "' in events
        assert events.endswith("data: [DONE]\n\n")


def test_printed_commands_name_the_model_where_there_are_several(temporary: Path) -> None:
    models = ("--model", "b", "--model", "a")  # the gateway names a first, and b is asked
    with LaunchedUp(temporary, *FAKE, "--no-ask", *models) as up:
        up.url()
        asked = next(line for line in up.lines if " ask --temperature 0 --image " in line)

        assert " --model b " in asked
        assert bash(asked).stdout.startswith("zq0000 zq0001 ")


def test_pasted_curl_sends_any_question_and_a_large_image_whole(tmp_path: Path) -> None:
    question = 'it\'s "odd": $HOME \\ `date` !1 %s\n\u00e4'
    image = tmp_path / "a 'large' one.png"
    image.write_bytes(bytes(range(256)) * 4096)
    command = curl_command("http://127.0.0.1:1/v1", "m", image, "image/png", question)

    body = json.loads(bash(f"curl() {{ cat; }}; {command}").stdout)

    picture, text = body["messages"][0]["content"]
    assert text["text"] == question
    assert body["temperature"] == 0
    assert base64.b64decode(picture["image_url"]["url"].partition(",")[2]) == image.read_bytes()


def test_waiting_for_the_dead_would_notice_a_living_process() -> None:
    with subprocess.Popen(["sleep", "60"]) as living:
        process = psutil.Process(living.pid)

        assert alive_after([process], 0.1) == [process]
        living.kill()
