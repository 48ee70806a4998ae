import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def limit_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put Pillow's limit back: the decoder sets it for a process that it has to itself."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
