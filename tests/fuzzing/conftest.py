import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def limit_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put Pillow's limit back behind a test: the decoder sets it for the process that it has alone."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
