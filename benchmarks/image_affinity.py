"""Measures what it saves that questions on one image go to one worker, and that features are kept.

Pairs of workers with the transformers engine, each pair with another cache of image features, and
two gateways before all of them, with and without affinity. The load has the shape of a VQA set:
many questions on each of some images. No image is ever shown to two loads. All live at the same
time; in every round each has its turn, while the others are idle.

Run: python -m benchmarks.image_affinity --help
"""

import platform
import random
import re
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import httpx
import msgspec
import psutil
import typer

from benchmarks.completion_client import chat_body, stream_all
from benchmarks.large_checkpoint import SIZES, checkpoint_of
from benchmarks.ours import REPOSITORY, start_redis
from benchmarks.page_sections import replace_section, table
from benchmarks.processes import BenchError, ChildProcesses, require_free_port
from benchmarks.settings import BenchSettings
from modeling.checkpoint_files import open_checkpoint

DEMO = "demo"
DEMO_PATH = REPOSITORY / "modeling" / "demo_model"
WORKERS, SLOTS = 2, 8
FLOAT_BYTES = 4
START_LIMIT_S = 180.0
Order = Literal["mixed", "by image"]
ORDERS: tuple[Order, ...] = ("mixed", "by image")
QUESTIONS = (
    "Which organ is this?", "Is there an effusion on the left side?", "What does this image show?",
    "On which side does the finding lie?", "Is the heart enlarged?", "Is this a CT slice?",
    "Are the ribs without findings?", "Describe the picture in detail.", "Is the lung clear?",
    "Which plane is shown?",
)  # fmt: skip
_COUNTER = re.compile(r"^galen_worker_(encoded|reused)_images_total (\S+)$", re.MULTILINE)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Mode(msgspec.Struct, frozen=True):
    """A pair of workers and the gateway that the load goes through."""

    cache: Literal["none", "a quarter", "all"]
    affinity: bool

    @property
    def model(self) -> str:
        return self.cache.replace(" ", "-")


MODES = (
    Mode("none", affinity=False),
    Mode("a quarter", affinity=False),
    Mode("a quarter", affinity=True),
    Mode("all", affinity=False),
    Mode("all", affinity=True),
)


class Vqa(msgspec.Struct, frozen=True):
    """A load: so many questions on each image, so many requests at once."""

    images: int
    questions: int
    at_once: int
    tokens: int
    image_px: int


class Measured(msgspec.Struct, frozen=True):
    """One load in one mode."""

    mode: Mode
    order: Order
    round_index: int
    questions_per_s: float
    ttft_ms: float
    encoded: int
    reused: int


class Platform:
    """Redis, the pairs of workers and both gateways."""

    def __init__(self, settings: BenchSettings, children: ChildProcesses) -> None:
        self._settings = settings
        self._children = children
        self._metrics_ports: dict[str, list[int]] = {}
        self._gateways: dict[bool, int] = {}

    def start(self, checkpoint: Path, load: Vqa) -> None:
        """Start all, and answer a question on each worker."""
        socket_path, _ = start_redis(self._settings, self._children, is_durable=False)
        redis_url = f"unix://{socket_path}"
        all_bytes = load.images * _feature_bytes(checkpoint)
        kept = {"none": 0, "a-quarter": all_bytes // 4, "all": all_bytes}
        for number, (model, num_bytes) in enumerate(kept.items()):
            self._metrics_ports[model] = []
            for index in range(WORKERS):
                port = self._settings.port_base + 140 + number * WORKERS + index
                require_free_port(port)
                self._metrics_ports[model].append(port)
                self._start_worker(redis_url, checkpoint, model, port, num_bytes)
        for affinity in (False, True):
            self._gateways[affinity] = self._start_gateway(redis_url, affinity=affinity)
        self._wait_for_workers()

    def _start_worker(
        self, redis_url: str, checkpoint: Path, model: str, metrics_port: int, num_bytes: int
    ) -> None:
        self._children.start(
            f"affinity_worker_{metrics_port}",
            [sys.executable, "-m", "services.worker.main"],
            env={
                "GALEN_WORKER_REDIS_URL": redis_url,
                "GALEN_WORKER_ENGINE": "transformers",
                "GALEN_WORKER_MODEL_ID": model,
                "GALEN_WORKER_MODEL_PATH": str(checkpoint),
                "GALEN_WORKER_DEVICE": "cpu",
                "GALEN_WORKER_NUM_THREADS": "1",
                "GALEN_WORKER_SLOTS": str(SLOTS),
                "GALEN_WORKER_FEATURE_CACHE_BYTES": str(num_bytes),
                "GALEN_WORKER_METRICS_PORT": str(metrics_port),
                "GALEN_WORKER_LOG_LEVEL": "warning",
            },
            cwd=REPOSITORY,
        )

    def _start_gateway(self, redis_url: str, *, affinity: bool) -> int:
        port = self._settings.port_base + 130 + affinity
        require_free_port(port)
        name = f"affinity_gateway_{port}"
        gateway = self._children.start(
            name,
            [sys.executable, "-m", "services.gateway.main"],
            env={
                "GALEN_GATEWAY_REDIS_URL": redis_url,
                "GALEN_GATEWAY_PORT": str(port),
                "GALEN_GATEWAY_IMAGE_AFFINITY": str(affinity).lower(),
                "GALEN_GATEWAY_DECODER_PROCESSES": "1",
                "GALEN_GATEWAY_LOG_LEVEL": "warning",
            },
            cwd=REPOSITORY,
        )
        url = f"http://127.0.0.1:{port}/readyz"
        self._children.wait_until_ready(name, gateway, url, limit_s=START_LIMIT_S)
        return port

    def _wait_for_workers(self) -> None:
        """Wait until both gateways have seen every worker."""
        deadline = time.monotonic() + START_LIMIT_S
        while any(len(self._counts(model)) < WORKERS for model in self._metrics_ports):
            if time.monotonic() > deadline:
                raise BenchError("the workers did not start; see their logs")
            time.sleep(0.5)
        time.sleep(3.0)  # two heartbeats of the gateways

    def run(
        self, mode: Mode, bodies: Sequence[bytes], at_once: int
    ) -> tuple[float, float, int, int]:
        """Return questions per second, TTFT in ms, images encoded and images reused."""
        before = self._counts(mode.model)
        done = stream_all(self._gateways[mode.affinity], bodies, at_once)
        after = self._counts(mode.model)
        encoded, reused = (
            int(sum(a[kind] for a in after) - sum(b[kind] for b in before))
            for kind in ("encoded", "reused")
        )
        return len(bodies) / done.wall_s, done.ttft_ms, encoded, reused

    def _counts(self, model: str) -> list[dict[str, float]]:
        """Return the counters of every worker that answers."""
        found: list[dict[str, float]] = []
        for port in self._metrics_ports[model]:
            try:
                text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            except httpx.HTTPError:
                continue
            if len(counted := {k: float(v) for k, v in _COUNTER.findall(text)}) == 2:
                found.append(counted)
        return found


def _feature_bytes(checkpoint: Path) -> int:
    """Return what the features of one image take: one vector per patch."""
    config = open_checkpoint(checkpoint).config
    vision = config["vision_config"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return patches * config["text_config"]["hidden_size"] * FLOAT_BYTES


@app.command()
def bench(  # noqa: PLR0913 - one parameter per option
    *,
    size: Annotated[str, typer.Option(help=f"Model: {DEMO}, {', '.join(SIZES)}.")] = DEMO,
    images: Annotated[int, typer.Option(min=4, help="Images of a load.")] = 24,
    questions: Annotated[int, typer.Option(min=1, help="Questions on each image.")] = 10,
    at_once: Annotated[int, typer.Option(min=1, help="Requests at once.")] = SLOTS,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Compare affinity on and off, with and without kept features; prints a section of Markdown."""
    settings = BenchSettings()
    checkpoint = DEMO_PATH
    if size != DEMO:
        checkpoint = checkpoint_of(size, settings.folder("models"), "cpu")
    image_px = int(open_checkpoint(checkpoint).config["vision_config"]["image_size"])
    load = Vqa(images, questions, at_once, tokens, image_px)
    measured: list[Measured] = []
    try:
        with ChildProcesses(settings.folder("logs")) as children:
            stage = Platform(settings, children)
            stage.start(checkpoint, load)
            for mode in MODES:
                stage.run(mode, _bodies(mode, "mixed", load, rounds)[: 4 * at_once], at_once)
            for round_index in range(rounds):
                for order in ORDERS:
                    turn = round_index % len(MODES)
                    for mode in (*MODES[turn:], *MODES[:turn]):
                        bodies = _bodies(mode, order, load, round_index)
                        found = stage.run(mode, bodies, at_once)
                        measured.append(Measured(mode, order, round_index, *found))
                        typer.echo(f"{measured[-1]}", err=True)
    except* BenchError as errors:
        typer.echo(f"error: {errors.exceptions[0]}", err=True)
        raise typer.Exit(2) from errors
    section = render(measured, size, load)
    typer.echo(section)
    if out is not None:
        replace_section(out, f"image-affinity-{size}", section)


def _bodies(mode: Mode, order: Order, load: Vqa, round_index: int) -> list[bytes]:
    """Return the questions of a load, whose images no other load has."""
    which = (round_index * len(ORDERS) + ORDERS.index(order)) * len(MODES) + MODES.index(mode)
    bodies = [
        chat_body(mode.model, which * 1000 + image, load.image_px, load.tokens, question)
        for image in range(load.images)
        for question in (f"{number}. {QUESTIONS[number % len(QUESTIONS)]}"
                         for number in range(load.questions))
    ]  # fmt: skip
    if order == "mixed":
        random.Random(round_index).shuffle(bodies)
    return bodies


def render(measured: Sequence[Measured], size: str, load: Vqa) -> str:
    """Return the section."""
    asked = load.images * load.questions
    rounds = 1 + max(m.round_index for m in measured)
    rows = [_row(measured, order, mode, asked) for order in ORDERS for mode in MODES]
    head = (
        *("order", "features kept", "affinity", "questions/s (min-max)", "on / off"),
        *("TTFT ms", "images encoded", "of the questions"),
    )
    lines = [
        f"## Questions on one image at one worker: {_words(size)} on a CPU",
        "",
        f"{WORKERS} workers with {SLOTS} slots and one thread each; {load.images} images of",
        f"{load.image_px} px, {load.questions} questions on each, {load.at_once} requests at once,",
        f"answers of {load.tokens} tokens; no image is in two loads. *Features kept*: how many of",
        "the load's images a worker's cache of features holds. *On / off*: questions per second",
        "with affinity over those without, in the same round. *Encoded*: runs of the vision tower.",
        "",
        f"* {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{_command()}`, {rounds} round(s); figures are "
        "medians over the rounds, ratios are medians of the rounds' ratios.",
        f"* {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, shared with "
        "other programs",
        f"* python {platform.python_version()}, torch {version('torch')}, transformers "
        f"{version('transformers')}",
        "",
        table(head, rows),
    ]
    return "\n".join(lines)


def _row(measured: Sequence[Measured], order: Order, mode: Mode, asked: int) -> list[str]:
    runs = [m for m in measured if (m.order, m.mode) == (order, mode)]
    rates = [m.questions_per_s for m in runs]
    encoded = statistics.median(m.encoded for m in runs)
    ratio = ""
    if mode.affinity:
        off = [
            m for m in measured if (m.order, m.mode) == (order, Mode(mode.cache, affinity=False))
        ]
        pairs = zip(runs, off, strict=True)
        ratio = (
            f"{statistics.median(on.questions_per_s / o.questions_per_s for on, o in pairs):.2f}"
        )
    return [
        order,
        mode.cache,
        "on" if mode.affinity else "off",
        f"{statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f})",
        ratio,
        f"{statistics.median(m.ttft_ms for m in runs):.0f}",
        f"{encoded:.0f}",
        f"{encoded / asked:.0%}",
    ]


def _words(size: str) -> str:
    if size == DEMO:
        return "the shipped miniature"
    found = SIZES[size]
    return f"{size} (tower {found.vision_layers} layers, {found.vision_width} wide)"


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks.image_affinity", *sys.argv[1:]])


if __name__ == "__main__":
    app()
