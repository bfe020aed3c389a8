"""What the cycles between two judgements said: means that an interruption does not change."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.comparison.signals import Signals
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.outcome import CycleReport, PolicyCycleReport

NAN = math.nan
ORDINARY = CycleReport(
    version=1,
    plan=CyclePlan("ramp", fake_score=1, discriminator=1, dmd=1, policy_gradient=1),
    updates={},
    auc=(0.9, 0.9),
    smoothed_auc=(0.6, 0.7),
    open_levels=(True, True),
    reward_mean=(-1.0, 2.0),
    reward_spread=(0.1, 0.2),
    policy=PolicyCycleReport(masked_fraction=0.5, kl_nats=0.01, advantage_spread=1.0, stale_terms=0, actions=48),
    fresh_deviation=NAN,
    trajectories=8,
    seconds=1.0,
    agreement=(0.4, 0.8),
)


def signals_of(
    reports: Sequence[CycleReport], rewarded_by: Literal["discriminator", "oracle", "nobody"] = "discriminator"
) -> Signals:
    signals = Signals()
    for report in reports:
        signals = signals.then(report, since=0, rewarded_by=rewarded_by)
    return signals


def test_the_notes_are_means_over_cycles_with_the_newest_auc_and_phase() -> None:
    later = replace(
        ORDINARY,
        plan=replace(ORDINARY.plan, phase="full"),
        smoothed_auc=(NAN, 0.8),
        reward_mean=(0.0, 4.0),
        reward_spread=(0.3, 0.4),
        policy=PolicyCycleReport(masked_fraction=0.1, kl_nats=0.03, advantage_spread=1.0, stale_terms=0, actions=48),
        agreement=(0.6, 0.6),
    )
    assert signals_of([ORDINARY, later]).notes() == {
        "phase": "full",
        "auc": [None, 0.8],
        "reward_mean": [-0.5, 3.0],
        "reward_spread": pytest.approx([0.2, 0.3]),
        "agreement": pytest.approx([0.5, 0.7]),
        "masked_fraction": pytest.approx(0.3),
        "kl_nats": pytest.approx(0.02),
    }


def test_a_cycle_without_a_value_has_no_part_in_the_mean_and_no_cycle_with_one_leaves_none() -> None:
    blind = replace(ORDINARY, policy=None, agreement=(NAN, NAN))
    assert signals_of([blind]).notes()["agreement"] == [None, None]
    assert signals_of([blind]).notes()["kl_nats"] is None
    notes = signals_of([blind, ORDINARY, blind]).notes()
    assert notes["agreement"] == [0.4, 0.8]
    assert (notes["masked_fraction"], notes["kl_nats"]) == (0.5, 0.01)


def test_what_was_not_asked_is_not_noted() -> None:
    assert "agreement" not in signals_of([replace(ORDINARY, agreement=())]).notes()
    unscored = signals_of([ORDINARY], "nobody").notes()
    assert not [name for name in unscored if "reward" in name]


def test_an_oracles_rewards_are_not_taken_for_logits() -> None:
    notes = signals_of([ORDINARY], "oracle").notes()
    assert notes["oracle_reward_mean"] == [-1.0, 2.0]
    assert notes["oracle_reward_spread"] == [0.1, 0.2]
    assert "reward_mean" not in notes


def test_the_means_begin_anew_after_a_judgement() -> None:
    later = replace(ORDINARY, reward_mean=(5.0, 6.0))
    before = signals_of([ORDINARY, ORDINARY])
    assert before.then(later, since=1, rewarded_by="discriminator").notes()["reward_mean"] == [5.0, 6.0]
    assert before.notes()["reward_mean"] == [-1.0, 2.0]


values = st.floats(-1e3, 1e3) | st.just(NAN)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=6), st.data())
def test_a_way_through_a_checkpoint_between_two_cycles_changes_no_bit(rows: list[Any], data: st.DataObject) -> None:
    reports = [replace(ORDINARY, reward_mean=row, agreement=row) for row in rows]
    place = data.draw(st.integers(0, len(reports)))
    resumed = Signals.of(json.loads(json.dumps(asdict(signals_of(reports[:place])), allow_nan=False)))
    for report in reports[place:]:
        resumed = resumed.then(report, since=0, rewarded_by="discriminator")
    assert resumed.notes() == signals_of(reports).notes()
