"""A `galen up` with two models on the fake engine, for the tests that administer it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.end_to_end.launched import ROOT, LaunchedUp, galen, galen_anew

LONG = "[[n=60 d=30]]"  # 1.8 s
LONGER = "[[n=60 d=120]]"  # 7 s: another client starts meanwhile, also on a busy machine
LONG_ANSWER = "".join(f"zq{token:04d} " for token in range(60))


@dataclass
class Running:
    """A `galen up` and ways to talk to it."""

    up: LaunchedUp
    url: str
    temporary: Path
    http: httpx.Client

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return galen(*words, variables={"TMPDIR": str(self.temporary)})

    def command_anew(self, *words: str) -> subprocess.CompletedProcess[str]:
        return galen_anew(*words, variables={"TMPDIR": str(self.temporary)})

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
        # of the pipe itself: `communicate` would pass over what a reader holds back
        assert os.read(client.stdout.fileno(), 7) == b"zq0000 "
        return client

    def ended(self, client: "subprocess.Popen[str]") -> tuple[int, str, str]:
        out, err = client.communicate(timeout=30)
        return client.returncode, out, err


@contextmanager
def administered_up() -> Iterator[Running]:
    """Start it, and end it in time."""
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
        assert up.end(signal.SIGINT) == 0  # how soon, says test_up.py
    shutil.rmtree(temporary)
