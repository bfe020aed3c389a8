"""With age cap 0 the bytes of the student depend on the seed, not on Ray, its decisions or the number of actors."""

import sys
from hashlib import sha256
from pathlib import Path

import pytest

from advdmd_ray.controller.staff import worker_names
from ray_runs import workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CYCLES = 3
ROOM = 2
"""Actors for which the cluster has room at first."""

# The training part of two runs, one in this process and one on a cluster; the judge is left out. The second is to have
# three actors, of which one comes once there is a node for it, and another leaves when its owner says so. The driver
# waits for an actor that comes: a cycle takes less time than that.
TRAIN = """
import sys
import ray
from ray.cluster_utils import Cluster
from advdmd_ray.config import read_config
from advdmd_ray.controller import loop, scaling
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.errors import UserError
from advdmd_ray.runs.folder import Start, claim
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runtime.cluster import connected
from advdmd_ray.runtime.local import in_this_process
from advdmd_ray.runtime.remote_hub import metrics_hub
from advdmd_ray.runtime.on_ray import RayPlace

scaling.LOOK_S = loop.REFRESH_S = 0.0
node = {"num_cpus": ROOM + 1, "object_store_memory": 200 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})


class Wishes:
    def __init__(self, shell):
        self._shell, self._version = shell, 0

    def show(self, status):
        if status.version > self._version:
            self._version = status.version
            print(f"version {self._version}: {len(self._shell._crew.coming())} coming", flush=True)
            if self._version == 1 and self._shell._crew.coming():
                cluster.add_node(**node)
        if self._version and (coming := self._shell._crew.coming()):
            ray.wait(list(coming.values()), num_returns=len(coming))

    def wanted(self):
        return {"rollout": ROOM} if self._version == 2 and len(self._shell.rollout_workers) > 1 else {}

    def tell(self, staff):
        pass


def train_here(*overrides):
    config = read_config(sys.argv[1], [*OVERRIDES, *overrides])
    with claim(Start(config.folder, None, None, "")), in_this_process(config) as place:
        with place.workers(None, StartClock()) as shell:
            build_controller(config, shell, place.hub).run()


def train(*overrides):
    config = read_config(sys.argv[1], [*OVERRIDES, *overrides, f"ray.address={cluster.address}"])
    with connected(config) as room, claim(Start(config.folder, None, None, "")), metrics_hub(config) as hub:
        with RayPlace(config, hub, "", room).workers(None, StartClock()) as shell:
            wishes = Wishes(shell)
            build_controller(config, shell, hub, display=wishes.show, wishes=wishes).run()


train_here("run.name=one", "rollout.actors=1")
try:
    train("run.name=none", "rollout.actors=3", f"rollout.actors_min={ROOM + 1}", "ray.start_timeout_s=1")
except UserError as error:
    print(error)
train("run.name=others", "rollout.actors=3", f"rollout.actors_min={ROOM}")
cluster.shutdown()
"""
OVERRIDES = [
    *("rollout.max_policy_age=0", f"run.cycles={CYCLES}", "run.seed=11", "learner.engine=torch"),
    *("rollout.num_cpus=1", "reward.num_cpus=0.5", "learner.num_cpus=0.5"),
]


def student_digest(run_folder: Path) -> str:
    newest = max((run_folder / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{CYCLES:08d}"
    return sha256((newest / "student.safetensors").read_bytes()).hexdigest()


def test_one_actor_without_ray_and_two_then_three_then_two_on_ray_train_the_same_student_bytes_at_age_cap_0() -> None:
    with workplace() as place:
        config = write_config(place.folder, "base")
        script = place.folder / "train.py"
        script.write_text(f"OVERRIDES, ROOM = {OVERRIDES!r}, {ROOM}\n{TRAIN}")
        run = place.start([sys.executable, str(script), str(config)], RAY_AUTH_MODE="disabled")
        assert run.ended(500) == 0, run.log()
        log = run.log()
        digests = {name: student_digest(place.folder / name) for name in ("one", "others")}
        assert len(set(digests.values())) == 1, digests
        assert "waited 1 s for room: the workers reserve 4 CPUs, the cluster has 3; lower rollout.actors, " in log
        assert not (place.folder / "none").exists()
        # It began with as many as there was room for, and the other one came with the node.
        assert "the run starts without rollout-2, who are not up yet" in log
        assert [line for line in log.splitlines() if line.startswith("version")] == [
            *("version 1: 1 coming", "version 2: 0 coming", "version 3: 0 coming")
        ]
        for name, actors in {"one": 1, "others": 3}.items():
            lines = (place.folder / name / "metrics.jsonl").read_text()
            used = {worker for worker in worker_names("rollout", 3) if f"worker={worker}" in lines}
            assert len(used) == actors, f"{used} generated groups; the comparison needs {actors}"
            assert "advdmd_learner_updates_total{objective=rl}" in lines
