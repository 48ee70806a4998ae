"""What a run shows and keeps of each step: a bar or lines for the user, and a log.

The log, `log.jsonl` in the run's folder, holds every step once; a resumed run takes back the lines
behind its checkpoint. What does *not* live here: the counting (`trainer.py`).
"""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from modeling.model_shape import ModelShape
from training.config import TrainConfig
from training.flops import StepWork, mfu, step_flops

LOG_FILE = "log.jsonl"
_LINE_EVERY_S = 30.0


def drop_later_lines(log: Path, step: int) -> None:
    """Remove the lines of steps behind `step`, and half a line that a crash left."""
    if not log.is_file():
        return
    kept: list[str] = []
    for line in log.read_text("utf-8").splitlines():
        try:
            is_before = json.loads(line)["step"] <= step
        except (ValueError, KeyError):
            continue
        if is_before:
            kept.append(line + "\n")
    partial = log.with_suffix(".partial")
    partial.write_text("".join(kept), "utf-8")
    partial.rename(log)


class RunProgress:
    """Use it as a context manager; it is called once for each step.

    Args:
        peak_tflops: of all cards; None: MFU is not known.
        writes: whether this process keeps the log and shows anything: one of all cards does.
    """

    def __init__(
        self,
        config: TrainConfig,
        shape: ModelShape,
        log: Path,
        total_steps: int,
        peak_tflops: float | None,
        *,
        writes: bool = True,
    ) -> None:
        self._config, self._shape, self._peak_tflops = config, shape, peak_tflops
        self._log = log
        self._writes = writes
        self._total = total_steps
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (writes and self._console.is_terminal),
        )
        self._task = self._bar.add_task("", total=total_steps)
        self._before_s = self._said_s = time.monotonic()

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, step: int) -> None:
        """Begin behind `step`."""
        self._bar.update(self._task, completed=step)
        self._before_s = self._said_s = time.monotonic()

    def __call__(self, seen: dict[str, float]) -> None:
        """Note a step."""
        now_s = time.monotonic()
        seconds, self._before_s = max(now_s - self._before_s, 1e-9), now_s
        if not self._writes:
            return
        line = {**seen, "step": int(seen["step"]), "seconds": round(seconds, 4)}
        line["tokens_per_s"] = round(seen["num_tokens"] / seconds, 1)
        if self._peak_tflops is not None:
            line["mfu"] = round(mfu(self._model_flops(seen), seconds, self._peak_tflops), 4)
        if line["step"] % self._config.output.log_every_steps == 0 or line["step"] == self._total:
            self._keep(line)
        self._show(line, now_s)

    def _keep(self, line: dict[str, float]) -> None:
        """Add a line to the log; a full disk ends no run."""
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            self.say(f"step {line['step']} is not in {self._log}: {error.strerror}")

    def say(self, message: str) -> None:
        """Print a line for the user, above the bar."""
        if self._writes:
            self._console.print(f"galen: {message}", soft_wrap=True, markup=False, highlight=False)

    def _model_flops(self, seen: dict[str, float]) -> float:
        work = StepWork(
            tokens=seen["num_tokens"],
            answer_tokens=seen["num_targets"],
            images=seen["num_images"],
            attended_tokens=seen["attended_tokens"] / max(1.0, seen["num_tokens"]),
        )
        return step_flops(self._shape, self._config, work).model

    def _show(self, line: dict[str, float], now_s: float) -> None:
        said = f"loss {line['loss']:.3f}  {line['tokens_per_s']:,.0f} tokens/s"
        if "mfu" in line:
            said += f"  MFU {line['mfu']:.1%}"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=line["step"], description=said)
        elif now_s - self._said_s > _LINE_EVERY_S or line["step"] == self._total:
            left = (self._total - line["step"]) * line["seconds"]
            self._said_s = now_s
            self.say(f"step {line['step']} of {self._total}  {said}  {left / 60:.0f} min left")
