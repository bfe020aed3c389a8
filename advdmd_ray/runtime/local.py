"""The in-process shell: the same parts, the same Arrow bytes and the same controller, without Ray.

For debugging and for most tests. A task is done when it is started, so the order of work is fixed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advdmd_ray.config import Config
from advdmd_ray.controller.frontier import restored_frontier
from advdmd_ray.controller.loop import Controller
from advdmd_ray.controller.protocols import Published, Reference, Status, Task
from advdmd_ray.learner.checkpoint import Checkpoint, latest_checkpoint
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.worker import LearnerWorker
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.inputs import encode_table, geometry
from advdmd_ray.runs.parts.workers import (
    build_reward_worker,
    build_rollout_worker,
    learner_parts,
    make_shards_here,
)
from advdmd_ray.stations import work
from advdmd_ray.stations.buffer.index import BufferIndex, check_capacity
from advdmd_ray.stations.records import GroupInfo, Lease
from advdmd_ray.stations.weights.snapshot import Manifest, Snapshot
from advdmd_ray.stations.weights.store import WeightStore


class LocalShell:
    """All workers in this process."""

    def __init__(self, config: Config, checkpoint: Checkpoint | None = None) -> None:
        self.rollout_workers = tuple(f"rollout-{index}" for index in range(config.rollout.actors))
        self.reward_workers = tuple(f"reward-{index}" for index in range(config.reward.workers))
        table = encode_table(config)
        make_shards_here(config, table)
        self.prompts = table.rollouts
        self._rollout = {name: build_rollout_worker(config, name, table) for name in self.rollout_workers}
        self._reward = {name: build_reward_worker(config, name, table) for name in self.reward_workers}
        self.learner = LearnerWorker(**learner_parts(config, SoloGang(), table, checkpoint))
        self._done: dict[Task, Any] = {}

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        """See `Shell`."""
        snapshot = Snapshot(student.manifest, student.payload)
        return self._finish(worker, *work.generate(self._rollout[worker], lease, snapshot))

    def score(self, worker: str, group: Reference, discriminator: Published) -> Task:
        """See `Shell`."""
        snapshot = Snapshot(discriminator.manifest, discriminator.payload)
        return self._finish(worker, *work.score(self._reward[worker], group, snapshot))

    def publication(self) -> tuple[tuple[Manifest, Manifest], Reference, Reference]:
        """See `Shell`."""
        student, discriminator = self.learner.learner.snapshots()
        return (student.manifest, discriminator.manifest), student.payload, discriminator.payload

    def fetch(self, groups: Sequence[tuple[GroupInfo, Reference]]) -> Task:
        """See `Shell`; all bytes are here."""
        self.learner.hold([data for _, data in groups])
        return self._finish("learner", ())

    def cycle(self, infos: Sequence[GroupInfo]) -> Task:
        """See `Shell`."""
        outcome, student, discriminator = self.learner.cycle(infos)
        return self._finish("learner", outcome, (student, discriminator))

    def checkpoint(self, facts: Mapping[str, Any]) -> Task:
        """See `Shell`."""
        return self._finish("learner", self.learner.checkpoint(facts))

    def grid(self) -> Task:
        """See `Shell`."""
        return self._finish("learner", self.learner.grid())

    def judge(self) -> Task:
        """See `Shell`."""
        return self._finish("learner", self.learner.judge())

    def wait(self, tasks: Sequence[Task], timeout_s: float) -> list[Task]:  # noqa: ARG002 - every task is done
        """See `Shell`: one task at a time, oldest first."""
        return list(tasks[:1])

    def outcome(self, task: Task) -> Any:
        """See `Shell`."""
        return self._done.pop(task)

    def _finish(self, worker: str, outcome: Any, payload: Reference = None) -> Task:
        task = Task(worker, (), payload)
        self._done[task] = outcome
        return task


def run_locally(config: Config, resume: Path | None = None, display: Callable[[Status], None] = lambda _: None) -> int:
    """Runs a whole configuration in this process and returns the last version.

    Args:
        config: `learner.ranks` must be 1.
        resume: A checkpoints folder to continue from.
        display: Called with the status several times a second.

    Raises:
        UserError: if the buffer cannot hold the groups of one cycle.
    """
    group_bytes = geometry(config).group_bytes
    check_capacity(config.buffer.max_bytes, group_bytes, config.rollout.groups_per_cycle)
    config.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = None if resume is None else latest_checkpoint(resume)
    shell = LocalShell(config, checkpoint)
    version = 0 if checkpoint is None else checkpoint.facts["learner"]["version"]
    frontier = restored_frontier(
        None if checkpoint is None else checkpoint.facts["controller"]["frontier"],
        run_seed=config.run.seed,
        prompts=shell.prompts,
        lease_s=config.rollout.lease_s,
    )
    with MetricsHub(RunFolder(config.folder).metrics) as hub:
        controller = Controller(
            config,
            frontier=frontier,
            buffer=BufferIndex(
                max_bytes=config.buffer.max_bytes,
                max_policy_age=config.rollout.max_policy_age,
                start=frontier.first_unsettled,
                settled=frontier.settled_beyond(),
            ),
            store=WeightStore({"student": version, "discriminator": version}),
            hub=hub,
            shell=shell,
            group_bytes=group_bytes,
            version=version,
            updates=None if checkpoint is None else checkpoint.facts["controller"]["updates"],
            display=display,
        )
        return controller.run()
