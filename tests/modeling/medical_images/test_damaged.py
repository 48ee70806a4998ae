"""What fuzzing found: files that ended the process, or raised what was no refusal."""

import numpy as np
import pytest

from modeling.medical_images.choice import AS_IT_IS
from modeling.medical_images.dicom import decode_frame
from modeling.medical_images.dicom_header import read_header
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.frame_process import decode_apart
from modeling.medical_images.reading import Policy, read_medical
from tests.modeling.medical_images.shipped import jpeg_extended_with_a_sign, shipped

LOSSLESS = "SC_rgb_jpeg_gdcm.dcm"


def damaged(name: str, at: int, value: int) -> bytes:
    file = bytearray(shipped(name))
    file[at] = value
    return bytes(file)


def in_stream(offset: int) -> int:
    """Place of a byte of the JPEG stream in the file."""
    return shipped(LOSSLESS).index(b"\xff\xd8\xff") + offset


@pytest.mark.parametrize(("offset", "value"), [(3, 0), (22, 254)])  # SIGABRT, SIGSEGV in GDCM
def test_a_decoder_that_ends_its_process_does_not_end_ours(offset: int, value: int):
    with pytest.raises(MedicalImageError) as caught:
        read_medical(damaged(LOSSLESS, in_stream(offset), value))
    assert caught.value.code == "invalid_dicom"


def test_a_frame_decoded_apart_is_the_same_frame():
    file = shipped(LOSSLESS)

    assert np.array_equal(decode_apart(file, 1), decode_frame(read_header(file), 1))
    apart, here = (read_medical(file, AS_IT_IS, Policy(may_die=m))[0] for m in (False, True))
    assert apart.tobytes() == here.tobytes()


def test_an_element_of_no_known_type_is_a_refusal():
    file = bytearray(shipped("CT_small.dcm"))
    at = file.index(b"\x28\x00\x03\x01US")  # pixel representation
    file[at + 4 : at + 6] = b"RS"

    with pytest.raises(MedicalImageError) as caught:
        read_medical(bytes(file))
    assert caught.value.code == "invalid_dicom"
    assert "RS" not in caught.value.message


def test_a_syntax_that_is_not_taken_is_said_before_a_process_is_started():
    with pytest.raises(MedicalImageError) as caught:
        read_medical(jpeg_extended_with_a_sign())
    assert caught.value.code == "unsupported_transfer_syntax"
