"""Where the time of a run's start goes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import Phase, StartClock
from advdmd_ray.metrics.catalogue import STAGES
from fake_shell import Clock, Stage

SECONDS = st.lists(st.floats(0.0, 100.0), min_size=len(STAGES), max_size=len(STAGES))


@given(SECONDS, st.floats(0.0, 100.0))
def test_the_stages_add_up_to_the_time_since_the_start(spent: list[float], age: float) -> None:
    clock = Clock()
    start = StartClock(clock, age_s=age)
    for stage, seconds in zip(STAGES, spent, strict=True):
        assert not start.over
        clock.now += seconds
        start.ended(stage)
    assert start.over
    assert start.seconds == pytest.approx(dict(zip(STAGES, [age + spent[0], *spent[1:]], strict=True)), abs=1e-6)
    assert sum(sample.value for sample in start.samples()) == pytest.approx(age + sum(spent))
    said = re.match(r"first update after ([\d.]+) s: ", start.text())
    assert said is not None
    assert float(said[1]) == pytest.approx(age + sum(spent), abs=0.051)


def test_the_line_names_the_stages_that_took_time() -> None:
    clock = Clock()
    start = StartClock(clock, age_s=0.5)
    for stage, seconds in (("imports", 1.0), ("ray", 2.0), ("images", 0.04), ("workers", 3.0), ("first_groups", 0.5)):
        clock.now += seconds
        start.ended(stage)
        assert start.text() == ""
    clock.now += 0.25
    start.ended("first_cycle")
    assert start.text() == (
        "first update after 7.3 s: imports and checks 1.5 s, Ray 2.0 s, workers 3.0 s, first groups 0.5 s, "
        "first cycle 0.2 s"
    )


def test_what_comes_after_the_first_cycle_is_no_start() -> None:
    clock = Clock()
    start = StartClock(clock)
    start.ended("first_cycle")
    clock.now += 9.0
    start.ended("first_groups")
    start.ended("first_cycle")
    assert start.seconds == {"first_cycle": 0.0}


def test_the_phases_follow_each_other_and_ready_comes_once_however_often_the_loops_begin() -> None:
    clock, told = Clock(), list[Phase]()
    start = StartClock(clock, age_s=1.0, told=told.append)
    clock.now += 1.0
    start.begins("starting Ray")
    clock.now += 4.0
    for _ in range(2):
        start.loops_begin()
        clock.now += 10.0
    assert start.phases() == [("reading and checking", 2.0), ("starting Ray", 4.0), ("ready", 20.0)]
    assert told == [Phase("starting Ray", 2.0), Phase("ready", 6.0)]
    assert start.age_s == 26.0


def test_another_stage_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of imports, .*, got 'lunch'"):
        StartClock().ended("lunch")


def test_a_run_records_its_start_once_and_the_display_sees_it_from_the_first_cycle_on() -> None:
    stage = Stage(Config.model_validate({"run": {"cycles": 3}, "rollout": {"actors": 2, "groups_per_cycle": 4}}))
    stage.run()
    parts = {
        value: sample.value
        for sample in stage.hub.samples
        if sample.name == "advdmd_run_start_seconds"
        for _, value in sample.labels
    }
    assert set(parts) == {"first_groups", "first_cycle"}
    assert all(seconds > 0 for seconds in parts.values())
    assert sum(sample.name == "advdmd_run_start_seconds" for sample in stage.hub.samples) == len(parts)
    for status in stage.statuses:
        assert bool(status.start) == (status.version > 0), status
    assert stage.statuses[-1].start.startswith(f"first update after {sum(parts.values()):.1f} s: first groups ")
