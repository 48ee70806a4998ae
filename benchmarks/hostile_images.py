"""Measures goal G12 on hostile files: memory and processor time of the decoder child for each.

Bombs, headers that claim more than there is, floods of frames, tiles and chunks, damaged pixel data
of every format that is taken, DICOM and NIfTI included. What honest films cost: `dicom_decode.py`.

Run: python -m benchmarks.hostile_images --help
"""

import asyncio
import base64
import gzip
import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from PIL import Image

from benchmarks.page_sections import MeasuredSection, replace_section
from benchmarks.processes import cpu_seconds, peak_rss_mb
from services.gateway.media.data_url import MAX_IMAGE_BYTES, MIME_BY_FORMAT
from services.gateway.media.decoder import ImageDecoder
from services.protocol.errors import GalenError, RequestError
from tests.gateway.media.image_files import (
    apng,
    jpeg_of_declared_size,
    noise,
    one_bit_bomb,
    png,
    saved,
    text_bombs,
    webp_of_declared_size,
)
from tests.modeling.medical_images.dicom_files import deflated_bomb, dicom, nested, raw_file
from tests.modeling.medical_images.nifti_files import nifti

MEMORY_GOAL_MIB, CPU_GOAL_S = 512, 5.0
_TICK_S = 0.1
"""A child that is killed at its limit of 5 s has used a little more by the clock ticks."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Files = list[tuple[str, str, Callable[[], bytes]]]


def _files() -> Files:
    """Return format, name and maker of each file; the largest have 20 MiB."""
    big = Image.new("RGB", (6324, 6324), (9, 80, 160))  # 40 megapixels
    return [
        ("PNG", "50,000 x 50,000 in one bit", one_bit_bomb),
        ("PNG", "40 megapixels of one colour", lambda: saved(big, "PNG")),
        ("PNG", "iCCP of 64 MiB", lambda: png(64, 64, before_pixels=text_bombs()["iCCP"])),
        ("PNG", "zTXt of 64 MiB", lambda: png(64, 64, before_pixels=text_bombs()["zTXt"])),
        ("PNG", "10,000 frames", lambda: apng(10_000)),
        ("JPEG", "header of 65,535 x 65,535", lambda: jpeg_of_declared_size(65_535, 65_535)),
        ("JPEG", "40 megapixels, progressive", lambda: saved(big, "JPEG", progressive=True)),
        ("JPEG", "header of 40 megapixels, no pixels", lambda: jpeg_of_declared_size(6324, 6324)),
        ("WEBP", "header of 16,384 x 16,384", lambda: webp_of_declared_size(16_384, 16_384)),
        ("WEBP", "28 megapixels", lambda: saved(big.resize((5290, 5290)), "WEBP", lossless=True)),
        ("GIF", "2,000 frames", lambda: _many("GIF", 2000)),
        ("GIF", "40 megapixels", lambda: saved(big.convert("P"), "GIF")),
        ("TIFF", "2,000 pages", lambda: _many("TIFF", 2000)),
        ("TIFF", "40 megapixels, deflated", lambda: saved(big, "TIFF", compression="tiff_deflate")),
        ("TIFF", "40 megapixels of floats", lambda: saved(
            Image.new("F", (6324, 6324)), "TIFF", compression="tiff_deflate")),
        ("BMP", "header of 6,324 x 6,324, no pixels", lambda: saved(
            noise(64, 64), "BMP")[:18] + struct.pack("<ii", 6324, 6324) + bytes(64)),
        ("DICOM", "deflated, 1 GiB", lambda: deflated_bomb(1 << 30)),
        ("DICOM", "10,000 nested sequences", lambda: nested(10_000)),
        ("DICOM", "a million elements", lambda: raw_file(
            b"\x09\0\x10\0UN\0\0\0\0\0\0" * 1_000_000)),
        ("DICOM", "40 megapixels, RLE", lambda: _compressed("1.2.840.10008.1.2.5")),
        ("DICOM", "40 megapixels, JPEG 2000", lambda: _compressed("1.2.840.10008.1.2.4.90")),
        ("DICOM", "40 megapixels, JPEG-LS", lambda: _compressed("1.2.840.10008.1.2.4.80")),
        ("NIFTI", "gzip of 1 GiB", lambda: _packed(1 << 30)),
        ("NIFTI", "4,096 x 4,096 x 3 of floats, packed", lambda: nifti(
            np.zeros((4096, 4096, 3), np.float32), is_packed=True)),
        *((name, "20 MiB of noise behind its head", lambda n=name: _noise(n))
          for name in MIME_BY_FORMAT if name not in ("DICOM", "NIFTI")),
    ]  # fmt: skip


def _many(name: str, number: int) -> bytes:
    frames = [noise(28, 28, seed) for seed in range(2)] * (number // 2)
    return saved(frames[0], name, save_all=True, append_images=frames[1:])


def _compressed(syntax: str) -> bytes:
    import pydicom  # noqa: PLC0415 - half a second that other files need not wait for

    data = pydicom.dcmread(io.BytesIO(dicom(np.zeros((6324, 6324), np.uint16))))
    data.compress(syntax)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _packed(num_bytes: int) -> bytes:
    head = nifti(np.zeros((2, 2, 2), np.uint8))[:352]
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=9) as packer:
        packer.write(head)
        for _ in range(num_bytes >> 20):
            packer.write(bytes(1 << 20))
    return file.getvalue()


def _noise(name: str) -> bytes:
    head = saved(noise(640, 480).convert("P" if name == "GIF" else "RGB"), name)[:1024]
    rest = np.random.default_rng(1).bytes(MAX_IMAGE_BYTES - len(head))
    return head + rest


async def _measure(mime: str, file: bytes) -> tuple[str, float, float]:
    """Return what became of a file, processor seconds and peak MiB of a new child."""
    payload = base64.b64encode(file).decode()
    async with ImageDecoder(num_children=1) as decoder:
        pids = decoder.child_pids
        before_s = cpu_seconds(pids)
        watching = asyncio.create_task(_watch(pids))
        try:
            await decoder.decode(payload, mime)
            outcome = "taken"
        except RequestError as error:
            outcome = error.code
        except GalenError as error:
            outcome = f"**{error.code}**"
        await asyncio.sleep(2 * _TICK_S)
        watching.cancel()
        used_s, peak_mib = _seen.pop(pids[0], (before_s, 0.0))
        return outcome, used_s - before_s, peak_mib


_seen: dict[int, tuple[float, float]] = {}


async def _watch(pids: list[int]) -> None:
    """Note what a child has used, also of one that dies."""
    while True:
        if peak := peak_rss_mb(pids):
            _seen[pids[0]] = (cpu_seconds(pids), peak * 1e6 / 2**20)
        await asyncio.sleep(_TICK_S / 2)


def _rows() -> Iterator[list[str]]:
    for name, what, make in _files():
        file = make()
        outcome, used_s, peak_mib = asyncio.run(_measure(MIME_BY_FORMAT[name], file))
        is_met = (
            used_s <= CPU_GOAL_S + _TICK_S and peak_mib <= MEMORY_GOAL_MIB and "*" not in outcome
        )
        row = [f"{name}: {what}", f"{len(file) / 1e6:.2f}", outcome, f"{used_s:.2f}",
               f"{peak_mib:.0f}", "met" if is_met else "**MISSED**"]  # fmt: skip
        typer.echo(" | ".join(row))
        yield row


@app.command()
def bench(
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Show hostile files to the decoder, each to a child of its own; prints a section of Markdown.

    For example:

    python -m benchmarks.hostile_images --out docs/benchmarks.md
    """
    busy_before = psutil.getloadavg()[0]
    rows = list(_rows())
    what_ran = (
        f"Each file to a new child, from base64. Goal: at most {MEMORY_GOAL_MIB} MiB and",
        f"{CPU_GOAL_S:g} s of processor time, and an answer of 400 where it is not taken.",
    )
    section = MeasuredSection(
        "hostile-images",
        "Hostile images in the decoder child (G12)",
        what_ran,
        rows,
        busy_before,
        ("file", "MB", "outcome", "CPU s", "peak MiB", "G12"),
    )
    if out is None:
        typer.echo(section.text())
    else:
        replace_section(out, section.name, section.text())


if __name__ == "__main__":
    app()
