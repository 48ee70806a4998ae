"""Commands of ours as processes that begin in a moment: forked from one that has them imported.

A command that asks a stub one question spends nine tenths of its time on imports, and tests run
hundreds of them. `ReadyPython.run` is `subprocess.run` of `python -m MODULE`, without that: each
run is a process of its own, with its own arguments, environment, output and exit code.

What does *not* live here: runs in which the start itself is tested, or Python's own variables (see
`tests/end_to_end/launched.py`), and the libraries of models, which none of these commands may load.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from openai import OpenAI

from tests.support.program import ROOT

_PACKAGES = ("services.launcher", "services.endpoint_client", "evaluation", "datagen")
_LIBRARIES = ("services.cli", "nltk", "anyio._backends._asyncio", "PIL.JpegImagePlugin")
"""Loaded by the packages above when they are needed."""
_AS_MODULE = ["-P", "-m"]


class ReadyPython:
    """The process that has everything imported; started when it is first asked for."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, module: str, words: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> "subprocess.CompletedProcess[str]":
        """Run a module with these arguments to its end; raises TimeoutExpired."""
        command = [sys.executable, "-m", module, *words]
        with tempfile.TemporaryDirectory(prefix="ready-") as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            given = {"module": module, "words": list(words), "environment": dict(environment)}
            self._ask({**given, "out": str(out), "err": str(err)})
            try:
                code = self._end_of(int(self._answer(None)), timeout_s)
            except BaseException:
                self.end()  # else the next run would read this one's answer
                raise
            if code is None:
                raise subprocess.TimeoutExpired(command, timeout_s)
            said = out.read_text("utf-8"), err.read_text("utf-8")
        return subprocess.CompletedProcess(command, code, *said)

    def end(self) -> None:
        """End the process; what it has started goes on."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, given: Mapping[str, Any]) -> None:
        if self._process is None:
            pipe = subprocess.PIPE
            command = [sys.executable, "-m", "tests.support.ready_python"]
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given) + "\n")

    def _end_of(self, pid: int, timeout_s: float) -> int | None:
        """Return the exit code; None where the process had to be killed."""
        if answer := self._answer(timeout_s):
            return int(answer)
        os.kill(pid, signal.SIGKILL)
        self._answer(None)
        return None

    def _answer(self, timeout_s: float | None) -> str:
        """Return the next line, "" where it did not come in time."""
        assert self._process is not None
        assert self._process.stdout is not None
        if timeout_s is not None:
            readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
            if not readable:
                return ""
        line = self._process.stdout.readline()
        assert line, "the process that starts commands has ended"
        return line


@cache
def ready_python() -> ReadyPython:
    """Return the one of this process."""
    return ReadyPython()


def _main() -> None:
    """Fork for each line of stdin."""
    _import_everything()
    gc.freeze()  # else the first collection in each process copies all of it
    for line in sys.stdin:
        given = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(given)
        _tell(pid)
        _, status = os.waitpid(pid, 0)
        _tell(os.waitstatus_to_exitcode(status))


def _tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _import_everything() -> None:
    """What an extra that is not installed here needs fails in the command that wants it."""
    for package in _PACKAGES:
        folders = importlib.import_module(package).__path__
        for found in pkgutil.walk_packages(folders, f"{package}."):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(found.name)
    for name in _LIBRARIES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    with OpenAI(base_url="http://127.0.0.1:1/v1", api_key="none") as client:
        assert client.chat.completions
        assert client.models  # what the SDK loads when it is first used
    assert "torch" not in sys.modules


def _become(given: Mapping[str, Any]) -> NoReturn:
    """Be the process that was asked for, to its end.

    The end is no interpreter's: to take thousands of modules apart takes a second.
    """
    os.environ.clear()  # noqa: TID251 - it is this process's that is made here
    os.environ.update(given["environment"])  # noqa: TID251
    tempfile.tempdir = None  # may have been looked up by an import
    for number, path in enumerate((os.devnull, given["out"], given["err"])):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    os.execv = _execv
    code = 0
    try:
        _run(given["module"], given["words"])
    except SystemExit as ended:
        code = int(ended.code or 0)  # ours end with numbers
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _execv(program: str, command: Sequence[str]) -> None:
    """Become another module of ours at once, too; anything else is executed."""
    options, module = list(command[1:3]), command[3]
    if program == sys.executable and options == _AS_MODULE and module in sys.modules:
        _run(module, command[4:])
        sys.exit()
    os.execve(program, list(command), os.environ)  # noqa: TID251 - as `execv` does


def _run(module: str, words: Sequence[str]) -> None:
    sys.argv = [module, *words]
    sys.modules.pop(module, None)  # it runs as `__main__`, and anew
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
