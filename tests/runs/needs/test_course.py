"""The course of a run as text, and what is said of what never begins."""

from collections.abc import Mapping

import pytest

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.course import course_text, never

ALONE = "RL learns from reward.extra alone in this run, and from no score of the discriminator: "
LATE_RL = {"warm_dmd_updates": 300, "ramp_interval": 1}


def config(**sections: Mapping[str, object]) -> Config:
    return Config.model_validate(sections)


@pytest.mark.parametrize(
    ("sections", "lines"),
    [
        (
            {"run": {"cycles": 500}, "cadence": {**LATE_RL, "warm_gan_updates": 0}, "dmd": {"gan_weight": 1.0}},
            [
                "course, 500 cycles with 1 DMD update each",
                "  GAN term   from cycle 1 on",
                "  RL         from cycle 301 on, once a level is open, each cycle",
            ],
        ),
        (
            {"run": {"cycles": 160}, "cadence": {"dmd_updates": 2, "warm_dmd_updates": 301}},
            [
                "course, 160 cycles with 2 DMD updates each",
                "  RL         from cycle 152 on, once a level is open, at first every 8 DMD updates",
            ],
        ),
        (
            {"run": {"cycles": 150}, "cadence": {**LATE_RL, "dmd_updates": 2}, "reward": {"extra": "toy:brightness"}},
            [
                "course, 150 cycles with 2 DMD updates each",
                "  RL         never: cadence.warm_dmd_updates is 300, and run.cycles=150 makes 300 DMD updates",
            ],
        ),
        (
            {"run": {"cycles": 10}, "cadence": {"dmd_updates": 3, "warm_dmd_updates": 29}},
            [
                "course, 10 cycles with 3 DMD updates each",
                "  RL         never: cadence.warm_dmd_updates is 29, and run.cycles=10 makes 30 DMD updates",
            ],
        ),
        (
            {"run": {"cycles": 10}, "cadence": {"dmd_updates": 3, "warm_dmd_updates": 27}},
            [
                "course, 10 cycles with 3 DMD updates each",
                "  RL         from cycle 10 on, once a level is open, at first every 8 DMD updates",
            ],
        ),
        ({"run": {"cycles": 9}, "policy_gradient": {"enabled": False}}, ["course, 9 cycles with 1 DMD update each"]),
    ],
)
def test_the_course_names_the_cycle_in_which_each_part_begins(
    sections: Mapping[str, Mapping[str, object]], lines: list[str]
) -> None:
    assert course_text(config(**sections)).splitlines() == lines


@pytest.mark.parametrize(("window", "rings"), [(5, False), (4, True)])
def test_the_course_tells_of_an_alarm_that_hears_too_few_judgements(window: int, rings: bool) -> None:
    judged = config(run={"cycles": 500}, cadence=LATE_RL, evaluation={"judge_cycles": 50, "alarm_window": window})
    said = (
        "\n  alarm      never rings: evaluation.judge_cycles=50 gives 4 of evaluation.alarm_window=5 judgements "
        "after RL may begin\n"
    )
    assert (said in course_text(judged)) != rings
    assert ("alarm" in course_text(judged)) != rings


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ({}, ["RL never begins in this run: cadence.measure_cycles is 30, and no level is open before: run.cycles=20"]),
        (
            {"extra": "toy:brightness"},
            [f"{ALONE}cadence.measure_cycles is 30, and no level is open before: run.cycles=20"],
        ),
        ({"extra": "toy:brightness", "kind": "oracle"}, []),
    ],
)
def test_levels_that_no_measurement_opens_in_time_are_told_of(rewards: Mapping[str, object], said: list[str]) -> None:
    seldom = config(run={"cycles": 20}, cadence={"warm_dmd_updates": 2, "measure_cycles": 30}, reward=rewards)
    assert list(never(seldom)) == said


@pytest.mark.parametrize(
    ("cycles", "seldom", "said"),
    [
        (20, 15, ["comes to 2.83 in 1 measurement: run.cycles=20, cadence.measure_cycles=15"]),
        (29, 15, ["comes to 2.83 in 1 measurement: run.cycles=29, cadence.measure_cycles=15"]),
        (30, 15, []),
    ],
)
@pytest.mark.parametrize("extra", [None, "toy:brightness"])
def test_evidence_that_the_measurements_of_a_run_cannot_come_to_is_told_of(
    cycles: int, seldom: int, said: list[str], extra: str | None
) -> None:
    few = config(
        run={"cycles": cycles}, cadence={"warm_dmd_updates": 2, "measure_cycles": seldom}, reward={"extra": extra}
    )
    why = "discriminator.text_errors is 3, and one that tells all texts apart "
    begins = "RL never begins in this run: " if extra is None else ALONE
    assert list(never(few)) == [f"{begins}{why}{line}" for line in said]


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"discriminator": {"auc_rows": 0}}, "discriminator.auc_rows=0 leaves RL without what opens a level"),
        ({"discriminator": {"text_errors": 100.0}}, "discriminator.text_errors = 100 is never reached: "),
        ({"policy_gradient": {"advantage": "final_only", "final_weight": 0.0}}, "policy_gradient: with advantage="),
        ({"policy_gradient": {"enabled": False}, "discriminator": {"auc_rows": 0}}, None),
        ({"cadence": {"discriminator_updates": 0, "warm_dmd_updates": 2}}, None),
        ({}, None),
    ],
)
def test_beside_an_own_reward_a_discriminator_that_rl_never_hears_is_told_of(
    sections: Mapping[str, Mapping[str, object]], why: str | None
) -> None:
    base = {"run": {"cycles": 20}, "cadence": {"warm_dmd_updates": 2}, "reward": {"extra": "toy:brightness"}}
    said = list(never(config(**{**base, **sections})))
    if why is None:
        assert said == []
    else:
        (line,) = said
        assert line.startswith(ALONE + why)


@pytest.mark.parametrize(("cycles", "said"), [(61, []), (60, ["RL"]), (40, ["GAN term", "RL"]), (41, ["RL"])])
def test_what_waits_longer_than_the_run_lasts_is_told(cycles: int, said: list[str]) -> None:
    late = config(
        run={"cycles": cycles}, dmd={"gan_weight": 0.5}, cadence={"warm_gan_updates": 40, "warm_dmd_updates": 60}
    )
    told = list(never(late))
    assert [line.partition(" never begins in this run: ")[0] for line in told] == said
    assert all(f"run.cycles={cycles} makes {cycles} DMD updates" in line for line in told)
