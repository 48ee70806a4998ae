import io
import struct
import time
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

from modeling.medical_images.choice import Choice
from modeling.medical_images.codestream import codestream_size
from modeling.medical_images.dicom_elements import read_elements
from modeling.medical_images.dicom_header import WANTED, read_header
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import Policy, read_medical
from modeling.medical_images.recipes import fingerprint
from modeling.medical_images.windows import CT_WINDOWS, Window
from tests.modeling.medical_images.dicom_files import (
    ct,
    deflated_bomb,
    dicom,
    nested,
    raw_file,
    written,
)
from tests.modeling.medical_images.shipped import shipped

RAMP = np.arange(-1200, -1200 + 64 * 64, dtype=np.int16).reshape(64, 64)


def grey(file: bytes, choice: Choice | None = None) -> np.ndarray:
    return np.asarray(read_medical(file, choice or Choice())[0])


def refusal(file: bytes, choice: Choice | None = None, policy: Policy | None = None) -> str:
    with pytest.raises(MedicalImageError) as caught:
        read_medical(file, choice or Choice(), policy)
    return caught.value.code


@pytest.mark.parametrize("name", CT_WINDOWS)
def test_a_named_window_is_black_below_and_white_above(name: str):
    window = CT_WINDOWS[name]
    seen = grey(ct(RAMP), Choice(window=name))

    assert (seen[window.center - 0.5 - window.width / 2 >= RAMP] == 0).all()
    assert (seen[window.center + window.width / 2 < RAMP] == 255).all()
    middle = seen[np.abs(RAMP - window.center) <= 1]
    assert np.abs(middle.astype(int) - 128).max() <= 128 // min(window.width, 40) + 8


def test_windows_are_for_hounsfield_units_only():
    assert refusal(dicom(RAMP, Modality="MR"), Choice(window="lung")) == "invalid_value"
    assert refusal(dicom(RAMP, Modality="CT"), Choice(recipe="ct-three-windows")) == "invalid_value"
    assert grey(dicom(RAMP, Modality="MR"), Choice(window=Window(0, 100))).max() == 255


def test_monochrome1_is_inverted():
    plain = grey(dicom(RAMP, WindowCenter=0, WindowWidth=1000))
    inverted = grey(
        dicom(RAMP, WindowCenter=0, WindowWidth=1000, PhotometricInterpretation="MONOCHROME1")
    )

    assert np.abs(plain.astype(int) + inverted - 255).max() <= 1


def test_rescaling_comes_before_the_window():
    stored = (RAMP + 1200).astype(np.uint16)
    tags = {"RescaleSlope": "1", "RescaleIntercept": "-1200", "Modality": "CT"}

    assert (grey(dicom(stored, **tags), Choice(window="bone")) == (
        grey(ct(RAMP), Choice(window="bone"))
    )).all()  # fmt: skip


def test_a_voi_lut_is_followed():
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 8])
    item.add_new("LUTData", "OW", np.array([0, 200, 100, 50], np.uint16).tobytes())
    pixels = np.tile(np.arange(4, dtype=np.uint8), (32, 8))

    seen = grey(dicom(pixels, VOILUTSequence=Sequence([item])))

    assert seen[0, :4].tolist() == [0, 200, 100, 50]


def test_a_frame_can_be_chosen_and_has_its_own_values():
    frames = np.stack([np.full((32, 32), n * 10, np.uint8) for n in range(1, 4)])
    file = dicom(frames, WindowCenter=128, WindowWidth=256)

    assert [int(grey(file, Choice(frame=n)).mean()) for n in (1, 2, 3)] == [10, 20, 30]
    assert refusal(file, Choice(frame=4)) == "invalid_value"
    assert refusal(file, Choice(slice=1)) == "invalid_value"


def test_enhanced_files_keep_their_windows_in_functional_groups():
    frames = np.stack([np.full((32, 32), 100, np.int16)] * 2)
    groups = []
    for center in (100, 600):
        voi, values, group = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 1000
        values.RescaleIntercept, values.RescaleSlope, values.RescaleType = 0, 1, "HU"
        group.FrameVOILUTSequence = Sequence([voi])
        group.PixelValueTransformationSequence = Sequence([values])
        groups.append(group)
    file = dicom(frames, Modality="CT", PerFrameFunctionalGroupsSequence=Sequence(groups))

    assert int(grey(file).mean()) == 128
    assert int(grey(file, Choice(frame=2)).mean()) == 0


def test_overlays_in_spare_bits_are_left_behind():
    pixels = np.full((32, 32), 100, np.uint16)
    drawn = pixels | 0x8000
    tags: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 9, "WindowWidth": 200}

    assert (grey(dicom(drawn, **tags)) == grey(dicom(pixels, **tags))).all()


def test_three_windows_become_three_channels():
    seen = grey(ct(RAMP), Choice(recipe="ct-three-windows"))

    assert seen.shape == (64, 64, 3)
    zero = seen[RAMP == 0][0]
    assert [abs(int(a) - b) <= 1 for a, b in zip(zero, (128, 98, 1), strict=True)] == [True] * 3


def test_a_fingerprint_names_what_decides_pixels_and_not_the_frame():
    base = fingerprint(Choice(), "model")

    assert base.startswith("default@1/")
    assert fingerprint(Choice(frame=7), "model") == base
    others = {
        fingerprint(Choice(window="lung"), "model"),
        fingerprint(Choice(window=Window(1, 2)), "model"),
        fingerprint(Choice(recipe="grey"), "model"),
        fingerprint(Choice(), "other model"),
    }
    assert len(others - {base}) == 4


# ------------------------------------------------------------------------------ hostile files


@pytest.mark.parametrize(
    ("file", "code"),
    [
        pytest.param(b"DICM" + bytes(400), "invalid_image", id="88 no preamble"),
        pytest.param(raw_file(b"", b"1.2.3.4"), "invalid_dicom", id="no pixels"),
        pytest.param(deflated_bomb(65 * 2**20), "image_too_large", id="92 bomb"),
        pytest.param(nested(10_000), "invalid_dicom", id="93 nesting"),
        pytest.param(nested(10), "invalid_dicom", id="93 endless"),
        pytest.param(raw_file(b"\x08\0\x10\0LO\xff\xff"), "invalid_dicom", id="length lie"),
        pytest.param(raw_file(b"\x08\0\x10\0LO\0\0" * 300_000), "invalid_dicom", id="many"),
    ],
)
def test_hostile_files_are_refused_within_a_second(file: bytes, code: str):
    start = time.process_time()

    assert refusal(file) == code
    assert time.process_time() - start < 1


def test_89_truncated_pixels_are_refused():
    assert refusal(dicom(RAMP)[:-100]) == "invalid_dicom"


def test_91_an_unknown_transfer_syntax_has_a_code_of_its_own():
    file = dicom(RAMP).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0")

    assert refusal(file) == "unsupported_transfer_syntax"


def test_too_many_pixels_are_refused_by_the_header():
    file = dicom(np.zeros((64, 64), np.uint8), Rows=7000, Columns=7000)

    assert refusal(file) == "image_too_large"


def test_a_compressed_frame_may_not_be_larger_than_the_header_says():
    file = shipped("693_J2KI.dcm")
    position = file.index(b"\xff\x4f\xff\x51")
    claimed = (50_000).to_bytes(4, "big")
    changed = file[: position + 8] + claimed + file[position + 12 :]

    assert codestream_size(changed[position:]) == (50_000, 512, 1)
    assert refusal(changed) == "invalid_dicom"


@pytest.mark.parametrize("side", [0, 1, 64, 128, 256, 511])
def test_80_89_a_frame_that_lacks_tiles_is_not_shown_with_black_ones(side: int):
    file = shipped("693_J2KI.dcm")  # one tile of 512 x 512
    place = file.index(b"\xff\x4f\xff\x51") + 24
    many = file[:place] + side.to_bytes(4, "big") * 2 + file[place + 8 :]

    assert refusal(many) == "invalid_dicom"
    assert (grey(file[:place] + b"\0\0\2\0" * 2 + file[place + 8 :]) == grey(file)).all()


@pytest.mark.parametrize(
    "name", ["MR_small_jp2klossless.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm",
             "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm"],
)  # fmt: skip
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_89_a_compressed_frame_that_was_cut_is_refused(name: str, kept: float):
    data = pydicom.dcmread(io.BytesIO(shipped(name)))
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = encapsulate([frame[: int(len(frame) * kept) // 2 * 2]])

    assert refusal(written(data)) == "invalid_dicom"


@given(st.binary(max_size=400))
def test_any_data_set_is_walked_or_refused(content: bytes):
    try:
        read_elements(raw_file(content), WANTED)
    except MedicalImageError as error:
        assert error.code == "invalid_dicom"  # noqa: PT017 - either end is right


def test_a_jpeg_2000_box_without_bytes_is_stepped_over():
    """pydicom would look at it for ever."""
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(8)
    size = bytes(4) + struct.pack(">4I", 32, 32, 0, 0) + bytes(16) + struct.pack(">H", 1)
    frame = encapsulate([boxes + b"\xff\x4f\xff\x51" + size + bytes(40)])
    file = raw_file(
        b"".join(
            struct.pack("<HH2sHH", 0x28, element, b"US", 2, value)
            for element, value in ((2, 1), (16, 32), (17, 32), (0x100, 8), (0x101, 8), (0x103, 0))
        )
        + b"\x28\0\x04\0CS\x0c\0MONOCHROME2 "
        + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
        + frame
        + b"\xfe\xff\xdd\xe0\0\0\0\0",
        b"1.2.840.10008.1.2.4.90",
    )

    assert refusal(file) == "invalid_dicom"


def test_an_element_that_stands_twice_is_refused():
    file = dicom(np.zeros((64, 48), np.uint8))
    rows = b"\x28\0\x10\0US\2\0"
    columns = b"\x28\0\x11\0US\2\0\x30\0"
    assert file.count(columns) == 1
    two_sizes = file.replace(columns, columns + rows + b"\x10\0")

    assert refusal(two_sizes) == "invalid_dicom"


@settings(max_examples=200, deadline=None)
@given(st.integers(132, 1200), st.binary(min_size=1, max_size=8))
def test_a_damaged_header_gives_pixels_or_a_reason(place: int, bytes_: bytes):
    file = bytearray(shipped("MR_small.dcm"))
    file[place : place + len(bytes_)] = bytes_
    try:
        image, _ = read_medical(bytes(file))
    except MedicalImageError as error:
        assert error.message  # noqa: PT017 - either end is right
    else:
        assert image.width * image.height > 0


@pytest.mark.parametrize(
    ("said", "burned_in"),
    [
        ("YES", "YES"), ("NO", "NO"), (["YES", "NO"], "YES"), (["NO", "YES"], "YES"),
        (["NO", "NO"], "NO"), (["NO", ""], ""), ("MAYBE", ""), ("", ""),
    ],
)  # fmt: skip
def test_any_yes_among_the_values_is_burnt_in(said: Any, burned_in: str):
    file = dicom(np.zeros((8, 8), np.uint8), BurnedInAnnotation=said)

    assert read_header(file).burned_in == burned_in
    assert (burned_in == "YES") == (code_of(file) == "phi_burned_in")


@pytest.mark.parametrize("vr", ["LO", "ST", "UT", "OB", "UN"])
@pytest.mark.parametrize("said", [b"YES ", b"NO\\YES ", b"YES\0"])
def test_a_yes_of_another_type_is_one(vr: str, said: bytes):
    head = b"\x28\0\x01\x03" + vr.encode()
    is_long = vr in ("UT", "OB", "UN")
    length = struct.pack("<HI", 0, len(said)) if is_long else struct.pack("<H", len(said))
    whole = dicom(np.zeros((8, 8), np.uint8), BurnedInAnnotation="NO")
    stated = b"\x28\0\x01\x03CS\x02\0NO"
    assert stated in whole

    assert code_of(whole.replace(stated, head + length + said)) == "phi_burned_in"


def code_of(file: bytes) -> str:
    try:
        read_medical(file)
    except MedicalImageError as error:
        return error.code
    return ""
