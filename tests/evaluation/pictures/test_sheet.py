"""A comparison says where its tiles lie, so that every image can be taken out of it again, pixel by pixel."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advdmd_ray.evaluation.pictures.grids import comparison_grid, save_grid, to_pixels
from advdmd_ray.evaluation.pictures.page_pictures import Shown, encode, evenly_spaced
from advdmd_ray.evaluation.pictures.sheet import Row, Sheet, note, read_sheet


def images(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(side).uniform(-1, 1, (count, 3, side, side)).astype(np.float32)


def test_every_tile_of_a_comparison_is_the_image_that_was_drawn(tmp_path: Path) -> None:
    drawn = {"teacher": images(4, 8), "student": -images(2, 8)}
    path = comparison_grid(tmp_path / "c.png", drawn, ["one", "two"])
    sheet = read_sheet(path)
    assert sheet is not None
    assert sheet.prompts == ("one", "two")
    assert [row.label for row in sheet.rows] == ["teacher", "student"]
    for row in sheet.rows:
        pixels = to_pixels(drawn[row.label])
        boxes = sheet.boxes(row)
        assert len(boxes) == len(pixels)
        for box, expected in zip(boxes, pixels, strict=True):
            kind, data = encode(Shown(path, 10_000, 512, box, sheet.enlarged))
            assert kind == "image/png"
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)


def test_a_large_comparison_is_a_jpeg_that_says_so_too_and_its_tiles_keep_to_their_bytes(tmp_path: Path) -> None:
    path = comparison_grid(tmp_path / "c.png", {"student": images(4, 700)}, ["one", "two"], scale=1)
    sheet = read_sheet(path)
    assert path.suffix == ".jpg"
    assert sheet is not None
    assert (sheet.width, sheet.height, sheet.enlarged) == (700, 700, 1)
    kind, data = encode(Shown(path, 30_000, 512, sheet.boxes(sheet.rows[0])[-1]))
    assert kind == "image/jpeg"
    assert 10_000 < len(data) <= 30_000
    assert max(Image.open(io.BytesIO(data)).size) <= 512


def test_a_picture_without_a_note_or_with_one_that_does_not_fit_has_no_tiles(tmp_path: Path) -> None:
    plain = save_grid(tmp_path / "plain.png", images(2, 8))
    assert read_sheet(plain) is None
    board = Image.new("RGB", (20, 20))
    sheet = Sheet(("one",), (Row("student", 0, 1),), 0, 8, 8, 4, 1)
    for name, comment, fits in (
        ("fits", note(sheet), True),
        ("wide", note(Sheet(("one", "two", "three"), sheet.rows, 0, 8, 8, 4, 1)), False),
        ("torn", b'{"prompts": ["one"]', False),
        ("negative", note(sheet).replace(b'"left":0', b'"left":-1'), False),
    ):
        board.save(tmp_path / f"{name}.jpg", comment=comment)
        assert (read_sheet(tmp_path / f"{name}.jpg") is not None) == fits, name


def test_a_whole_picture_is_itself_if_it_is_small_and_else_a_thumbnail(tmp_path: Path) -> None:
    path = save_grid(tmp_path / "grid.png", images(1, 400), scale=1)
    assert encode(Shown(path, path.stat().st_size, 800)) == ("image/png", path.read_bytes())
    kind, data = encode(Shown(path, 20_000, 200))
    assert kind == "image/jpeg"
    assert len(data) <= 20_000
    assert Image.open(io.BytesIO(data)).width <= 200
    with pytest.raises(FileNotFoundError):
        encode(Shown(tmp_path / "none.png", 1000, 10))


@pytest.mark.parametrize(("count", "most"), [(3, 24), (24, 24), (25, 24), (240, 24), (5, 2)])
def test_evenly_spaced_items_hold_the_first_and_the_last(count: int, most: int) -> None:
    chosen = evenly_spaced(range(count), most)
    assert len(chosen) == min(count, most)
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    gaps = np.diff(chosen)
    assert gaps.max() - gaps.min() <= 1
