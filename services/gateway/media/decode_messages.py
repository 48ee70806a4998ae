"""What the gateway and its decoder children say to each other, on the child's stdin and stdout.

One job: a length-prefixed MessagePack `DecodeJob`, then `payload_length` bytes of base64 as they
came. One answer: a length-prefixed MessagePack `DecodedImage` or `Refusal`. A child that is ready
for its first job says so with an empty frame. No pickle, no pixels in the gateway's process before
they are clean.
"""

import struct
from typing import Literal

import msgspec

from modeling.image_processing import MAX_PIXELS
from modeling.medical_images.choice import AS_IT_IS, BurnedIn, Choice, Facts
from services.protocol.messages import ImageRecipe

LENGTH = struct.Struct(">I")

# As `services.protocol.image_store.ImageEncoding`, without loading a Redis client in every child.
Encoding = Literal["rgb8", "png", "jpeg"]


class Preparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one image is prepared: what its client chose, its key allows and its model takes.

    Args:
        recipe: None: the model takes images of any size, shrunk to `fit_pixels` at most.
        burned_in: what is done with text within the pixels.
        is_heuristic: whether such text is also suspected where the file does not state it.
    """

    recipe: ImageRecipe | None = None
    choice: Choice = AS_IT_IS
    fit_pixels: int = MAX_PIXELS
    burned_in: BurnedIn = "block"
    is_heuristic: bool = False


PLAIN = Preparation()


class DecodeJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image to decode; the limits travel with it.

    Args:
        max_pixels: of the image as sent, checked on its header.
        max_data_bytes: of the answer's `data`.
        is_preview: the answer is to be looked at: PNG, whatever its size.
        cpu_limit_s: seconds of CPU time after which the child dies.
    """

    payload_length: int
    declared_mime: str
    preparation: Preparation
    max_pixels: int
    max_data_bytes: int
    cpu_limit_s: float
    is_preview: bool = False


class DecodedImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="decoded"):
    """Clean pixels, ready for the image store.

    Args:
        width: pixels, after preprocessing.
        height: pixels, after preprocessing.
        data: as `encoding` says; no metadata of the original is in it.
        sha256: of `data`, hex: what may stand in a log.
        source_pixels: width x height of the image as sent.
        facts: what may be told of the image as sent.
    """

    width: int
    height: int
    mode: Literal["RGB"]
    encoding: Encoding
    data: bytes
    sha256: str
    source_pixels: int
    preprocessing_version: int
    facts: Facts


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refused"):
    """Why an image is not taken; `code` is an `ErrorCode`, `message` holds nothing of the image.

    Args:
        field: of the choice, where that is at fault.
    """

    code: str
    message: str
    field: str = ""


Answer = DecodedImage | Refusal

encoder = msgspec.msgpack.Encoder()
job_decoder = msgspec.msgpack.Decoder(DecodeJob)
answer_decoder: "msgspec.msgpack.Decoder[DecodedImage | Refusal]" = msgspec.msgpack.Decoder(
    DecodedImage | Refusal
)
