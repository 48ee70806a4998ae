"""What is drawn is what is said to be drawn."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from datagen.phantoms.canvas import SIZE_PX
from datagen.phantoms.drawing_phantoms import draw_scan, draw_scan_facts, paint_scan
from datagen.phantoms.drawing_shapes import draw_picture, draw_picture_facts, paint_picture
from datagen.phantoms.facts import ORGANS, Facts, Picture, Scan, Spots


def scan_and_difference(seed: int) -> tuple[Facts, np.ndarray]:
    rng = np.random.default_rng(seed)
    scan = draw_scan_facts(rng)
    state = rng.bit_generator.state
    image = np.asarray(paint_scan(scan, rng)).astype(int)
    rng.bit_generator.state = state
    without = np.asarray(paint_scan(replace(scan, spots=Spots()), rng)).astype(int)
    return scan, np.abs(image - without).max(axis=2)


def picture_and_difference(seed: int) -> tuple[Facts, np.ndarray]:
    rng = np.random.default_rng(seed)
    picture = draw_picture_facts(rng)
    state = rng.bit_generator.state
    image = np.asarray(paint_picture(picture, rng)).astype(int)
    rng.bit_generator.state = state
    bare = replace(picture, spots=Spots(), spot_colour=None)
    without = np.asarray(paint_picture(bare, rng)).astype(int)
    return picture, np.abs(image - without).max(axis=2)


def blobs(mask: np.ndarray) -> list[np.ndarray]:
    """Return the pixels (row, column) of each connected part of a mask, corners included."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    found: list[np.ndarray] = []
    while left:
        waiting, blob = [left.pop()], []
        while waiting:
            row, column = waiting.pop()
            blob.append((row, column))
            near = {(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            waiting.extend(near)
        found.append(np.array(blob))
    return found


def attributes_seen(difference: np.ndarray) -> dict[str, str]:
    """Return what the changed pixels tell about spots."""
    found = blobs(difference > 12)
    seen = {"present": "yes" if found else "no", "count": ("zero", "one", "two")[len(found)]}
    if not found:
        return seen
    middles = [blob.mean(axis=0) + 0.5 for blob in found]
    sides = {"left" if column < SIZE_PX / 2 else "right" for _, column in middles}
    locations = {"upper" if row < SIZE_PX / 2 else "lower" for row, _ in middles}
    sizes = {"small" if len(blob) < np.pi * 4.1**2 else "large" for blob in found}
    side = "both" if len(sides) == 2 else sides.pop()
    return {**seen, "side": side, "location": "/".join(locations), "size": "/".join(sizes)}


@pytest.mark.parametrize("look", [scan_and_difference, picture_and_difference])
def test_pixels_agree_with_count_side_location_and_size(
    look: Callable[[int], tuple[Facts, np.ndarray]],
) -> None:
    for seed in range(200):
        facts, difference = look(seed)
        assert attributes_seen(difference) == facts.spots.attributes, f"{facts}, seed {seed}"


def test_lesions_stand_out_from_what_is_around_them() -> None:
    for seed in range(200):
        facts, difference = scan_and_difference(seed)
        for x, y in facts.spots.centres_px:
            row, column = int(y), int(x)
            assert difference[row - 1 : row + 2, column - 1 : column + 2].mean() > 45, f"{facts}"


@pytest.mark.parametrize("draw", [draw_scan, draw_picture])
def test_the_same_seed_draws_the_same_bytes(
    draw: Callable[[np.random.Generator], tuple[Facts, object]],
) -> None:
    for seed in range(20):
        facts, image = draw(np.random.default_rng(seed))
        again, other = draw(np.random.default_rng(seed))
        assert facts == again
        assert np.array_equal(np.asarray(image), np.asarray(other))


def test_images_are_rgb_of_64_pixels() -> None:
    for _, image in (draw_scan(np.random.default_rng(0)), draw_picture(np.random.default_rng(0))):
        assert (image.mode, image.size) == ("RGB", (64, 64))


def test_modality_and_organ_are_not_one_and_the_same() -> None:
    seen = {(scan.modality, scan.organ) for scan in scans(600)}
    assert seen == {(modality, organ) for modality in ORGANS for organ in ORGANS[modality]}
    for organ in ("chest", "brain"):
        assert len({modality for modality, other in seen if other == organ}) == 2


def test_no_value_is_much_more_likely_than_the_others() -> None:
    drawn = scans(3000)
    for attribute, values in (("modality", 5), ("count", 3), ("location", 2), ("size", 2)):
        found = [s.attributes[attribute] for s in drawn if attribute in s.attributes]
        _, counts = np.unique(found, return_counts=True)
        assert len(counts) == values
        assert counts.max() / len(found) < 1.15 / values


def test_four_in_ten_pictures_are_grey() -> None:
    pictures = [draw_picture(np.random.default_rng(seed)) for seed in range(500)]
    grey = [np.ptp(np.asarray(image).astype(int), axis=2).max() == 0 for _, image in pictures]
    assert 0.33 < np.mean(grey) < 0.5
    assert all(isinstance(facts, Picture) for facts, _ in pictures)


def scans(number: int) -> list[Scan]:
    return [draw_scan_facts(np.random.default_rng(seed)) for seed in range(number)]
