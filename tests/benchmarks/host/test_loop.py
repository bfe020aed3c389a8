"""The row of the whole loop: which cycles count, what is read of a run, and that the bare loop is its arithmetic."""

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.config.reading import read_config
from benchmarks.host.bare_loop import BareLoop, End, queued
from benchmarks.host.contest import OURS
from benchmarks.host.rows import loop
from benchmarks.host.rows.loop import LAST, WARM, Loop, cycle_ends, turn
from tiny_digits import write_tiny_digits


@pytest.mark.parametrize("row", [loop.DIGITS, loop.SHAPES])
def test_the_goal_is_of_a_contestant(row: Any) -> None:
    with row.opened() as field:
        assert row.goals.keys() == field.turns.keys() - {OURS}


def test_the_first_and_last_cycles_do_not_count_and_a_trajectory_has_its_share(tmp_path: Path) -> None:
    counted = Loop("digits", 10)

    def contestant(config: Config, folder: Path) -> list[End]:
        assert config.run.cycles == WARM + 10 + LAST
        assert config.folder.parent == folder
        ends = [End(100.0 * cycle, 50.0 * cycle, 0.0) for cycle in range(1, WARM)]
        ends += [End(1000 + 6.4 * cycle, 500 + 12.8 * cycle, 3.2 * cycle) for cycle in range(11)]
        return [*ends, End(9e9, 9e9, 9e9), End(9e9, 9e9, 9e9)]

    facts: dict[str, list[float]] = defaultdict(list)
    assert turn(counted, contestant, "who", facts) == pytest.approx(0.1)  # cycles of 8 groups of 8
    assert facts == {
        "who: trajectories/s": [pytest.approx(10.0)],
        "who: trajectories/s, but for its learner's wait for a core": [pytest.approx(20.0)],
        "who: CPU ms a trajectory": [pytest.approx(200.0)],
    }


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="only Linux tells")
def test_the_wait_for_a_core_grows_and_is_unknown_of_a_process_that_is_not_there() -> None:
    before = queued("self")
    assert before >= 0
    assert queued(os.getpid()) >= before
    assert math.isnan(queued(2**30))


def test_a_cycle_ends_when_its_elapsed_seconds_are_first_told(tmp_path: Path) -> None:
    elapsed = "advdmd_run_elapsed_seconds"
    told = [(0, {elapsed: 0.5}), (1, {elapsed: 2.0}), (1, {elapsed: 2.5}), (2, {"other": 1.0}), (2, {elapsed: 4.0})]
    path = tmp_path / "metrics.jsonl"
    assert cycle_ends(path) == []
    path.write_text("".join(json.dumps({"time": 0.0, "cycle": at, "values": each}) + "\n" for at, each in told))
    assert cycle_ends(path) == [2.0, 4.0]


def test_the_bare_loop_trains_every_cycle_with_the_weights_of_the_cycles_before(tmp_path: Path) -> None:
    write_tiny_digits(tmp_path / "teacher", layers=2)
    batch = {"batch_size": 4}
    config = read_config(
        "digits",
        [
            f"run.output={tmp_path}",
            "run.cycles=3",
            f"model.path={tmp_path / 'teacher'}",
            "rollout.groups_per_cycle=2",
            "rollout.group_size=2",
            "rollout.max_policy_age=0",
            "discriminator.blocks=[1]",
            "learner.engine=torch",
            "cadence.fake_score_updates=1",
            *(
                f"{name}.{key}={value}"
                for name in ("dmd", "fake_score", "discriminator")
                for key, value in batch.items()
            ),
        ],
    )
    threads = torch.get_num_threads()
    try:
        bare = BareLoop(config)
        ends = bare.run()
    finally:
        torch.set_num_threads(threads)
    assert [end.at for end in ends] == sorted(end.at for end in ends)
    assert len(ends) == bare._learner.version == 3
    # The last groups were made by version 2, as no older one may make them.
    assert bare._rollout._network.version == bare._reward._network.version == 2
    assert bare._newest.version == 3
