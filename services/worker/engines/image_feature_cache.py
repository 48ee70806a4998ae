"""Features of a LLaVA's images: computed once for all questions on one image, and kept for a while.

The vision tower and the projector see one image at a time, whatever else a request holds, so that
its features are bit for bit the same whether they were kept or not. They are kept in main memory:
a card has better use for its own, and the way back takes less than a millisecond. What does *not*
live here: prefixes of whole prompts (vLLM has a cache of those).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from services.protocol.image_store import ByteBoundedCache


@dataclass(frozen=True, slots=True)
class ImageKey:
    """What the features of an image depend on.

    Args:
        sha256: of the image, as `ImageRef` has it.
        adapter: as `AdapterRows.key_of` names it: an adapter may change tower and projector.
    """

    sha256: str
    adapter: str


@dataclass(frozen=True, slots=True)
class _Kept:
    tensor: torch.Tensor  # [P, D]: P patches, D width of the language model

    @property
    def num_bytes(self) -> int:
        return self.tensor.nbytes


class ImageFeatureCache:
    """The features used last; from one thread only, its counts from any.

    Args:
        max_bytes: of all that are kept; 0: none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._keeps = max_bytes > 0
        self._kept: ByteBoundedCache[_Kept] = ByteBoundedCache(max_bytes)
        self.num_encoded = 0
        self.num_reused = 0

    def features(
        self,
        images: Sequence[torch.Tensor],
        keys: Sequence[ImageKey],
        encode: Callable[[torch.Tensor], torch.Tensor],
    ) -> list[torch.Tensor]:
        """Return features [P, D] of each image, on its device.

        Args:
            images: pixels [1, 3, H, W].
            keys: of the images; none: they are neither looked up nor kept.
        """
        if not keys or not self._keeps:
            self.num_encoded += len(images)
            return [encode(image) for image in images]
        return [self._one(*each, encode) for each in zip(images, keys, strict=True)]

    def _one(
        self, image: torch.Tensor, key: ImageKey, encode: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        name = f"{key.adapter} {key.sha256}"
        kept = self._kept.get(name)
        if kept is not None:
            self.num_reused += 1
            return kept.tensor.to(image.device)
        features_PD = encode(image)
        self.num_encoded += 1
        # a copy: on a CPU it would be a view that keeps those of the whole tower alive
        self._kept.put(name, _Kept(features_PD.to("cpu", copy=True)))
        return features_PD
