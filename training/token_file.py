"""The tokens of all usable examples, on the disk: each text is tokenised once.

Four bytes a token, with whether it is trained in the lowest bit; an image's placeholders are one
number. 500,000 examples of 180 text tokens are 360 MB, mapped and not read. What does *not* live
here: how a text becomes tokens (`examples.py`).
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from modeling.prompt import TokenisedPrompt

_IMAGE = np.uint32(0xFFFFFFFF)
_TYPE = np.dtype("<u4")


def packed(prompt: TokenisedPrompt) -> np.ndarray:
    """Return a prompt as uint32, one for each token of its texts and one for each image."""
    numbers = np.array(prompt.token_ids, _TYPE) << 1 | np.array(prompt.is_trained, _TYPE)
    kept = np.ones(len(numbers), bool)
    for start, end in prompt.image_spans:
        numbers[start] = _IMAGE
        kept[start + 1 : end] = False
    return numbers[kept]


class TokenWriter:
    """Writes a file that appears under its name when it is whole; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Of several machines that share a disk each may write one: the last takes the name.
        self._partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")

    def __enter__(self) -> "TokenWriter":
        self._file = self._partial.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if error is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def append(self, tokens: np.ndarray) -> None:
        """Write what `packed` gave for the next examples."""
        self._file.write(tokens.astype(_TYPE, copy=False).tobytes())


class TokenFile:
    """Reads one, in whichever process; each maps it for itself.

    Args:
        num_packed: of each example, int [E].
        image_ids: the tokens that stand for an image.
    """

    def __init__(self, path: Path, num_packed: np.ndarray, image_ids: Sequence[int]) -> None:
        self._path = path
        self._ends = np.cumsum(num_packed, dtype=np.int64)
        self._image_ids = list(image_ids)
        self._mapped: np.memmap | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}

    @property
    def is_whole(self) -> bool:
        """Whether the file is there and as long as it should be."""
        length = int(self._ends[-1]) if len(self._ends) else 0
        return self._path.is_file() and self._path.stat().st_size == length * _TYPE.itemsize

    def prompt(self, number: int) -> TokenisedPrompt:
        """Return an example's tokens."""
        if self._mapped is None:
            self._mapped = np.memmap(self._path, _TYPE, "r")
        start = int(self._ends[number - 1]) if number else 0
        numbers = np.array(self._mapped[start : int(self._ends[number])])
        prompt = TokenisedPrompt()
        at = 0
        for image_at in [*np.flatnonzero(numbers == _IMAGE).tolist(), len(numbers)]:
            text = numbers[at:image_at]
            prompt.token_ids += (text >> 1).tolist()
            prompt.is_trained += (text & 1).astype(bool).tolist()
            if image_at < len(numbers):
                first = len(prompt.token_ids)
                prompt.token_ids += self._image_ids
                prompt.is_trained += [False] * len(self._image_ids)
                prompt.image_spans.append((first, first + len(self._image_ids)))
            at = image_at + 1
        return prompt
