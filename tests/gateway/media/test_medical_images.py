import numpy as np
import psutil
import pytest
from PIL import Image

from modeling.medical_images.choice import BurnedIn, Choice
from services.gateway.media.decode_messages import Preparation
from services.gateway.media.decoder import ImageDecoder
from services.protocol.errors import ErrorCode, RequestError
from tests.gateway.media.decoding import decode, pixels, refusal
from tests.gateway.media.image_files import b64, noise, saved
from tests.modeling.medical_images.dicom_files import ct, deflated_bomb, dicom, nested, raw_file
from tests.modeling.medical_images.nifti_files import nifti
from tests.modeling.medical_images.shipped import jpeg_extended_with_a_sign, shipped

GREY = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))


async def dicom_with(
    decoder: ImageDecoder, file: bytes, burned_in: BurnedIn, *, is_heuristic: bool = False
) -> np.ndarray:
    preparation = Preparation(burned_in=burned_in, is_heuristic=is_heuristic)
    return np.asarray(pixels(await decoder.decode(b64(file), "application/dicom", preparation)))


# -------------------------------------------------------------------------- ordinary formats


@pytest.mark.parametrize(("image_format", "kind"), [("TIFF", "tiff"), ("BMP", "bmp")])
async def test_tiff_and_bmp_come_back_as_their_pixels(
    decoder: ImageDecoder, image_format: str, kind: str
):
    image = noise(60, 40)

    assert (await decode(decoder, saved(image, image_format), kind)).data == image.tobytes()


@pytest.mark.parametrize(("image_format", "kind"), [("TIFF", "tiff"), ("GIF", "gif")])
async def test_78_only_the_first_of_many_pages_is_decoded(
    decoder: ImageDecoder, image_format: str, kind: str
):
    frames = [Image.new("L", (32, 32), shade % 256) for shade in range(500)]
    file = saved(frames[0], image_format, save_all=True, append_images=frames[1:])

    assert (await decode(decoder, file, kind)).data == bytes(3 * 32 * 32)


@pytest.mark.parametrize(("image_format", "kind"), [("TIFF", "tiff"), ("GIF", "gif")])
async def test_too_small_truncated_and_misdeclared_files_are_refused(
    decoder: ImageDecoder, image_format: str, kind: str
):
    file = saved(noise(64, 64), image_format)

    assert await refusal(decoder, saved(noise(20, 20), image_format), kind) == (
        ErrorCode.IMAGE_TOO_SMALL
    )
    assert await refusal(decoder, file[: len(file) // 2], kind) == ErrorCode.INVALID_IMAGE
    assert await refusal(decoder, file, "png") == ErrorCode.INVALID_IMAGE


async def test_choices_of_medical_files_are_refused_for_others(decoder: ImageDecoder):
    file = saved(noise(64, 64), "PNG")

    assert await refusal(decoder, file, choice=Choice(frame=2)) == ErrorCode.INVALID_VALUE


# -------------------------------------------------------------------------------------- DICOM


async def test_a_dicom_file_becomes_pixels_and_facts(decoder: ImageDecoder):
    decoded = await decode(decoder, shipped("CT_small.dcm"), "dicom")

    assert (decoded.width, decoded.height, decoded.encoding) == (128, 128, "rgb8")
    assert (decoded.facts.modality, decoded.facts.window, decoded.facts.bits) == ("CT", "range", 16)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        pytest.param(shipped("CT_small.dcm")[128:], ErrorCode.INVALID_DICOM, id="88"),
        pytest.param(shipped("MR_truncated.dcm"), ErrorCode.INVALID_DICOM, id="89"),
        pytest.param(
            jpeg_extended_with_a_sign(), ErrorCode.UNSUPPORTED_TRANSFER_SYNTAX, id="91"
        ),
        pytest.param(deflated_bomb(65 * 2**20), ErrorCode.IMAGE_TOO_LARGE, id="92"),
        pytest.param(nested(10_000), ErrorCode.INVALID_DICOM, id="93"),
        pytest.param(raw_file(b""), ErrorCode.INVALID_DICOM, id="no pixels"),
        pytest.param(shipped("dicomdirtests/DICOMDIR"), ErrorCode.INVALID_DICOM, id="94"),
        pytest.param(
            dicom(GREY, BurnedInAnnotation="YES"), ErrorCode.PHI_BURNED_IN, id="95 burned in"
        ),
        pytest.param(dicom(GREY[:20, :20]), ErrorCode.IMAGE_TOO_SMALL, id="20 x 20"),
    ],
)  # fmt: skip
async def test_bad_dicom_files_have_their_codes(
    decoder: ImageDecoder, file: bytes, code: ErrorCode
):
    assert await refusal(decoder, file, "dicom") == code


@pytest.mark.parametrize("side", [1, 3, 4, 64])
async def test_80_a_jpeg_2000_frame_of_many_tiles_is_invalid_soon(decoder: ImageDecoder, side: int):
    file = shipped("693_J2KI.dcm")  # one tile of 512 x 512
    tile_size = file.index(b"\xff\x4f\xff\x51") + 24
    many = file[:tile_size] + side.to_bytes(4, "big") * 2 + file[tile_size + 8 :]
    child = psutil.Process(decoder.child_pids[0])
    await decode(decoder, file, "dicom")  # its libraries are loaded
    before = child.cpu_times().user

    assert await refusal(decoder, many, "dicom") == ErrorCode.INVALID_DICOM
    assert child.cpu_times().user - before < 5


async def test_a_refused_choice_names_its_field(decoder: ImageDecoder):
    preparation = Preparation(choice=Choice(frame=3))

    with pytest.raises(RequestError) as caught:
        await decoder.decode(b64(ct(GREY)), "application/dicom", preparation)

    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, "frame")


async def test_a_mask_blackens_an_eighth_of_each_side(decoder: ImageDecoder):
    white = np.full((64, 64), 255, np.uint8)
    file = dicom(white, BurnedInAnnotation="YES", WindowCenter=128, WindowWidth=256)

    masked = await dicom_with(decoder, file, "mask")
    allowed = await dicom_with(decoder, file, "allow")

    assert masked[8:-8, 8:-8].min() == 255
    assert masked.sum() == 255 * 48 * 48 * 3
    assert allowed.min() == 255


async def test_lines_of_text_in_a_margin_are_suspected_where_the_operator_wants_it(
    decoder: ImageDecoder,
):
    picture = np.zeros((96, 96), np.uint8)
    picture[:10, ::3] = 255  # as letters are: many steps in a dark strip
    file = dicom(picture, Modality="US")

    with pytest.raises(RequestError) as caught:
        await dicom_with(decoder, file, "block", is_heuristic=True)
    assert caught.value.code == ErrorCode.PHI_BURNED_IN
    assert (await dicom_with(decoder, file, "block")).max() == 255
    assert (await dicom_with(decoder, file, "mask", is_heuristic=True))[:12].max() == 0
    stated = dicom(picture, Modality="US", BurnedInAnnotation="NO")
    assert (await dicom_with(decoder, stated, "block", is_heuristic=True)).max() == 255


# -------------------------------------------------------------------------------------- NIfTI


async def test_a_slice_of_a_packed_volume_becomes_pixels(decoder: ImageDecoder):
    volume = np.zeros((40, 50, 30), np.int16)
    volume[:, :, 4] = 1000
    volume[:20, :, 4] = 500

    decoded = await decoder.decode(
        b64(nifti(volume, is_packed=True)), "application/gzip", Preparation(choice=Choice(slice=5))
    )

    assert (decoded.width, decoded.height) == (40, 50)
    assert (decoded.facts.slice, decoded.facts.slices) == (5, 30)
    seen = np.asarray(pixels(decoded))[:, :, 0]
    assert (seen[:, 0].max(), seen[:, -1].max()) == (0, 255)  # the patient's left is at the right
