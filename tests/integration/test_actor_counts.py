"""With age cap 0 the bytes of the student depend on the seed, not on what Ray decides or how many actors there are."""

import sys
from hashlib import sha256
from pathlib import Path

import pytest

from advdmd_ray.controller.staff import worker_names
from ray_runs import workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CYCLES = 3
RUNS = {"1": 1, "4": 4, "1-3-2": 3}
"""Numbers of actors, of which one run has others in each cycle, and how many of them there are at most."""

# One Ray, the training part of a run for each number of actors; the judge is left out. While an actor comes the driver
# waits for it: a cycle takes less time than that.
TRAIN = """
import sys
import ray
from advdmd_ray.config import read_config
from advdmd_ray.controller import loop, scaling
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.runs.folder import Start, claim
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runtime.cluster import connected
from advdmd_ray.runtime.remote_hub import metrics_hub
from advdmd_ray.runtime.on_ray import RayPlace

scaling.LOOK_S = loop.REFRESH_S = 0.0

class Wishes:
    def __init__(self, shell, counts):
        self._shell, self._counts, self._version = shell, [int(count) for count in counts], 0

    def show(self, status):
        self._version = status.version
        if coming := self._shell._crew.coming():
            ray.wait(list(coming.values()), num_returns=len(coming))

    def wanted(self):
        return {"rollout": self._counts[min(self._version, len(self._counts) - 1)]}

    def tell(self, staff):
        pass

path, *runs = sys.argv[1:]
configs = [
    read_config(path, [f"run.name=actors-{run}", f"rollout.actors={run.split('-')[0]}", *OVERRIDES]) for run in runs
]
with connected(configs[1]):
    for run, config in zip(runs, configs):
        with claim(Start(config.folder, None, None, "")), metrics_hub(config) as hub:
            with RayPlace(config, hub, "").workers(None, StartClock()) as shell:
                wishes = Wishes(shell, run.split("-"))
                build_controller(config, shell, hub, display=wishes.show, wishes=wishes).run()
"""
OVERRIDES = ["rollout.max_policy_age=0", f"run.cycles={CYCLES}", "run.seed=11", "learner.engine=torch"]


def student_digest(run_folder: Path) -> str:
    newest = max((run_folder / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{CYCLES:08d}"
    return sha256((newest / "student.safetensors").read_bytes()).hexdigest()


def test_one_and_four_actors_and_other_numbers_in_each_cycle_train_the_same_student_bytes_at_age_cap_0() -> None:
    with workplace() as place:
        config = write_config(place.folder, "base")
        script = place.folder / "train.py"
        script.write_text(TRAIN.replace("*OVERRIDES", ", ".join(repr(text) for text in OVERRIDES)))
        run = place.start([sys.executable, str(script), str(config), *RUNS])
        assert run.ended(500) == 0, run.log()
        digests = {name: student_digest(place.folder / f"actors-{name}") for name in RUNS}
        assert len(set(digests.values())) == 1, digests
        for name, actors in RUNS.items():
            lines = (place.folder / f"actors-{name}" / "metrics.jsonl").read_text()
            used = {worker for worker in worker_names("rollout", 4) if f"worker={worker}" in lines}
            assert len(used) == actors, f"{used} generated groups; the comparison needs {actors}"
            assert "advdmd_learner_updates_total{objective=rl}" in lines
