"""What is known of the discriminator opens and shuts its levels; what is not known shuts them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.learner.health import SIDES, Health, TextEvidence, initial_health, smoothed_health
from small_parts import normal

READS = (40.0, 15.0, 10.0)
"""Sums of 40 comparisons that lead by 15 over chance, 4.7 standard errors."""
BLIND = (40.0, 2.0, 10.0)


def _evidence(*levels: tuple[float, float, float]) -> TextEvidence:
    return TextEvidence(*zip(*levels, strict=True))


def _health(*levels: tuple[float, float, float], auc: tuple[float, ...] | None = None, high: float = 0.98) -> Health:
    evidence = _evidence(*levels)
    return Health((0.5,) * len(levels) if auc is None else auc, high, (evidence, evidence), errors=3.0)


def test_a_level_that_reads_the_text_is_open_though_real_and_generated_images_cannot_be_told_apart() -> None:
    assert _health(READS, BLIND, auc=(0.5, 0.5)).open_levels == (True, False)


def test_a_level_that_tells_real_from_generated_but_not_right_from_wrong_texts_is_shut() -> None:
    assert _health(BLIND, BLIND, auc=(0.8, 0.9)).open_levels == (False, False)


@pytest.mark.parametrize("blind", range(len(SIDES)))
def test_texts_must_be_read_on_real_images_and_on_the_students_states(blind: int) -> None:
    sides = [_evidence(BLIND) if side == blind else _evidence(READS) for side in range(len(SIDES))]
    assert Health((0.7,), 0.98, tuple(sides), errors=3.0).open_levels == (False,)
    assert Health((0.7,), 0.98, (_evidence(READS),) * 2, errors=3.0).open_levels == (True,)


def test_an_overpowering_level_is_shut_however_well_it_reads() -> None:
    assert _health(READS, READS, READS, auc=(0.98, 0.981, 0.7)).open_levels == (True, False, True)


def test_more_standard_errors_ask_for_more_evidence() -> None:
    side = _evidence(READS)
    assert side.agreement == (0.875,)
    assert side.error == (pytest.approx(math.sqrt(10) / 40),)
    assert [side.above_chance(errors) for errors in (0.0, 4.7, 4.8)] == [(True,), (True,), (False,)]


def test_without_evidence_a_level_is_shut_even_if_no_standard_error_is_asked_for() -> None:
    nothing = TextEvidence.none(2)
    assert nothing.above_chance(0.0) == (False, False)
    assert all(math.isnan(value) for value in (*nothing.agreement, *nothing.error))


def test_before_the_first_measurement_every_level_is_shut() -> None:
    assert not any(initial_health(Config()).open_levels)
    without = Config.model_validate({"discriminator": {"text_errors": None}})
    assert not any(initial_health(without).open_levels)


@pytest.mark.parametrize("high", [0.98, 1.0])
@pytest.mark.parametrize("errors", [3.0, None])
def test_an_auc_that_is_not_a_number_shuts_its_level_and_is_forgotten(errors: float | None, high: float) -> None:
    """Whatever the thresholds are: not knowing is never a reason to open."""
    side = _evidence(READS, READS)
    texts = () if errors is None else (side, side)
    sums = [[[0.0] * 2] * 3] * len(texts)
    health = Health((0.6, 0.6), high, texts, errors=errors or 0.0)
    broken = smoothed_health(health, [math.nan, 0.6], sums, decay=0.9)
    assert broken.open_levels == (False, True)
    assert not broken.overpowering
    mended = smoothed_health(broken, [0.7, 0.7], sums, decay=0.9)
    assert mended.open_levels == (True, True)
    assert mended.auc == (0.7, pytest.approx(0.61))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", range(len(SIDES)))
@pytest.mark.parametrize("which", range(3))
def test_evidence_that_is_not_a_number_shuts_its_level_until_it_reads_again(
    broken: float, side: int, which: int
) -> None:
    health = _health(READS, READS)
    sums = [[list(row) for row in zip(READS, READS, strict=True)] for _ in SIDES]
    sums[side][which][0] = broken
    after = smoothed_health(health, [0.5, 0.5], sums, decay=0.9)
    assert after.open_levels == (False, True)
    sums[side][which][0] = READS[which]
    assert smoothed_health(after, [0.5, 0.5], sums, decay=0.9).open_levels == (True, True)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0, 1))
def test_smoothed_auc_stays_between_old_and_new(measured: list[float], decay: float) -> None:
    health = Health((0.1, 0.4, 0.6, 0.9), high=0.98)
    for old, new, smooth in zip(health.auc, measured, smoothed_health(health, measured, [], decay).auc, strict=True):
        assert min(old, new) - 1e-12 <= smooth <= max(old, new) + 1e-12


def test_the_first_auc_is_taken_as_it_is() -> None:
    without = Config.model_validate({"discriminator": {"text_errors": None}})
    assert smoothed_health(initial_health(without), [0.9] * 4, [], decay=0.9).auc == (0.9,) * 4


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.floats(0.01, 1))
def test_evidence_of_old_cycles_fades_and_its_squares_twice_as_fast(leads: list[float], decay: float) -> None:
    side = TextEvidence.none(1)
    for lead in leads:
        side = side.followed([[2.0], [lead], [lead * lead]], decay)
    ages = range(len(leads) - 1, -1, -1)
    pairs = list(zip(leads, ages, strict=True))
    assert side.weight[0] == pytest.approx(sum(2.0 * decay**age for _, age in pairs))
    assert side.lead[0] == pytest.approx(sum(lead * decay**age for lead, age in pairs), abs=1e-9)
    assert side.square[0] == pytest.approx(sum((lead * decay**age) ** 2 for lead, age in pairs), abs=1e-9)


def test_a_discriminator_that_guesses_texts_is_hardly_ever_let_through() -> None:
    cycles, groups, runs = 200, 8, 4
    opened = 0
    for run in range(runs):
        # One side alone, as if the other always read.
        health = Health((0.7, 0.7), 0.98, (TextEvidence.none(2),), errors=3.0)
        guesses = normal(cycles, 1, groups, 2, seed=run).sign() / 2
        for leads in guesses:
            sums = [
                [[float(groups)] * 2, side.sum(dim=0).tolist(), side.square().sum(dim=0).tolist()] for side in leads
            ]
            health = smoothed_health(health, [0.7, 0.7], sums, decay=0.9)
            opened += sum(health.open_levels)
    assert opened <= runs * cycles * 2 * math.exp(-(3**2) / 2)


def test_what_is_known_survives_a_checkpoint() -> None:
    health = _health(READS, BLIND, auc=(math.nan, 0.7))
    fresh = Health((math.nan,) * 2, 0.98, (TextEvidence.none(2),) * 2, errors=3.0)
    again = fresh.restored(json.loads(json.dumps(health.to_facts(), allow_nan=False)))
    assert again.texts == health.texts
    assert again.open_levels == health.open_levels
    assert math.isnan(again.auc[0])
    assert again.auc[1] == 0.7


@pytest.mark.parametrize("facts", [{"auc": [0.7, 0.7]}, {"auc": [0.7, 0.7], "texts": []}])
def test_a_checkpoint_without_evidence_of_texts_opens_nothing(facts: dict[str, object]) -> None:
    fresh = Health((math.nan,) * 2, 0.98, (TextEvidence.none(2),) * 2, errors=3.0)
    assert fresh.restored(facts).open_levels == (False, False)
