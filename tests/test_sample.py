"""Sampling a pipeline folder into a picture, with plain diffusers."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from advdmd_ray.errors import UserError
from advdmd_ray.sample import sample_grid, uniform_levels

SETTINGS: dict[str, Any] = {"steps": 2, "guidance": 1.0, "images": 3}


def test_levels_fall_evenly_from_one_and_leave_zero_to_the_scheduler() -> None:
    assert uniform_levels(4) == [1.0, 0.75, 0.5, 0.25]
    assert uniform_levels(1) == [1.0]


def test_a_grid_has_one_row_a_prompt_and_repeats_for_its_seed(tmp_path: Path) -> None:
    prompts = ["a handwritten seven", "a handwritten two"]
    first, again, other = (
        sample_grid("builtin:digits", prompts, seed=seed, out=tmp_path / f"{name}.png", **SETTINGS).read_bytes()
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again
    assert first != other
    one_row = sample_grid("builtin:digits", prompts[:1], seed=1, out=tmp_path / "row.png", **SETTINGS)
    with Image.open(tmp_path / "first.png") as grid, Image.open(one_row) as row:
        assert 1.5 * row.height < grid.height < 2 * row.height


@pytest.mark.parametrize("name", ["grid.jpg", "absent/grid.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_sampling(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--out"):
        sample_grid("builtin:digits", ["x"], seed=0, out=tmp_path / name, **SETTINGS)
