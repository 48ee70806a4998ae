"""The command `galen`: it starts fast, and tells a user's mistake in one line."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from services.gateway.settings import GatewaySettings
from services.worker.settings import WorkerSettings
from tests.end_to_end.launched import ROOT, LaunchedUp, galen

HEAVY = {"torch", "transformers", "vllm", "fastapi", "openai", "pydantic", "httpx", "redis"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A stack with the fake engine."""
    temporary = Path(tempfile.mkdtemp(prefix="up-"))
    with LaunchedUp(temporary, "--engine", "fake", "--port", "0", "--no-ask") as up:
        yield up.url()
        up.end(signal.SIGTERM)
    shutil.rmtree(temporary)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A JPEG and a WebP whose names say something else."""
    paths = [tmp_path / "one.png", tmp_path / "two"]
    for path, image_format in zip(paths, ("JPEG", "WEBP"), strict=True):
        Image.new("RGB", (56, 56), "grey").save(path, image_format)
    return paths


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("galen: ")
    return done.stderr


# ------------------------------------------------------------------------------------------ help


def test_help_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "services.cli", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_help_takes_less_than_half_a_second_of_work() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)

    assert process.returncode == 0
    assert used.ru_utime + used.ru_stime < 0.5


@pytest.mark.parametrize(
    "command",
    [
        *("up", "gateway", "worker", "plan", "ask", "version", "models", "workers"),
        *("convert", "inspect", "train", "train run", "data", "data phantoms"),
        *("datagen", "datagen instruct"),
        *("models list", "models load", "models unload"),
        *("workers list", "workers cordon", "workers uncordon", "workers drain"),
    ],
)
def test_each_command_explains_itself(command: str) -> None:
    done = galen(*command.split(), "--help")

    assert done.returncode == 0
    assert f"galen {command}" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("service", "settings"), [("gateway", GatewaySettings), ("worker", WorkerSettings)]
)
def test_each_setting_is_an_option(
    service: str, settings: type[GatewaySettings | WorkerSettings]
) -> None:
    shown = galen(service, "--help").stdout

    for name in settings.model_fields:
        assert f"--{name.replace('_', '-')} " in shown


@pytest.mark.parametrize("word", ["version", "--version"])
def test_version_is_printed(word: str) -> None:
    done = galen(word)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("galen ")


def test_no_command_is_answered_with_the_help_alone() -> None:
    done = galen()

    assert "Ask a running gateway" in done.stdout
    assert done.stderr == ""


# -------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-command"], "no-such-command"),
        (["up", "--no-such-option"], "--no-such-option"),
        (["up", "--port", "70000"], "--port"),
        (["up", "--engine", "fake", "--model", "."], "the fake engine has no checkpoint"),
        (["up", "--model", "a", "--model", "./a"], "'a' comes twice"),
        (["models", "load", "--workers", "0"], "--workers"),
        (["models", "load", "a=/b", "--name", "c"], "two names, 'a' and 'c'"),
        (["up", "--engine", "fake", "--model", "a b"], "'a b' cannot be a model's name: take 1 to"),
        (["worker", "--model-id", "a b"], "--model-id: 'a b' cannot be a model's name: take 1 to"),
        (["worker", "--config", "no-such-file"], "no-such-file"),
        (["worker", "--slots", "0"], "--slots: Input should be greater than or equal to 1"),
        (["worker", "--redis-url", "queue:6379"], "--redis-url: it must begin with redis://"),
        (["gateway", "--redis-url", "redis://queue:x"], "--redis-url: its port is no number"),
        (["gateway", "--slots", "1"], "--slots"),
        (["ask"], "question"),
        (["ask", " "], "the question is empty"),
        (["up", "--question", ""], "the question is empty"),
        (["ask", "--image", "no-such-file", "What?"], "there is no file 'no-such-file'"),
        (["ask", "--image", "ftp://x.example/a", "What?"], "neither a file nor an https URL"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(words: list[str], said: str) -> None:
    done = galen(*words)

    assert done.returncode == 2
    assert said in one_line(done)


@pytest.mark.parametrize(
    ("words", "variable", "value", "said"),
    [
        (["gateway"], "GALEN_GATEWAY_PORT", "abc", "GALEN_GATEWAY_PORT: Input should be"),
        (["up"], "GALEN_GATEWAY_PORT", "abc", "GALEN_GATEWAY_PORT: Input should be"),
        (["up"], "GALEN_GATEWAY_MAX_IMAGES", "0", "GALEN_GATEWAY_MAX_IMAGES: Input should be"),
        (["up"], "GALEN_WORKER_SLTOS", "4", "GALEN_WORKER_SLTOS; did you mean GALEN_WORKER_SLOTS?"),
        (["worker"], "GALEN_WORKER_SLTOS", "4", "did you mean GALEN_WORKER_SLOTS?"),
    ],
)
def test_bad_variable_is_one_line_that_names_it(
    words: list[str], variable: str, value: str, said: str
) -> None:
    done = galen(*words, variables={variable: value})

    assert done.returncode == 2
    assert said in one_line(done)
    assert "--" not in done.stderr.replace("--help", "")


def test_prefix_that_nobody_has_is_a_warning() -> None:
    variables = {"GALEN_WROKER_SLOTS": "4", "GALEN_BENCH_X": "1"}
    done = galen("worker", "--engine", "transformers", variables=variables)

    assert done.returncode == 3  # it went on, to an engine without a checkpoint
    assert done.stderr == (
        "galen: warning: GALEN_WROKER_SLOTS is ignored: no service has this prefix; "
        "did you mean GALEN_WORKER_SLOTS?\n"
    )


def test_up_refuses_an_image_before_it_starts_anything(tmp_path: Path) -> None:
    file = tmp_path / "slice.png"
    file.write_bytes(b"%PDF-1.7")

    assert "slice.png is not a JPEG, PNG, WebP" in one_line(galen("up", "--image", str(file)))


def test_service_gets_what_was_chosen() -> None:
    done = galen("worker", "--engine", "transformers", "--log-format", "console")

    assert done.returncode == 3  # the engine refuses to start without a checkpoint
    assert "galen worker --model-path DIR" in done.stdout


def test_plan_for_which_nothing_fits_ends_with_exit_code_1() -> None:
    done = galen("plan", "llava-next-34b", "--gpus", "1x4GB")

    assert (done.returncode, done.stderr) == (1, "")
    assert "Nothing fits" in done.stdout
    assert galen("plan", "llava-med-v1.5-7b", "--gpus", "1x24GB").returncode == 0


# ------------------------------------------------------------------------------------------- ask


def test_ask_streams_the_answer_about_two_images(url: str, images: list[Path]) -> None:
    one, two = images
    options = ("--image", str(one), "--image", str(two), "--max-tokens", "3", "--temperature", "0")
    done = galen("ask", "--url", url, *options, "What has changed?")

    assert (done.returncode, done.stdout, done.stderr) == (0, "zq0000 zq0001 zq0002 \n", "")


def test_ask_understands_an_address_without_its_version(url: str) -> None:
    done = galen("ask", "--url", url.removesuffix("/v1"), "[[n=2]]")

    assert (done.returncode, done.stdout, done.stderr) == (0, "zq0000 zq0001 \n", "")


def test_ask_ends_quietly_when_nobody_reads_on(url: str) -> None:
    asking = f"{sys.executable} -m services.cli ask --url {url} '[[n=100 d=5]]' | head -c 5"
    command = ["bash", "-c", f"{asking}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (141, "zq000", "")


def test_ask_prints_the_whole_answer_without_a_stream(url: str) -> None:
    options = ("--no-stream", "--model", "fake", "--system", "Be brief.")
    done = galen("ask", "--url", f"{url}/", *options, "[[n=2]]")

    assert (done.returncode, done.stdout, done.stderr) == (0, "zq0000 zq0001 \n", "")


def test_ask_for_an_unknown_model_says_what_the_gateway_says(url: str) -> None:
    done = galen("ask", "--url", url, "--model", "gpt-5", "Hello")

    assert done.returncode == 1
    assert "(model_not_found, HTTP 404)" in one_line(done)


def test_ask_says_that_an_answer_broke_off(url: str) -> None:
    done = galen("ask", "--url", url, "[[n=4 fail=2]]")

    assert done.returncode == 1
    assert done.stdout == "zq0000 zq0001 \n"
    assert done.stderr == "galen: the fake engine was told to fail (internal_error)\n"


def test_ask_says_which_image_files_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "slice.png"
    file.write_bytes(b"%PDF-1.7")
    done = galen("ask", "--image", str(file), "What?")

    assert done.returncode == 1
    assert "is not a JPEG, PNG, WebP" in one_line(done)


def test_ask_passes_a_url_on_and_says_why_the_gateway_does_not_fetch_it(url: str) -> None:
    done = galen("ask", "--url", url, "--image", "https://images.example/a.dcm", "What?")

    assert done.returncode == 1
    assert "(url_fetch_disabled, HTTP 400)" in one_line(done)
    assert "data: URL" in one_line(done)


def test_ask_says_that_no_gateway_answers() -> None:
    done = galen("ask", "--url", "http://127.0.0.1:1/v1", "Hello")

    assert done.returncode == 1
    assert "no gateway answers at http://127.0.0.1:1/v1" in one_line(done)


def test_ask_refuses_what_is_no_url() -> None:
    assert "is not the URL of a gateway" in one_line(galen("ask", "--url", "localhost:8000", "Hi"))
