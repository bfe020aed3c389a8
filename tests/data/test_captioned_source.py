"""Sources of latents with captions: each image stands in the row of its caption."""

from typing import Any

import pytest
import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.captioned_source import CaptionedSource
from advdmd_ray.errors import UserError


class Rows:
    """Three latents; the caption of each is a letter."""

    captions = ("b", "a", "b")
    thumbnails = torch.tensor([0.5, -0.5, 0.5]).reshape(3, 1, 1, 1).expand(3, 3, 8, 8)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.arange(3.0).reshape(3, 1, 1, 1)[rows]


class Letters(CaptionedSource):
    """Three images with two captions, one of which is no prompt."""

    def prompts(self) -> tuple[str, ...]:
        """See `Source`."""
        return ("a",)

    def latents(self) -> Any:
        """See `CaptionedSource`."""
        return Rows()

    def check(self) -> None:
        """See `Source`."""


def test_an_image_stands_in_the_first_row_of_its_caption() -> None:
    real = Letters(Config()).real_images(("a", "b", "a"))
    assert real.prompt_ids.tolist() == [1, 0, 1]


def test_rows_of_one_picture_are_one_image_which_is_learned_from_or_measured_on() -> None:
    real = Letters(Config()).real_images(("a", "b"))
    assert real.images.tolist() == [0, 1, 0]
    for seed in range(10):
        learn, measure = real.split(0.5, seed)
        assert sorted([learn.rows.tolist(), measure.rows.tolist()]) == [[0, 2], [1]]


def test_a_caption_that_the_source_does_not_tell_is_one_line() -> None:
    source = Letters(Config())
    with pytest.raises(UserError, match=r"the caption 'b' of a real image is among neither .* define captions"):
        source.real_images(source.prompts() + source.captions())
