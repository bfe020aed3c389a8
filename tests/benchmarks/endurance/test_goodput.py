"""When actors are killed, and what a run says of its pace meanwhile."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.goodput import ACTORS, PER_CYCLE, Harried, configured, document, instants, mean_up
from benchmarks.endurance.sleeping import Stretch


@given(st.floats(0.001, 1.0), st.floats(1.0, 1000.0))
def test_kills_are_as_many_as_the_rate_says_evenly_spaced_and_within_the_time(rate: float, seconds: float) -> None:
    times = instants(rate, seconds)
    assert len(times) == round(rate * seconds)
    assert all(after - before == pytest.approx(1 / rate) for before, after in pairwise(times))
    assert all(0 < at <= seconds * (1 + 1e-9) for at in times)


def test_nothing_is_killed_at_a_rate_of_none() -> None:
    assert instants(0.0, 180.0) == []


def test_a_mean_counts_each_value_for_as_long_as_it_holds() -> None:
    told = [(0.0, 10.0), (12.0, 9.0), (14.0, 10.0), (30.0, 3.0)]
    assert mean_up(told, Stretch(10.0, 20.0)) == pytest.approx((10 * 2 + 9 * 2 + 10 * 6) / 10)
    assert mean_up(told, Stretch(13.0, 13.5)) == pytest.approx(9.0)
    assert mean_up(told[1:], Stretch(10.0, 14.0)) == pytest.approx(9.0)


def test_the_pace_under_kills_is_told_as_a_share_of_the_pace_before(tmp_path: Path) -> None:
    config = Config.model_validate({"run": {"output": str(tmp_path), "name": "run"}})
    config.folder.mkdir()
    up, commits = "advdmd_run_workers{role=rollout}", "advdmd_buffer_commits_total"
    lines = [{commits: 4.0 * at if at <= 10 else 40.0 + 3.0 * (at - 10), up: 10 if at <= 10 else 8} for at in range(21)]
    entries = [{"time": 100.0 + at, "cycle": 0, "record": at + 1, "values": values} for at, values in enumerate(lines)]
    run = RunFolder(config.folder)
    run.metrics.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    seen = document(run, [Harried(100.0, 110.0, 0.0, 0), Harried(111.0, 120.0, 0.5, 4)])
    alone, harried = seen["stretches"]
    assert (alone["goodput"], alone["actors_up"]) == (1.0, 10.0)
    assert (harried["goodput"], harried["actors_up"], harried["kills"]) == (pytest.approx(0.75), 8.0, 4)
    assert seen["groups_committed"] == 70


def test_the_run_that_loses_actors_may_be_configured_so(tmp_path: Path) -> None:
    config = configured(tmp_path, "10.0.0.1:6379")
    assert (config.rollout.actors, config.rollout.groups_per_cycle) == (ACTORS, PER_CYCLE)
    assert config.ray.address == "10.0.0.1:6379"
