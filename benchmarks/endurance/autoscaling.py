"""`python -m benchmarks.endurance.autoscaling DIR`: a run on a cluster whose head alone has too little room for it.

The autoscaler is Ray's own, its nodes are raylets on this machine, with labels for roles. Seen are when nodes are there
for a run, where its workers are, and when the nodes are gone after its end; and of a second run, that more actors bring
a node, that fewer let nodes go, and when all are gone after its driver was killed.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import ray

from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.needs.node_roles import LABEL
from advdmd_ray.runs.scaling import ask
from benchmarks.endurance.fake_autoscaler import FakeCluster, NodeType, autoscaling, free_port
from benchmarks.endurance.one_run import OneRun, running, staff_of, value
from benchmarks.endurance.processes import found
from benchmarks.endurance.tiny import PER_CYCLE, tiny_settings, write_teacher

LOOK_S, PATIENCE_S = 0.1, 120.0
TYPES = {
    "learner": NodeType(2, 2, {LABEL: "learner"}),
    "workers": NodeType(2, 4, {LABEL: "rollout-reward"}),
    "others": NodeType(8, 4, {}),
}
ROOM = {"learner": {"num_cpus": 1.5}, "rollout": {"num_cpus": 1, "actors": 3}, "reward": {"num_cpus": 1}}
"""Of a run that takes a node of the learner's and two of the workers', and none of the others'."""
ALL = 4
"""Nodes while it runs, with the head."""
MORE = 5
"""Actors that take one node more."""
ENDLESS = 10**6


def experiment(folder: Path, cluster: FakeCluster, cycles: int) -> dict[str, Any]:
    """What was seen of a run to its end, and of one that is scaled and killed."""
    trained = _folder(folder / "trained")
    with running(trained, _settings(trained, cluster, cycles)) as run:
        asked = run.until(lambda: _said(run.log, "asked the cluster"), LOOK_S)
        nodes = run.until(lambda: time.monotonic() if _nodes() == ALL else None, LOOK_S)
        first = run.until(lambda: time.monotonic() if _trains(run) else None, LOOK_S)
        where = _places(cluster, run.process.pid)
        code = run.process.wait()
    seen = {
        "exit_code": code,
        "nodes_after_s": nodes - asked,
        "first_cycle_after_s": first - asked,
        "workers": where,
        "nodes_gone_after_s": _seconds_until(lambda: _nodes() == 1),
    }
    return {**seen, **_scaled_and_killed(_folder(folder / "scaled"), cluster)}


def _scaled_and_killed(folder: Path, cluster: FakeCluster) -> dict[str, Any]:
    with running(folder, _settings(folder, cluster, ENDLESS)) as run:
        run.until(lambda: _trains(run), LOOK_S)
        its = RunFolder(folder / "run")
        ask(its.path, {"rollout": MORE}, PATIENCE_S)
        node = _seconds_until(lambda: _nodes() == ALL + 1)
        up = node + _seconds_until(lambda: staff_of(its)["up"] == MORE)
        where = _places(cluster, run.process.pid)
        ask(its.path, {"rollout": 1}, PATIENCE_S)
        down = _seconds_until(lambda: _nodes() < ALL + 1)
        cycle = value(run.metrics(), "advdmd_run_cycle") or 0.0
        run.until(lambda: (value(run.metrics(), "advdmd_run_cycle") or 0.0) > cycle + 1 or None, LOOK_S)
        run.process.kill()
        run.process.wait()
    return {
        "node_for_more_actors_after_s": node,
        "more_actors_up_after_s": up,
        "workers_when_more": where,
        "first_node_gone_after_fewer_s": down,
        "nodes_gone_after_kill_s": _seconds_until(lambda: _nodes() == 1),
        "asked_by_the_dead": _pending(),
    }


def _trains(run: OneRun) -> bool | None:
    return True if value(run.metrics(), "advdmd_run_cycle") else None


def _folder(folder: Path) -> Path:
    folder.mkdir()
    write_teacher(folder / "teacher")
    return folder


def _settings(folder: Path, cluster: FakeCluster, cycles: int) -> dict[str, Any]:
    tree = tiny_settings(folder, PER_CYCLE * cycles)
    for role, shares in ROOM.items():
        tree[role] = {**tree[role], **shares}
    return {**tree, "ray": {"address": cluster.address, "placement": "labelled"}}


def _said(log: Path, text: str) -> float | None:
    return time.monotonic() if text in log.read_text(errors="replace") else None


def _nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def _pending() -> int:
    """Placement groups that still ask for something."""
    return sum(group["state"] != "REMOVED" for group in ray.util.placement_group_table().values())


def _places(cluster: FakeCluster, driver: int) -> dict[str, int]:
    """How many workers of each role are on nodes with each label."""
    labels = {node["NodeID"]: node["Labels"].get(LABEL, "no label") for node in ray.nodes()}
    counts: Counter[str] = Counter()
    for name, process in found(cluster.mark, driver).items():
        role = name.rstrip(" 0123456789")
        with contextlib.suppress(psutil.Error):
            raylet = process.parent()
            node = next((part for part in raylet.cmdline() if part.startswith("--node_id=")), None) if raylet else None
            if node is not None:
                counts[f"{role} on {labels[node.removeprefix('--node_id=')]}"] += 1
    return dict(counts)


def _seconds_until(holds: Callable[[], bool]) -> float:
    """Raises RuntimeError if it takes longer than `PATIENCE_S`."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() > began + PATIENCE_S:
            raise RuntimeError(f"the nodes are still there after {PATIENCE_S:.0f} s")
        time.sleep(LOOK_S)
    return time.monotonic() - began


def main() -> None:
    """Runs the experiment and prints what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.autoscaling", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--cycles", type=int, default=20, help="learner cycles of the run (20)")
    parser.add_argument("--idle", type=float, default=6.0, help="seconds after which an idle node goes (6)")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True)
    os.environ["RAY_AUTH_MODE"] = "disabled"  # as the cluster has it
    with (
        tempfile.TemporaryDirectory(prefix="scale-", dir="/tmp", ignore_cleanup_errors=True) as short,
        autoscaling(Path(short), free_port(), 1, TYPES, args.idle) as cluster,
    ):
        ray.init(address=cluster.address, log_to_driver=False)
        document = {**made_here(), "idle_s": args.idle, **experiment(folder, cluster, args.cycles)}
        ray.shutdown()
    (folder / "autoscaling.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
