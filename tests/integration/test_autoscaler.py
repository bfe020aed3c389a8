"""A real autoscaler brings the nodes that a run asks for, with the labels of its roles, and takes them back."""

import json
import sys

import pytest

from ray_runs import workplace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = """
import json
import sys
import time
from pathlib import Path

import ray
from ray.util import placement_group_table

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.node_roles import ANY_ROLE, LABEL
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.room import asking
from advdmd_ray.runtime.waiting import living_nodes, wait_for_room
from benchmarks.endurance.fake_autoscaler import NodeType, autoscaling, free_port


@ray.remote
def here():
    return ray.get_runtime_context().get_node_id()


def label_of(node):
    return next(each["Labels"].get(LABEL, "none") for each in ray.nodes() if each["NodeID"] == node)


def nodes():
    return sorted(node.labels.get(LABEL, "none") for node in living_nodes())


config = Config.model_validate(
    {
        "learner": {"ranks": 1, "num_cpus": 1.5},
        "rollout": {"actors": 2, "num_cpus": 1},
        "reward": {"workers": 1, "num_cpus": 0},
        "ray": {"placement": "labelled"},
    }
)
types = {name: NodeType(2, 2, {LABEL: name}) for name in ("learner", "rollout-reward")} | {"others": NodeType(2, 2, {})}
with autoscaling(Path(sys.argv[1]), free_port(), 1, types, 2.0) as cluster:
    ray.init(address=cluster.address, log_to_driver=False)
    found = {"before": nodes()}
    with asking() as request:
        wait_for_room(config, 150.0, request)
        found["asked"] = nodes()
    places = Places(config)
    for role in ("learner", "rollout"):
        found[role] = label_of(ray.get(here.options(num_cpus=1, **places.options(role)).remote()))
    spread = here.options(num_cpus=1, scheduling_strategy="SPREAD", **places.options(ANY_ROLE))
    found["spread"] = [label_of(node) for node in ray.get([spread.remote() for _ in range(6)])]
    found["left"] = [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]
    end = time.monotonic() + 100
    while len(nodes()) > 1 and time.monotonic() < end:
        time.sleep(0.1)
    found["after"] = nodes()
    ray.shutdown()
print(json.dumps(found))
"""


def test_nodes_come_because_a_run_asks_and_go_when_it_does_not_any_more() -> None:
    with workplace() as place:
        script = place.folder / "asking.py"
        script.write_text(SCRIPT)
        run = place.start([sys.executable, str(script), str(place.folder)], RAY_AUTH_MODE="disabled", PYTHONPATH=".")
        assert run.ended(280) == 0, run.log()
        found = json.loads(next(line for line in run.log().splitlines() if line.startswith("{")))
        assert found["before"] == ["none"]
        assert found["asked"] == ["learner", "none", "rollout-reward"]
        assert (found["learner"], found["rollout"]) == ("learner", "rollout-reward")
        assert set(found["spread"]) <= {"learner", "rollout-reward"}, "what judges goes to the nodes of the run"
        assert found["left"] == []
        assert found["after"] == ["none"]
        assert "asked the cluster for 1 x learner of 1.5 CPU, 2 x rollout of 1 CPU, 1 x reward of no CPU" in run.log()
        assert place.left_after(15) == []
