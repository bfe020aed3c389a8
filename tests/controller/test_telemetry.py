"""What a run tells of itself, however fast its cycles are."""

from collections.abc import Sequence

import pytest

from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.controller.telemetry import SEND_S, Telemetry
from advdmd_ray.metrics.series import Sample
from advdmd_ray.stations.buffer.index import BufferStats


class HubThatKeeps:
    """Keeps all samples."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        self.samples += samples


def test_a_worker_that_is_up_again_is_told_of_though_cycles_send_more_often_than_the_clock() -> None:
    now, hub = [0.0], HubThatKeeps()
    workers = {"rollout": ["rollout-0"], "reward": ["reward-0"]}
    start = StartClock(lambda: now[0])
    told = Telemetry(Config(), hub, workers, version=0, updates={}, clock=lambda: now[0], start=start)
    told.begin()
    told.send()
    for state in (told.stations.down, told.stations.waiting):
        state("reward-0")
        for _ in range(10):
            now[0] += 0.5 * SEND_S
            told.send()  # as at the end of a cycle
            told.tick(lambda: BufferStats(0, 0), lambda: 0)
    up = [sample.value for sample in hub.samples if sample.key == "advdmd_run_workers{role=reward}"]
    assert up == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(("limit", "left"), [(None, 60.0), (100.0, 60.0), (35.0, 15.0), (10.0, 0.0)])
def test_the_time_left_comes_from_cycles_and_before_the_first_there_is_none(limit: float | None, left: float) -> None:
    now, hub = [5.0], HubThatKeeps()
    config = Config.model_validate({"run": {"cycles": 12, "time_limit_s": limit}})
    start = StartClock(lambda: now[0])
    workers = {"rollout": ["rollout-0"], "reward": ["reward-0"]}
    told = Telemetry(config, hub, workers, version=8, updates={}, clock=lambda: now[0], start=start)
    told.begin()
    now[0] += 20.0
    assert told.status("a lease").remaining_s is None
    told._version = 9  # one cycle of this process, of four, took 20 s
    assert told.status("a lease").remaining_s == left
