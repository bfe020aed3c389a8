"""What the workers of a role take: sums of what each said last, of memory and of GPUs where there are any."""

from advdmd_ray.controller.footprint import Footprint
from advdmd_ray.stations.records import GpuUse


def told(footprint: Footprint) -> dict[str, float]:
    return {sample.key.removeprefix("advdmd_run_"): sample.value for sample in footprint.samples()}


def test_each_worker_counts_once_with_what_it_said_last_and_not_at_all_once_it_has_left() -> None:
    footprint = Footprint()
    footprint.told("rollout-0", "rollout", 100, GpuUse(10, 0.5))
    footprint.told("rollout-1", "rollout", 200, GpuUse(20, 1.0))
    footprint.told("rollout-0", "rollout", 150, GpuUse(15, 0.2))
    footprint.told("rollout-0", "rollout", 150, None)  # it handed a group over, beside its GPU
    footprint.told("learner", "learner", 7, GpuUse(1000, 0.9))
    assert told(footprint) == {
        "resident_memory_bytes{role=rollout}": 350,
        "resident_memory_bytes{role=learner}": 7,
        "gpu_memory_bytes{role=rollout}": 35,
        "gpu_memory_bytes{role=learner}": 1000,
        "gpu_utilisation{role=rollout}": 0.6,
        "gpu_utilisation{role=learner}": 0.9,
    }
    footprint.left("rollout-1")
    footprint.left("rollout-1")
    assert told(footprint)["resident_memory_bytes{role=rollout}"] == 150
    assert told(footprint)["gpu_memory_bytes{role=rollout}"] == 15
    assert told(footprint)["gpu_utilisation{role=rollout}"] == 0.2


def test_what_nobody_knows_is_not_told() -> None:
    footprint = Footprint()
    footprint.told("reward-0", "reward", 100, None)
    assert told(footprint) == {"resident_memory_bytes{role=reward}": 100}
    footprint.told("reward-0", "reward", 100, GpuUse(10, None))
    assert told(footprint) == {"resident_memory_bytes{role=reward}": 100, "gpu_memory_bytes{role=reward}": 10}
