"""Articles to a trained and evaluated model: each step is killed once, and goes on to its end.

download, instruct (the teacher is our own gateway, whose engine has a script), postprocess, stats,
train, evaluate: the commands that a lab types, with a few drawn figures.
"""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datagen.download.folder import INDEX_FILE
from datagen.download.index import Index
from datagen.figures import DOMAINS
from modeling.conversations import parse_item
from services.worker.settings import child_environment
from tests.end_to_end.launched import ROOT, LaunchedUp, galen
from tests.support.waiting import wait_until
from tests.training.small_runs import IMAGE_PX, SIZES
from tests.training.test_command import write_recipe
from training.config import TrainConfig
from training.run import run_folder
from training.run_state import checkpoints_in

NUM_FIGURES = 24
NUM_FREE = 4  # articles that the server sends before it waits
ORGANS = ("liver", "spleen", "kidney", "lung", "heart", "brain")


@dataclass(frozen=True)
class Figure:
    """One figure of one article."""

    number: int

    @property
    def pair_id(self) -> str:
        return f"{1000 + self.number}_F1"

    @property
    def archive(self) -> str:
        return f"/oa_package/PMC{self.number}.tar.gz"

    @property
    def member(self) -> str:
        return f"PMC{self.number}/figure.jpg"

    @property
    def organ(self) -> str:
        return ORGANS[self.number % len(ORGANS)]

    def answer(self) -> str:
        return (
            f"User: Which organ is drawn as picture {self.number}?\n\n"
            f"Assistant: The image shows the {self.organ} with {self.number} bright spots.\n\n"
            f"User: On which side of the {self.organ} is spot {self.number}?\n\n"
            f"Assistant: Spot {self.number} is on the left side, and the MRI shows no other.\n"
        )

    def tar(self) -> bytes:
        pixels = np.random.default_rng(self.number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        image = io.BytesIO()
        Image.fromarray(pixels).save(image, "JPEG")
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for name, content in (("text.nxml", b"<article/>"), ("figure.jpg", image.getvalue())):
                entry = tarfile.TarInfo(f"PMC{self.number}/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return out.getvalue()


FIGURES = [Figure(number) for number in range(NUM_FIGURES)]


class ArticleServer:
    """Sends a few articles, and the rest once it is told to. Use it as a context manager."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked: list[str] = []
        archives = {figure.archive: figure.tar() for figure in FIGURES}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                if len(server.asked) > NUM_FREE:
                    server.go_on.wait(60)
                content = archives[self.path]
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except ConnectionError:
                    pass  # its client was killed

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> "ArticleServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


def kill_when(condition: Callable[[], Any], *words: str) -> None:
    """Start a command, and kill it and its children when something is so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", *words],
        cwd=ROOT,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            wait_until(lambda: condition() or process.poll() is not None, words[1], 60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.stderr is not None
        assert process.wait(10) == -signal.SIGKILL, process.stderr.read()


def done(*words: str, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
    """Run a command, which must end well."""
    ended = galen(*words, timeout_s=timeout_s)
    assert ended.returncode == 0, ended.stderr
    return ended


def lines_of(path: Path) -> list[Any]:
    """Return the whole lines of a file that may be being written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    return path


# ------------------------------------------------------------------------------------ the steps


def download(folder: Path) -> Path:
    """Return the folder of images."""
    out = folder / "download"
    with ArticleServer() as server:
        listed = [
            {
                "pmc_tar_url": server.url + figure.archive,
                "image_file_path": figure.member,
                "pair_id": figure.pair_id,
            }
            for figure in FIGURES
        ]
        listing = write_lines(folder / "urls.jsonl", listed)
        words = ["data", "download", "--list", str(listing), "--out", str(out)]
        images = out / "images"
        kill_when(lambda: num_recorded(out) >= NUM_FREE, *words, "--concurrency", "2")
        there = num_recorded(out)
        server.go_on.set()
        before = len(server.asked)
        done(*words)
    assert len(list(images.glob("*.jpg"))) == NUM_FIGURES
    # what was recorded is not fetched again; the killed one's requests may reach the server late
    assert len(server.asked) - before <= NUM_FIGURES - there + 2
    return images


def num_recorded(out: Path) -> int:
    """Return how many images a download has recorded so far, also while it runs."""
    try:
        with Index(out / INDEX_FILE) as index:
            return index.counts().done
    except sqlite3.OperationalError:  # not there yet, or locked
        return 0


def instruct(folder: Path, short_folder: Path) -> Path:
    """Return the teacher's conversations."""
    captions: dict[str, list[Any]] = {domain: [] for domain in DOMAINS}
    for figure in FIGURES:
        domain = DOMAINS[figure.number % len(DOMAINS)]
        captions[domain].append(
            {
                "pair_id": figure.pair_id,
                "pmid": str(figure.number),
                "fig_id": "F1",
                "fig_label": "Figure 1",
                # The fake engine takes so many milliseconds for its first word.
                "fig_caption": f"The organ of case{figure.number}x, drawn by hand. [[t=250]]",
                "in_text_mention": None,
                "domain": {name: name == domain for name in DOMAINS},
            }
        )
    given = folder / "captions.json"
    given.write_text(json.dumps(captions), "utf-8")
    script = write_lines(
        folder / "script.jsonl",
        [{"match": f"case{figure.number}x", "answer": figure.answer()} for figure in FIGURES],
    )
    out = folder / "conversations.jsonl"
    variables = {"GALEN_WORKER_FAKE_SCRIPT": str(script)}
    words = ["--engine", "fake", "--no-ask", "--port", "0", "--jobs", "0"]
    with LaunchedUp(short_folder, *words, **variables) as up:
        command = ["datagen", "instruct", str(given), "--out", str(out), "--url", up.url()]
        kill_when(lambda: len(lines_of(out)) >= 5, *command, "--at-once", "2")
        kept = lines_of(out)
        done(*command)
        up.end(signal.SIGINT)
    found = lines_of(out)
    assert found[: len(kept)] == kept
    assert sorted(line["pair_id"] for line in found) == sorted(f.pair_id for f in FIGURES)
    assert all(line["result"].count("User:") == 2 for line in found)
    return out


def postprocess(folder: Path, conversations: Path, images: Path) -> Path:
    """Return the file to train on."""
    made = folder / "made"
    made.mkdir()
    out = made / "train.json"
    words = ["datagen", "postprocess", str(conversations), "--images", str(images), "--out"]
    kill_when(lambda: any(made.iterdir()), *words, str(out))
    done(*words, str(out))
    done(*words, str(folder / "again.json"))
    items = json.loads(out.read_text("utf-8"))
    assert json.loads((folder / "again.json").read_text("utf-8")) == items
    assert len(items) == NUM_FIGURES
    assert all(parse_item(item).num_images == 1 for item in items)
    assert "the MRI shows" in json.dumps(items)  # and not "mri"
    return out


def train(folder: Path, base: Path, data: Path, images: Path) -> Path:
    """Return the trained checkpoint."""
    out = folder / "trained"
    config = TrainConfig.model_validate(
        {
            "name": "small",
            "model": {
                "path": base,
                "precision": "fp32",
                "gradient_checkpointing": False,
                "attention": "sdpa",
            },
            "train": {"projector": True, "language_model": "full"},
            "data": {
                "files": [data],
                "image_folder": images,
                "max_length": 768,
                "requires_images": True,
                "workers": 0,
            },
            "batch": {"examples": 4, "rows": 1},
            "optimizer": {"learning_rate": 1e-3, "epochs": 4},
            "output": {"folder": out, "save_every_steps": 1},
        }
    )
    words = ["train", str(write_recipe(config, folder)), "--cards", "1"]
    kill_when(lambda: checkpoints_in(run_folder(config)), *words)
    done(*words)
    return out


def evaluate(folder: Path, model: Path, images: Path, short_folder: Path) -> dict[str, Any]:
    """Return the receipt."""
    data = folder / "benchmark"
    data.mkdir()
    (data / "images").symlink_to(images)
    items = [
        {
            "id": figure.number,
            "image": f"{figure.pair_id}.jpg",
            "answer_type": "OPEN",
            "question_type": "ORGAN",
            "conversations": [
                {"from": "human", "value": "Which organ is this?\n<image>"},
                {"from": "gpt", "value": figure.organ},
            ],
        }
        for figure in FIGURES
    ]
    (data / "test.json").write_text(json.dumps(items), "utf-8")
    run = folder / "run"
    with LaunchedUp(short_folder, "--model", str(model), "--no-ask", "--port", "0") as up:
        words = ["evaluate", "folder", "--data", str(data), "--out", str(run), "--url", up.url()]
        kill_when(lambda: lines_of(run / "answers.jsonl"), *words, "--at-once", "1")
        done(*words)
        up.end(signal.SIGINT)
    return json.loads((run / "receipt.json").read_text("utf-8"))


@pytest.mark.timeout(420)
def test_from_articles_to_an_evaluated_model(tmp_path: Path, short_folder: Path):
    # torch is imported when it is needed, so that collecting the tests stays quick
    from modeling.tiny import make_tiny_llava  # noqa: PLC0415

    images = download(tmp_path)
    conversations = instruct(tmp_path, short_folder)
    data = postprocess(tmp_path, conversations, images)
    seen = tmp_path / "stats"
    done("datagen", "stats", str(data), "--images", str(images), "--out", str(seen))
    base = make_tiny_llava(tmp_path / "base", image_px=IMAGE_PX, sizes=SIZES)
    trained = train(tmp_path, base, data, images)
    receipt = evaluate(tmp_path, trained, images, short_folder)

    assert (seen / "stats.html").exists()
    assert receipt["status"] == "complete"
    assert receipt["model_facts"]["checkpoint_fingerprint"]
