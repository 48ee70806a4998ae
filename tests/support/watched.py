"""Runs a module of ours, and all that it starts, under an audit hook that reports to a pipe.

    python -m tests.support.watched SCRIPT -m services.gateway.main

SCRIPT is an executable that `Watch` writes; it takes the place of `sys.executable`, so that every
child is watched, too. Reported are objects that are loaded: by pickle (the hook hears of classes
only, so its functions are replaced as well), by shelve, and by marshal except for Python's own
imports. The decoder child reports every file, program and connection that it opens, too.
"""

import importlib
import os
import runpy
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.program import ROOT
from tests.support.waiting import wait_until

DECODER = "services.gateway.media.decode_process"
_LOADS = ("pickle.find_class", "marshal.load", "marshal.loads")
_OPENS = ("open", "socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system")
_REPLACED = {
    "_pickle": ("load", "loads", "Unpickler"),
    "pickle": ("load", "loads", "Unpickler"),
    "shelve": ("open",),
}
_IMPORTS = "<frozen importlib"


class Watch:
    """The reports of all processes that were started through it."""

    def __init__(self, folder: Path) -> None:
        self.script = folder / "watched"
        self.lines: list[str] = []
        pipe = folder / "watched.pipe"
        os.mkfifo(pipe)
        # a child's environment need not name where the tests lie
        path = f'export PYTHONPATH="{ROOT}${{PYTHONPATH:+:$PYTHONPATH}}"'
        python = f'exec "{sys.executable}" -P -m tests.support.watched "{self.script}" "$@"'
        self.script.write_text(f"#!/bin/sh\n{path}\n{python}\n")
        self.script.chmod(0o700)
        self._pipe = os.fdopen(os.open(pipe, os.O_RDWR), "rb", buffering=0)
        threading.Thread(target=self._listen, daemon=True).start()

    def module(self, name: str) -> tuple[str, ...]:
        """Return what runs a module, for `python -m`."""
        return ("tests.support.watched", str(self.script), "-m", name)

    def started(self) -> set[str]:
        """The modules whose processes report."""
        return {words[2] for line in self.lines if (words := line.split())[1] == "started"}

    def reports(self) -> list[str]:
        """All but the starts, once everything that was sent before has come."""
        with self.script.with_suffix(".pipe").open("wb", buffering=0) as pipe:
            pipe.write(b"0 heard\n")
        wait_until(lambda: "0 heard" in self.lines, "the reports")
        self.lines.remove("0 heard")
        return [line for line in self.lines if line.split()[1] != "started"]

    def _listen(self) -> None:
        rest = b""
        while chunk := self._pipe.read(65_536):
            *whole, rest = (rest + chunk).split(b"\n")
            self.lines += [line.decode() for line in whole]


def main() -> None:
    """Run the module that the arguments name."""
    script, *words = sys.argv[1:]
    at = words.index("-m")
    module = words[at + 1]
    sys.executable = script
    sys.argv = [module, *words[at + 2 :]]
    report = _reporter(Path(script).with_suffix(".pipe"))
    report(f"started {module}")
    _replace_pickle(report)
    sys.addaudithook(_hook(report, watches_files=module == DECODER))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _reporter(pipe: Path) -> Callable[[str], None]:
    descriptor = os.open(pipe, os.O_WRONLY)
    pid = os.getpid()

    def report(what: str) -> None:
        os.write(descriptor, f"{pid} {what}\n".encode("ascii", "backslashreplace"))

    return report


def _hook(
    report: Callable[[str], None], *, watches_files: bool
) -> Callable[[str, tuple[Any, ...]], None]:
    def hear(event: str, details: tuple[Any, ...]) -> None:
        if event in _LOADS:
            file = sys._getframe(1).f_code.co_filename
            if not file.startswith(_IMPORTS):
                report(f"{event} by {file}")
        elif watches_files and event.startswith(_OPENS):
            report(f"{event} {details[0]!r}" if details else event)

    return hear


def _replace_pickle(report: Callable[[str], None]) -> None:
    def reported(name: str, original: Any) -> Any:
        if isinstance(original, type):

            class Reported(original):
                def __init__(self, *args: Any, **options: Any) -> None:
                    report(f"pickle.{name}")
                    super().__init__(*args, **options)

            return Reported

        def call(*args: Any, **options: Any) -> Any:
            report(f"pickle.{name}")
            return original(*args, **options)

        return call

    # by name: nothing of ours imports them; all before the first is replaced
    modules = {name: importlib.import_module(name) for name in _REPLACED}
    for module, names in _REPLACED.items():
        for name in names:
            original = getattr(modules[module], name)
            setattr(modules[module], name, reported(name, original))


if __name__ == "__main__":
    main()
