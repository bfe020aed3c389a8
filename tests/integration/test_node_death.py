"""A node ends and takes scored groups with it, a rank ends in a collective, bytes differ: what is said of it."""

import json
import re
import sys

import pytest

from ray_runs import workplace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Two ranks on the head; groups 1, 2 and 5 are made on the head too, 0, 3 and 4 on a node that dies, as are all scores.
# Ray keeps results below 100 kB with their owner, so the small group 4 and most scores outlive the node that made them;
# the scores of group 5 do not.
SCRIPT = """
import json
import os
import sys
import time

import numpy as np
import ray
from torch.nn import Linear
from ray.cluster_utils import Cluster
from ray.exceptions import RayTaskError

from advdmd_ray.config import Config
from advdmd_ray.errors import BytesLostError, WeightsMismatchError, WorkerLostError
from advdmd_ray.stations.records import GroupInfo
from advdmd_ray.stations.weights.loading import ModuleLoader, load_verified
from advdmd_ray.stations.weights.snapshot import Snapshot, pack
from advdmd_ray.runtime.calls import answer
from advdmd_ray.runtime.learner_rank import LearnerRank
from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.controller.protocols import Task


@ray.remote(num_cpus=0)
class Maker:
    def make(self, size):
        return size, np.full(size, 7, np.uint8)

    def read(self, group):
        return group.nbytes

    def load(self, manifest, payload):
        load_verified(ModuleLoader(Linear(2, 2)), Snapshot(manifest, payload), "reward-0")


@ray.remote(num_cpus=0)
class Rank:  # one of two in a collective: the death of the other is an error of its own
    def lose_the_other(self):
        raise RuntimeError("Connection closed by peer")

    def die(self):
        time.sleep(3)
        os._exit(1)


def fetched(shell, groups):
    job = shell.fetch(groups)
    while not shell.wait(60.0):
        pass
    return shell.outcome(job)


store = {"object_store_memory": 80 * 2**20}
cluster = Cluster(
    initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"head": 9}, "include_dashboard": False, **store}
)
far = cluster.add_node(num_cpus=1, resources={"far": 9}, **store)
ray.init(address=cluster.address, log_to_driver=False)
near, away, reader = (Maker.options(resources={where: 1}).remote() for where in ("head", "far", "head"))
makers = [(away, 10**6), (near, 10**6), (near, 10**6), (away, 10**6), (away, 100), (near, 10**6)]
made = [maker.make.options(num_returns=2).remote(size) for maker, size in makers]
scored = [away.make.options(num_returns=2).remote(size) for size in (100, 100, 100, 100, 100, 10**6)]
ray.get([done for done, _ in (*made, *scored)])
groups = [
    (GroupInfo(ordinal, 0, 0, 4, 0, 0, size, (0.0,), (1.0,)), (group, scores))
    for ordinal, ((_, size), (_, group), (_, scores)) in enumerate(zip(makers, made, scored, strict=True))
]
shell = RayShell(Config.model_validate({"learner": {"ranks": 2}}))
# The ranks fetch without having joined a gang: nothing of it is needed for that.
gang = LearnerRank.options(num_cpus=0, resources={"head": 1})
shell._gang.ranks = [gang.remote(shell._config, rank) for rank in (0, 1)]
ray.get([rank.rendezvous.remote() for rank in shell._gang.ranks] + [reader.read.remote(groups[1][1][0])])
cluster.remove_node(far, allow_graceful=False)
found = {"lost": fetched(shell, groups), "kept": fetched(shell, [groups[1], groups[2], groups[4]])}
try:
    answer(reader.read.remote(groups[0][1][0]), "reward-0")
except BytesLostError as error:
    found["line"] = str(error)
snapshot = pack("discriminator", 0, Linear(2, 2).state_dict())
*others, last = (np.array(raw) for raw in snapshot.payload)
last[-1] ^= 1
load = Task("reward-0", (reader.load.remote(snapshot.manifest, ray.put((*others, last))),))
shell._landing.watch(load)
while not shell.wait(60.0):
    pass
try:
    shell.outcome(load)
except WeightsMismatchError as error:
    found["differ"] = str(error)
alive, dying = Rank.remote(), Rank.remote()
together, alone = (alive.lose_the_other.remote(), dying.die.remote()), (alive.lose_the_other.remote(),)
for job in (Task("learner", together), Task("learner", alone)):
    shell._landing.watch(job)
    while not shell.wait(60.0):
        pass
    try:
        shell.outcome(job)
    except (WorkerLostError, RayTaskError) as error:
        found.setdefault("ends", []).append([type(error).__name__.partition("(")[0], str(error)])
print(json.dumps(found))
ray.shutdown()
cluster.shutdown()
"""


def test_lost_groups_are_named_others_kept_other_bytes_found_and_a_rank_s_death_is_told_before_its_echo() -> None:
    with workplace() as place:
        script = place.folder / "cluster.py"
        script.write_text(SCRIPT)
        # Ray gives a silent node 15 seconds; one whose socket is closed needs no such patience here.
        run = place.start(
            [sys.executable, str(script)],
            RAY_AUTH_MODE="disabled",
            RAY_USAGE_STATS_ENABLED="0",
            RAY_health_check_period_ms="1000",
            RAY_health_check_failure_threshold="2",
        )
        assert run.ended(240) == 0, run.log()
        found = json.loads(next(line for line in run.log().splitlines() if line.startswith("{")))
        assert found["lost"] == [0, 3, 5]
        assert found["kept"] == []
        # A worker that was to read such a group hears of it, and is not taken for dead.
        assert found["line"].startswith("reward-0: bytes are gone with the node that held them (Object")
        # Weights that are not those published are told in the words of the worker that found them.
        said = r"reward-0: discriminator version 0: the payload has digest [0-9a-f]{64}, published was [0-9a-f]{64}: .*"
        assert re.fullmatch(said, found["differ"])
        # Of two ranks that fail, the one that died is the news, however late; an error of its own is told as it is.
        (lost, why), (own, trace) = found["ends"]
        assert lost == "WorkerLostError"
        assert why.startswith("learner: ActorDiedError: ")
        assert own == "RayTaskError"
        assert "Connection closed by peer" in trace
        assert place.left_after(15) == []
