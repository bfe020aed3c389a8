"""The judge that knows no prompt: what it notices, and what it leaves alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.data.files.encoding import thumbnails
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.files_judge import LEAST_IMAGES, FilesJudge

PROMPTS = ("one", "two", "three")


def _images(count: int, seed: int, *, spread: float = 0.3, shift: float = 0.0) -> Tensor:
    """Pictures of four flat quarters."""
    generator = torch.Generator().manual_seed(seed)
    quarters = spread * torch.randn(count, 3, 2, 2, generator=generator) + shift
    return torch.nn.functional.interpolate(quarters, size=(32, 48), mode="nearest")


JUDGE = FilesJudge(PROMPTS, thumbnails(_images(300, 0)))


def _score(images: Tensor) -> dict[str, float]:
    return dict(JUDGE.score(images, torch.arange(len(images)) % 3).figures)


def test_images_like_the_real_ones_are_near_them_as_varied_and_all_over_them() -> None:
    alike, ceiling = _score(_images(240, 1)), JUDGE.ceiling().figures
    assert alike["frechet"] < 12
    assert alike["diversity"] == pytest.approx(1.0, abs=0.1)
    assert alike["coverage"] > 0.9
    assert ceiling["frechet"] < 40
    assert ceiling["diversity"] == pytest.approx(1.0, abs=0.1)


@given(shift=st.floats(0.1, 0.6))
def test_colours_that_drift_are_a_distance_that_grows(shift: float) -> None:
    nearer, farther = (_score(_images(120, 1, shift=amount))["frechet"] for amount in (shift / 2, shift))
    assert farther > nearer > 0
    assert farther > 0.8 * (50 * shift) ** 2


@given(share=st.floats(0.1, 0.7))
def test_images_that_grow_alike_lose_diversity_and_coverage(share: float) -> None:
    collapsed = _score(_images(120, 1, spread=0.3 * share))
    assert collapsed["diversity"] == pytest.approx(share, rel=0.2)
    same = _score(_images(1, 1).expand(120, -1, -1, -1))
    assert same["diversity"] == pytest.approx(0, abs=1e-6)
    assert same["coverage"] < 0.5


def test_values_outside_the_range_are_clipped() -> None:
    bright = torch.ones(20, 3, 8, 8)
    assert torch.equal(thumbnails(5 * bright), bright)


@pytest.mark.parametrize("count", [0, LEAST_IMAGES - 1])
def test_too_few_real_images_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} real images can be used; give at least {LEAST_IMAGES}"):
        FilesJudge(PROMPTS, thumbnails(_images(max(count, 1), 0))[:count])


def test_one_image_of_each_prompt_says_nothing_of_variety() -> None:
    with pytest.raises(ValueError, match="no prompt has two images"):
        JUDGE.score(_images(3, 1), torch.arange(3))
