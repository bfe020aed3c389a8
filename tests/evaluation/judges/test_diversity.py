"""Diversity: a collapsed set scores near 0, real against real near 1, and noise does not pass for coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.evaluation.judges.diversity import coverage, diversity, principal_components, within_prompt_distance


def clusters(seed: int, prompts: int = 8, images: int = 25, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Images of several prompts around the prompts' own middles, in 30 dimensions."""
    middles = 4 * np.random.default_rng(0).standard_normal((prompts, 30))
    labels = np.arange(prompts).repeat(images)
    return middles[labels] + spread * np.random.default_rng(seed).standard_normal((len(labels), 30)), labels


def test_the_distance_within_a_prompt_is_the_mean_over_its_pairs() -> None:
    images = np.array([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0], [9.0, 9.0], [5.0, 0.0]])
    prompts = np.array([7, 7, 7, 3, 3])
    found = within_prompt_distance(images, prompts)
    assert found[7] == pytest.approx((2 + 2 + 4) / 3)
    assert found[3] == pytest.approx(np.sqrt((4**2 + 9**2) / 2))


def test_a_prompt_with_one_image_has_no_distance() -> None:
    assert within_prompt_distance(np.zeros((3, 2)), np.array([0, 1, 1])) == {1: 0.0}


@given(st.floats(0, 3), st.integers(0, 100))
def test_diversity_grows_in_proportion_to_the_spread_within_the_prompts(spread: float, seed: int) -> None:
    real = within_prompt_distance(*clusters(seed))
    generated = within_prompt_distance(*clusters(seed, spread=spread))
    assert diversity(generated, real) == pytest.approx(spread, abs=1e-9)


def test_diversity_compares_the_same_prompts_only() -> None:
    assert diversity({1: 2.0}, {1: 4.0, 2: 1000.0}) == 0.5
    with pytest.raises(ValueError, match="prompt 3"):
        diversity({3: 1.0}, {1: 1.0})
    with pytest.raises(ValueError, match="no prompt has two images"):
        diversity({}, {1: 1.0})


def test_coverage_counts_the_real_images_whose_ball_holds_a_generated_one() -> None:
    real = np.array([[0.0], [1.0], [2.0], [10.0], [12.0], [14.0]])
    # Radii with k = 1: 1, 1, 1, 2, 2, 2.
    assert coverage(np.array([[1.5]]), real, neighbours=1) == pytest.approx(2 / 6)
    assert coverage(np.array([[1.5], [12.0]]), real, neighbours=1) == pytest.approx(5 / 6)
    assert coverage(np.array([[100.0]]), real, neighbours=1) == 0
    assert coverage(np.array([[100.0], *real]), real, neighbours=1) == 1


def test_real_against_real_is_covered_as_the_formula_says() -> None:
    found = [coverage(clusters(2 * seed + 1)[0], clusters(2 * seed + 2)[0]) for seed in range(5)]
    assert np.mean(found) == pytest.approx(0.97, abs=0.02)


def test_a_set_collapsed_to_one_image_covers_nothing_and_one_prompt_covers_its_own() -> None:
    real, labels = clusters(1)
    assert coverage(clusters(2)[0][:1].repeat(200, axis=0), real) < 0.1
    assert coverage(clusters(2)[0][labels == 0], real) == pytest.approx(1 / 8, abs=0.03)


def test_spread_that_is_not_the_datas_is_diverse_but_covers_nothing() -> None:
    real, labels = clusters(1)
    noise = 20 + 5 * np.random.default_rng(3).standard_normal(real.shape)
    assert diversity(within_prompt_distance(noise, labels), within_prompt_distance(real, labels)) > 1
    assert coverage(noise, real) == 0


def test_too_few_images_have_no_coverage() -> None:
    with pytest.raises(ValueError, match="more than 5 real"):
        coverage(np.zeros((1, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="and a generated one"):
        coverage(np.zeros((0, 2)), np.zeros((9, 2)))


def test_principal_components_are_orthonormal_and_keep_distances_within_their_span() -> None:
    generator = np.random.default_rng(0)
    flat = generator.standard_normal((40, 3)) @ generator.standard_normal((3, 20)) + 7
    projection = principal_components(flat, components=3)
    assert projection.axes.T @ projection.axes == pytest.approx(np.eye(3), abs=1e-9)
    before = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    inside = projection(flat)
    assert np.linalg.norm(inside[:, None] - inside[None], axis=2) == pytest.approx(before, abs=1e-9)
    assert (np.diff(inside.var(axis=0)) <= 0).all()
