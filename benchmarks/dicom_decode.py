"""Measures what a DICOM film costs in the decoder child: time per megapixel, and memory (G12).

One film of a flat detector's size in each transfer syntax that can be written here; it goes the way
of the gateway: base64 into the child, clean pixels out. Lossless JPEG cannot be written here; it is
read from pydicom's own test file, which is small.

Run: python -m benchmarks.dicom_decode --help
"""

import asyncio
import base64
import io
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pydicom
import typer
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from benchmarks.page_sections import replace_section, table
from services.gateway.media.decode_messages import PLAIN
from services.gateway.media.decoder import ImageDecoder

SIZE = (3408, 2600)
"""8.9 megapixels: a chest film of a 43 x 35 cm detector with 0.13 mm pixels."""
TIME_GOAL_S, MEMORY_GOAL_MIB = 5.0, 512
_SYNTAXES = (ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _film() -> FileDataset:
    """Return a film of 12 bits: a smooth body with grain."""
    rows, columns = SIZE
    down, across = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    body = 3000 * np.exp(-1.5 * (down**2 + across**2))
    grain = np.random.default_rng(1).normal(0, 12, SIZE)
    pixels = np.clip(body + grain, 0, 4095).astype(np.uint16)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    data.Modality, data.PhotometricInterpretation = "DX", "MONOCHROME1"
    data.Rows, data.Columns, data.SamplesPerPixel = rows, columns, 1
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW"
    return data


def _files() -> Iterator[tuple[str, bytes, float]]:
    """Yield a name, a file and its megapixels."""
    for syntax in _SYNTAXES:
        film = _film()
        if syntax != ExplicitVRLittleEndian:
            film.compress(syntax)
        file = io.BytesIO()
        film.save_as(file, enforce_file_format=True)
        yield UID(syntax).name, file.getvalue(), SIZE[0] * SIZE[1] / 1e6
    path = Path(str(get_testdata_file("JPEG-LL.dcm", download=False)))
    if path.is_file():
        found = pydicom.dcmread(path, stop_before_pixels=True)
        yield "JPEG Lossless (small)", path.read_bytes(), found.Rows * found.Columns / 1e6


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def _measure(payload: str, rounds: int) -> tuple[float, float]:
    """Return the median seconds of a decoding, and the child's peak resident size, MiB."""
    async with ImageDecoder(num_children=1) as decoder:
        took_s: list[float] = []
        for _ in range(rounds + 1):
            began_s = time.monotonic()
            await decoder.decode(payload, "application/dicom", PLAIN)
            took_s.append(time.monotonic() - began_s)
        (pid,) = decoder.child_pids
        return statistics.median(took_s[1:]), _peak_mib(pid)  # the first loads the libraries


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Decodings of each file.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Page whose section is replaced.")] = None,
) -> None:
    """Decode a film in every transfer syntax, as the gateway does.

    For example:

    python -m benchmarks.dicom_decode --out docs/benchmarks.md
    """
    rows: list[list[str]] = []
    for name, file, megapixels in _files():
        payload = base64.b64encode(file).decode()
        took_s, peak_mib = asyncio.run(_measure(payload, rounds))
        is_met = took_s <= TIME_GOAL_S and peak_mib <= MEMORY_GOAL_MIB
        figures = (len(file) / 1e6, 1000 * took_s, 1000 * took_s / megapixels, peak_mib)
        told = [f"{figures[0]:.1f}", *(f"{figure:.0f}" for figure in figures[1:])]
        rows.append([name, *told, "met" if is_met else "**MISSED**"])
        typer.echo(" | ".join(rows[-1]))
    text = (
        "## DICOM in the decoder child (G12)\n\n"
        f"`python -m benchmarks.dicom_decode`; a film of {SIZE[1]} x {SIZE[0]} pixels, 12 bits, "
        f"from base64 to clean pixels, medians of {rounds} rounds. Goal: at most {TIME_GOAL_S:g} s "
        f"and {MEMORY_GOAL_MIB} MiB.\n\n"
        + table(["transfer syntax", "MB", "ms", "ms per megapixel", "peak MiB", "G12"], rows)
    )
    if out is not None:
        replace_section(out, "dicom-decode", text)


if __name__ == "__main__":
    app()
