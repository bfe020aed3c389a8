"""Which size the images of a cycle have: a function of run seed, cycle and weights, and of nothing else."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.controller.prompt_order import size_of

WEIGHTS = st.lists(st.floats(0, 100), min_size=1, max_size=6).filter(lambda weights: max(weights) > 1e-3)


@given(seed=st.integers(0, 2**63 - 1), cycle=st.integers(0, 10**6), weights=WEIGHTS)
def test_a_cycle_has_a_size_that_some_weight_is_for_whoever_asks_and_in_whatever_unit(
    seed: int, cycle: int, weights: list[float]
) -> None:
    size = size_of(seed, cycle, weights)
    assert weights[size] > 0
    assert size_of(seed, cycle, tuple(weights)) == size_of(seed, cycle, [8 * weight for weight in weights]) == size


def test_cycles_have_each_size_as_often_as_its_weight_says_and_in_no_order() -> None:
    count, weights = 20_000, [1, 0, 5, 2]
    plan = [size_of(7, cycle, weights) for cycle in range(count)]
    for size, weight in enumerate(weights):
        share = weight / sum(weights)
        assert plan.count(size) == pytest.approx(share * count, abs=4 * (share * (1 - share) * count) ** 0.5)
    # Of two cycles in a row the second does not hang on the first.
    pairs = [pair for pair in itertools.pairwise(plan) if pair[0] == 0]
    followed = sum(second == 2 for _, second in pairs)
    assert followed == pytest.approx(5 / 8 * len(pairs), abs=4 * (0.24 * len(pairs)) ** 0.5)
    assert plan != [size_of(8, cycle, weights) for cycle in range(count)]


@pytest.mark.parametrize(("cycle", "weights"), [(-1, [1.0]), (0, []), (0, [0.0, 0.0]), (0, [2.0, -1.0])])
def test_what_gives_no_size_is_refused(cycle: int, weights: list[float]) -> None:
    with pytest.raises(ValueError, match="a size needs cycle >= 0 and weights >= 0"):
        size_of(0, cycle, weights)
