"""The Ray actors around `RolloutWorker` and `RewardWorker`; they hold nothing that is lost when they die."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import ray
import torch

from advdmd_ray.config import Config
from advdmd_ray.config.sections import MOST_LEASES
from advdmd_ray.runs.parts.networks import import_networks
from advdmd_ray.runs.parts.workers import build_reward_worker, build_rollout_worker
from advdmd_ray.runtime.calls import PULSE
from advdmd_ray.runtime.encoding import Encoding, encoding_of
from advdmd_ray.runtime.pulsed import Pulsed
from advdmd_ray.stations import work
from advdmd_ray.stations.prompt_table import PromptTable, TableFacts
from advdmd_ray.stations.records import GroupInfo, Lease, TrajectoryGroup, WorkReport
from advdmd_ray.stations.reward import RewardWorker
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import Manifest, Payload, Snapshot

HANDS = "hands"
Worker = TypeVar("Worker", RolloutWorker, RewardWorker)


class _WorkerActor(Pulsed, Generic[Worker]):
    def __init__(self, config: Config, build: Callable[[PromptTable], Worker], threads: int) -> None:
        torch.set_num_threads(threads)
        self._config, self._build = config, build

    def prepare(self, *, whole: bool) -> None:
        """See `import_networks`; before anything else. If it fails, `open` will say why."""
        import_networks(self._config, whole=whole)

    def open(self, facts: TableFacts, *shards: np.ndarray) -> str:
        """Gives the worker its prompts, and returns its name once it is built."""
        self._table = facts, shards
        return self._worker.name

    @ray.method(concurrency_group=PULSE)
    def where(self) -> str:
        """The id of its node."""
        return ray.get_runtime_context().get_node_id()

    @cached_property
    def _worker(self) -> Worker:
        # Not built by the constructor, whose errors Ray hands on as text only. Where `open` failed and nobody heard of
        # it, as when a worker is replaced, the next call fails in the same way.
        return self._build(PromptTable.opened(*self._table))


# Ray does not type the groups, and takes none when an actor is made: there are as many threads as are ever allowed.
@ray.remote(concurrency_groups={HANDS: MOST_LEASES, PULSE: 1})  # pyright: ignore[reportCallIssue]
class RolloutActor(_WorkerActor[RolloutWorker]):
    """Generates groups, one after the other, and hands them over in threads of their own, its `HANDS`."""

    def __init__(self, config: Config, name: str) -> None:
        super().__init__(config, partial(build_rollout_worker, config, name), config.rollout.threads)
        self._at_hand: dict[Lease, TrajectoryGroup] = {}

    @ray.method(num_returns="streaming")
    def encode(self) -> Encoding:
        """See `encoding_of`: for a whole run, before any worker is built."""
        yield from encoding_of(self._config)

    def generate(self, lease: Lease, manifest: Manifest, payload: Payload) -> tuple[WorkReport, None]:
        """See `work.generate`; the group stays at hand until it is handed over."""
        report, self._at_hand[lease] = work.generate(self._worker, lease, Snapshot(manifest, payload))
        return report, None

    @ray.method(concurrency_group=HANDS)
    def hand_over(self, lease: Lease) -> tuple[WorkReport, pa.RecordBatch]:
        """See `work.hand_over`."""
        return work.hand_over(self._worker, self._at_hand.pop(lease))

    def forget(self) -> None:
        """Lets go of all groups at hand: nobody will ask for them any more."""
        self._at_hand.clear()


@ray.remote(concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class RewardActor(_WorkerActor[RewardWorker]):
    """Scores groups."""

    def __init__(self, config: Config, name: str) -> None:
        super().__init__(config, partial(build_reward_worker, config, name), config.reward.threads)

    def score(
        self, group: pa.RecordBatch, manifest: Manifest, payload: Payload
    ) -> tuple[tuple[WorkReport, GroupInfo], pa.RecordBatch]:
        """See `work.score`."""
        return work.score(self._worker, group, Snapshot(manifest, payload))
