import numpy as np
import pytest

from modeling.demo_phantoms import COLOURS, DESCRIBE, QUESTIONS, Phantom, draw_phantom


@pytest.mark.parametrize("seed", range(30))
def test_the_shape_is_where_and_what_the_caption_says(seed: int) -> None:
    phantom, image = draw_phantom(np.random.default_rng(seed))
    assert (image.mode, image.size) == ("RGB", (112, 112))
    pixels = np.asarray(image).astype(int)
    # the background is grey, so what differs between the channels is the shape
    coloured = np.ptp(pixels, axis=2) > 30
    rows, columns = np.nonzero(coloured)
    assert ("left" if columns.mean() < 56 else "right") == phantom.side
    mean = pixels[coloured].mean(axis=0)
    nearest = min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))
    assert nearest == phantom.colour
    box_share = coloured.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
    flatness = (np.ptp(columns) + 1) / (np.ptp(rows) + 1)
    found = "bar" if flatness > 2 else "ring" if box_share < 0.6 else "disc"
    assert found == phantom.shape


def test_the_same_seed_draws_the_same_phantom() -> None:
    first, image = draw_phantom(np.random.default_rng(3))
    again, other = draw_phantom(np.random.default_rng(3))
    assert first == again
    assert image.tobytes() == other.tobytes()


def test_answers_say_what_was_asked_for() -> None:
    phantom = Phantom("red", "disc", "left")
    assert {phantom.answer(question) for question in DESCRIBE} == {phantom.caption}
    assert phantom.caption == "The image shows a red disc on the left."
    assert [phantom.answer(question) for question in QUESTIONS[len(DESCRIBE) :]] == [
        "It is red.",
        "It is a disc.",
        "It is on the left.",
    ]
