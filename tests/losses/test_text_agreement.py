"""How often a state scores higher with its own text than with a wrong one, and how well that is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.learner.health import TextEvidence, agreement_and_error
from advdmd_ray.losses.text_agreement import agreement_sums


def _sums(own: list[list[float]], other: list[list[float]], weights: list[float]) -> list[list[float]]:
    return agreement_sums(torch.tensor(own), torch.tensor(other), torch.tensor(weights)).tolist()


def test_a_win_counts_half_above_chance_a_loss_half_below_and_a_tie_as_a_guess() -> None:
    weight, lead, square = _sums([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 2.0], [1.0, 1.0]], [1.0] * 3)
    assert weight == [3.0, 3.0]
    assert lead == [0.5, -0.5]
    assert square == [0.25, 0.25 + 1.0]  # two rows are ties at the second level


@given(st.integers(1, 16), st.floats(0.05, 1.0))
def test_ties_are_as_much_evidence_as_guesses_that_all_go_one_way(rows: int, weight: float) -> None:
    tied = _sums([[1.0]] * rows, [[1.0]] * rows, [weight] * rows)
    lost = _sums([[0.0]] * rows, [[1.0]] * rows, [weight] * rows)
    assert tied[1] == [0.0]
    assert tied[2] == pytest.approx(lost[2])


def test_what_has_no_wrong_text_does_not_count_whatever_its_logits_are() -> None:
    weight, lead, _ = _sums([[2.0], [math.nan]], [[1.0], [math.nan]], [0.5, 0.0])
    assert (weight, lead) == ([0.5], [0.25])


@pytest.mark.parametrize(("own", "other"), [(math.nan, 0.0), (0.0, math.nan), (math.inf, math.inf)])
def test_a_logit_that_is_not_a_number_is_no_tie(own: float, other: float) -> None:
    _, lead, square = _sums([[own, 1.0]], [[other, 0.0]], [1.0])
    assert math.isnan(lead[0])
    assert math.isnan(square[0])
    assert lead[1] == 0.5


@given(st.lists(st.sampled_from([-0.5, 0.0, 0.5]), min_size=1, max_size=20))
def test_with_one_comparison_a_group_it_is_the_share_of_wins_and_its_error_about_chance(leads: list[float]) -> None:
    square = sum(lead * lead for lead in leads)
    agreement, error = agreement_and_error(float(len(leads)), sum(leads), square)
    wins = [lead + 0.5 for lead in leads]
    assert agreement == pytest.approx(sum(wins) / len(wins))
    assert error == pytest.approx(math.sqrt(sum((win - 0.5) ** 2 for win in wins)) / len(wins))


def test_rows_of_one_group_are_one_piece_of_evidence() -> None:
    """Ten rows of one prompt that all win tell less than ten prompts that do."""
    together = torch.tensor(_sums([[1.0]] * 10, [[0.0]] * 10, [1.0] * 10)).flatten().tolist()
    apart = torch.tensor([_sums([[1.0]], [[0.0]], [1.0]) for _ in range(10)]).sum(dim=0).flatten().tolist()
    (one, one_error), (ten, ten_error) = agreement_and_error(*together), agreement_and_error(*apart)
    assert (one, ten) == (1.0, 1.0)
    assert one_error == pytest.approx(0.5)
    assert ten_error == pytest.approx(0.5 / math.sqrt(10))


def test_the_error_of_a_smoothed_agreement_is_its_spread_over_many_runs() -> None:
    decay, cycles, groups = 0.8, 60, 4
    draws = (
        torch.randn(2000, cycles, groups, generator=torch.Generator().manual_seed(2), dtype=torch.float64).sign() / 2
    )
    age = decay ** torch.arange(cycles - 1, -1, -1, dtype=torch.float64)
    leads = (draws.sum(dim=2) * age).sum(dim=1)
    squares = (draws.square().sum(dim=2) * age.square()).sum(dim=1)
    weight = float(groups * age.sum())
    found = [
        agreement_and_error(weight, lead, square) for lead, square in zip(leads.tolist(), squares.tolist(), strict=True)
    ]
    spread = float(torch.tensor([agreement for agreement, _ in found]).std())
    assert found[0][1] == pytest.approx(spread, rel=0.05)
    # 4 groups a cycle over (1 + d) / (1 - d) cycles are 36, not 4 and not 240.
    assert found[0][1] == pytest.approx(0.5 / math.sqrt(36), rel=0.01)
    above = sum(agreement > 0.5 + 3 * error for agreement, error in found)
    assert above <= 2000 * 0.004


def test_without_any_comparison_nothing_is_known() -> None:
    assert all(math.isnan(value) for value in agreement_and_error(0.0, 0.0, 0.0))


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.9])
def test_a_discriminator_that_reads_no_more_is_known_not_to_within_some_tens_of_cycles(decay: float) -> None:
    read = torch.tensor(_sums([[1.0]] * 4, [[0.0]] * 4, [1.0] * 4)) * 8
    tied = torch.tensor(_sums([[1.0]] * 4, [[1.0]] * 4, [1.0] * 4)) * 8
    evidence = TextEvidence.none(1)
    for _ in range(100):
        evidence = evidence.followed(read.tolist(), decay)
    assert evidence.above_chance(2.0) == (True,)
    for _ in range(30):
        evidence = evidence.followed(tied.tolist(), decay)
    assert evidence.above_chance(2.0) == (False,)
