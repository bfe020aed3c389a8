"""The judge of digits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.data.digits.images import load_digits
from advdmd_ray.data.digits.judge import DigitsJudge, ink
from advdmd_ray.evaluation.judges.frechet import frechet


@pytest.fixture(scope="module")
def judge() -> DigitsJudge:
    return DigitsJudge()


def gaussian_set(mean: np.ndarray, cov: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Vectors whose sample mean and covariance are exactly the given ones."""
    free = np.random.default_rng(seed).standard_normal((count, len(mean)))
    free -= free.mean(axis=0)
    white = free @ np.linalg.inv(np.linalg.cholesky(np.cov(free, rowvar=False))).T
    return mean + white @ np.linalg.cholesky(cov).T


def test_real_held_out_digits_are_recognised(judge: DigitsJudge) -> None:
    ceiling = judge.ceiling()
    assert ceiling.figures["accuracy"] == pytest.approx(0.9861, abs=1e-4)
    assert ceiling.figures["frechet"] == pytest.approx(25.485, abs=1e-3)
    assert ceiling.images == 360


def test_real_held_out_digits_are_as_varied_as_real_ones_and_cover_them(judge: DigitsJudge) -> None:
    figures = judge.ceiling().figures
    assert figures["diversity"] == pytest.approx(1, abs=0.05)
    assert figures["coverage"] == pytest.approx(0.975, abs=0.01)


def test_a_few_real_digits_cover_those_of_all_writers(judge: DigitsJudge) -> None:
    held_out = load_digits("held_out")
    few = torch.cat([torch.nonzero(held_out.labels == label).flatten()[:20] for label in range(10)])
    assert judge.score(held_out.images[few], held_out.labels[few]).figures["coverage"] > 0.95


def test_one_perfect_image_of_each_digit_is_recognised_but_neither_varied_nor_covering(judge: DigitsJudge) -> None:
    held_out = load_digits("held_out")
    first = torch.stack([held_out.images[held_out.labels == label][0] for label in range(10)])
    figures = judge.score(first.repeat(36, 1, 1, 1), torch.arange(10).repeat(36)).figures
    assert figures["accuracy"] >= 0.9
    assert figures["diversity"] == 0
    assert figures["coverage"] < 0.25


def test_wrong_labels_are_counted_as_errors(judge: DigitsJudge) -> None:
    held_out = load_digits("held_out")
    assert judge.accuracy(held_out.images, (held_out.labels + 1) % 10) < 0.02


def test_blur_and_noise_raise_the_distance(judge: DigitsJudge) -> None:
    images = load_digits("held_out").images
    blurred = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    noisy = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    floor = judge.frechet(images)
    assert floor < 30
    assert judge.frechet(blurred) > 3 * floor
    assert judge.frechet(noisy) > 1.5 * floor


def test_two_judges_agree_to_the_last_bit(judge: DigitsJudge) -> None:
    images, labels = load_digits("held_out").images, load_digits("held_out").labels
    assert DigitsJudge().score(images, labels) == judge.score(images, labels)


def test_ink_runs_from_zero_to_sixteen_and_is_clipped() -> None:
    assert ink(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 5)).tolist() == [[0, 0, 8, 16, 16]]


def test_the_distance_of_gaussians_with_equal_eigenvectors_has_its_closed_form() -> None:
    a = gaussian_set(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]), 50, 0)
    b = gaussian_set(np.array([3.0, 1.0, 2.0]), np.diag([4.0, 1.0, 25.0]), 70, 1)
    assert frechet(a, b) == pytest.approx(9 + 1 + 1 + 4, rel=1e-9)


def test_the_distance_of_correlated_gaussians_equals_the_two_by_two_formula() -> None:
    first, second = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    a, b = gaussian_set(np.zeros(2), first, 40, 2), gaussian_set(np.zeros(2), second, 40, 3)
    # For 2x2 matrices the trace of a root is sqrt(trace + 2 sqrt(det)).
    overlap = np.sqrt(np.trace(first @ second) + 2 * np.sqrt(np.linalg.det(first) * np.linalg.det(second)))
    assert frechet(a, b) == pytest.approx(np.trace(first) + np.trace(second) - 2 * overlap, rel=1e-9)


@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_the_distance_is_symmetric_and_ignores_a_common_shift(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((20, 4)), 2 * rng.standard_normal((30, 4)) + 1
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)
    assert frechet(a + shift, b + shift) == pytest.approx(frechet(a, b), rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_dead_pixels_do_not_break_the_distance() -> None:
    rng = np.random.default_rng(0)
    a, b = np.zeros((20, 6)), np.zeros((20, 6))
    a[:, 0], b[:, 0] = rng.standard_normal(20), 3 + rng.standard_normal(20)
    one_pixel = frechet(np.c_[a[:, 0], a[:, 1]], np.c_[b[:, 0], b[:, 1]])
    assert frechet(a, b) == pytest.approx(one_pixel, rel=1e-9)


def test_one_vector_is_not_enough_for_a_distance() -> None:
    with pytest.raises(ValueError, match="at least two"):
        frechet(np.zeros((1, 3)), np.zeros((5, 3)))
