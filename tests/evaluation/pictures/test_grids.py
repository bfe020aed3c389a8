"""Grids: the pixels of every image stand in the picture, unblurred, where they belong."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from advdmd_ray.evaluation.pictures.grids import (
    MOST_PIXELS,
    column_labels,
    comparison_grid,
    save_grid,
    tiles_that_fit,
    to_pixels,
)

GREY = np.linspace(-0.9, 0.9, 10).tolist()


def flat(values: list[float], channels: int = 1, side: int = 8) -> np.ndarray:
    return np.stack([np.full((channels, side, side), value, dtype=np.float32) for value in values])


def tinted(values: list[float]) -> np.ndarray:
    """Colours that no letter of a label has."""
    images = flat(values, channels=3)
    images[:, 0] = -1.0
    return images


def shades(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_minus_one_is_black_one_is_white_and_beyond_is_clipped() -> None:
    pixels = to_pixels(flat([-1.0, 1.0, -7.0, 7.0]))
    assert [int(tile.min()) for tile in pixels] == [0, 255, 0, 255]
    assert [int(tile.max()) for tile in pixels] == [0, 255, 0, 255]


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 3]))
def test_enlarging_repeats_pixels_and_invents_none(scale: int, side: int, channels: int) -> None:
    images = np.random.default_rng(side).uniform(-1, 1, (2, channels, side, side)).astype(np.float32)
    large = to_pixels(images, scale)
    assert large.shape == (2, side * scale, side * scale, 3)
    for i in range(scale):
        assert (large[:, i::scale, i::scale] == to_pixels(images)).all()


def test_a_grid_holds_every_image_in_reading_order(tmp_path: Path) -> None:
    path = save_grid(tmp_path / "made" / "grid.png", flat(GREY), columns=4, scale=3, caption="cycle 5")
    picture = shades(path)
    expected = [int(tile[0, 0, 0]) for tile in to_pixels(flat(GREY))]
    found = []
    for row in picture[:, :, 0]:
        runs = [shade for shade in expected if (row == shade).sum() >= 24]
        found += [shade for shade in runs if shade not in found]
    assert found == expected


def test_a_comparison_has_a_row_for_each_sampler_and_a_column_for_each_prompt(tmp_path: Path) -> None:
    samplers = {"teacher, 40 steps": tinted([-0.9, -0.5, 0.0]), "student, 4 steps": tinted([0.2, 0.5, 0.8])}
    prompts = ["a handwritten zero", "a handwritten one", "a very long prompt " * 9]
    picture = shades(comparison_grid(tmp_path / "comparison.png", samplers, prompts, scale=6))
    centres = []
    for images in samplers.values():
        for tile in to_pixels(images, 6):
            rows, columns = np.nonzero((picture == tile[0, 0]).all(axis=2))
            assert len(rows) == 48 * 48
            centres.append((rows.mean(), columns.mean()))
    (a, b, c), (d, e, f) = centres[:3], centres[3:]
    assert a[0] == b[0] == c[0] < d[0] == e[0] == f[0]
    assert a[1] == d[1] < b[1] == e[1] < c[1] == f[1]


def test_several_images_of_one_prompt_stand_below_each_other(tmp_path: Path) -> None:
    one = shades(comparison_grid(tmp_path / "a.png", {"s": flat(GREY[:2])}, ["x", "y"], scale=6))
    two = shades(comparison_grid(tmp_path / "b.png", {"s": flat(GREY[:4])}, ["x", "y"], scale=6))
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] - one.shape[0] == 8 * 6 + 4


def test_columns_are_labelled_by_what_tells_their_prompts_apart() -> None:
    assert column_labels(["a handwritten one", "a handwritten two"]) == ["one", "two"]
    assert column_labels(["a red circle", "two squares"]) == ["a red circle", "two squares"]
    assert column_labels(["a circle", "a circle above a square"]) == ["circle", "circle above a square"]
    assert column_labels(["a circle"]) == ["a circle"]


@pytest.mark.parametrize(
    ("samplers", "words"),
    [
        ({}, "at least one"),
        ({"s": flat([0.0, 0.1, 0.2])}, "do not fill rows of 2"),
        ({"s": flat([0.0, 0.1]), "t": flat([0.0, 0.1], side=4)}, "one shape"),
        ({"s": flat([0.0, np.nan])}, "finite"),
        ({"s": flat([0.0, 0.1], channels=2)}, "1 or 3 channels"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, samplers: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        comparison_grid(tmp_path / "no.png", samplers, ["x", "y"])
    assert not (tmp_path / "no.png").exists()


@given(st.integers(1, 8192), st.integers(1, 8192), st.integers(1, 9), st.integers(1, 12))
def test_as_many_tiles_are_shown_as_fit_at_full_size_and_at_least_one(
    height: int, width: int, rows: int, columns: int
) -> None:
    fit, across = tiles_that_fit(height, width, rows, columns)
    assert 1 <= fit <= rows
    assert 1 <= across <= columns
    assert fit * across == 1 or fit * across * height * width <= MOST_PIXELS


def test_small_images_keep_their_grid_and_large_ones_have_fewer_tiles() -> None:
    assert tiles_that_fit(8, 8, 6, 10) == (6, 10)
    assert tiles_that_fit(512, 512, 6, 10) == (6, 10)
    assert tiles_that_fit(1024, 1024, 6, 10) == (2, 10)
    assert tiles_that_fit(2048, 2048, 6, 10) == (1, 5)


def test_a_picture_has_a_bounded_number_of_pixels_and_keeps_its_layout(tmp_path: Path) -> None:
    images = np.broadcast_to(np.asarray([-0.9, 0.9] * 14, dtype=np.float32)[:, None, None, None], (28, 1, 1024, 1024))
    path = comparison_grid(tmp_path / "large.png", {"s": images}, ["x", "y"])
    assert path == tmp_path / "large.jpg"
    picture = shades(path)[:, :, 0].astype(int)
    assert 0.9 * MOST_PIXELS < picture.size < 1.1 * MOST_PIXELS
    dark, light = (int(tile.max()) for tile in to_pixels(flat([-0.9, 0.9])))
    for share, shade in ((0.3, dark), (0.8, light)):
        column = picture[:, int(share * picture.shape[1])]
        assert (np.abs(column - shade) < 4).mean() > 0.9
