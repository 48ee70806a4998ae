"""What the launcher and `galen ask` write: results to stdout; progress and logs to stderr."""

import contextlib
from collections.abc import AsyncIterator, Generator, Sequence

from rich.console import Console
from rich.text import Text

_COLOURS = ("cyan", "green", "magenta", "blue", "yellow")
_OWN_NAME = "galen"
# A model's answer must not steer the terminal: no control characters but tab and line feed.
_NO_CONTROLS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {0x09, 0x0A})


class CommandError(Exception):
    """A command failed: the user is told in one line, and `details` stand below it. Exit code 1."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


class Terminal:
    """Keeps a streamed answer in one piece: log lines wait until it has ended."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._err = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
        self._width = max(len(name) for name in (_OWN_NAME, *names))
        self._held: list[tuple[str, str]] | None = None

    def result(self, line: str, style: str = "") -> None:
        """Write one line of what the user asked for."""
        self._out.print(Text(line, style=style))
        self._out.file.flush()

    def piece(self, text: str) -> None:
        """Write a part of an answer at once."""
        if self._out.is_terminal:
            text = text.translate(_NO_CONTROLS)
        self._out.file.write(text)
        self._out.file.flush()

    async def answer(self, pieces: AsyncIterator[str]) -> bool:
        """Write an answer as it comes, without the space that it may begin with.

        Returns whether there was one.
        """
        is_begun = False
        try:
            async for piece in pieces:
                shown = piece if is_begun else piece.lstrip()
                if shown:
                    is_begun = True
                    self.piece(shown)
        finally:
            if is_begun:
                self.piece("\n")
        return is_begun

    def progress(self, line: str) -> None:
        """Write a line about what the launcher does."""
        self.log(_OWN_NAME, line)

    def log(self, name: str, line: str) -> None:
        """Write a line that a child printed, with its name before it."""
        if self._held is not None:
            self._held.append((name, line))
            return
        prefix = f"{name:<{self._width}} │ "
        text = Text(prefix, style=self._colours.get(name, "bold")).append(
            line.translate(_NO_CONTROLS), style="none"
        )
        with contextlib.suppress(OSError):  # the terminal is gone: serving goes on without it
            self._err.print(text)

    def failure(self, error: CommandError) -> None:
        """Write why the command failed."""
        with contextlib.suppress(OSError):
            self._err.print(Text(f"galen: {error.message}", style="red"))
            for line in error.details:
                self._err.print(Text(f"  {line.translate(_NO_CONTROLS)}"))

    @contextlib.contextmanager
    def hold_logs(self) -> Generator[None, None, None]:
        """Keep log lines back while an answer is being written."""
        held: list[tuple[str, str]] = []
        self._held = held
        try:
            yield
        finally:
            self._held = None
            for name, line in held:
                self.log(name, line)
