"""The Ray actors around `RolloutWorker` and `RewardWorker`; they hold nothing that is lost when they die."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import ray
import torch

from advdmd_ray.config import Config
from advdmd_ray.runs.parts.workers import build_reward_worker, build_rollout_worker
from advdmd_ray.stations import work
from advdmd_ray.stations.prompt_table import PromptTable, TableFacts
from advdmd_ray.stations.records import GroupInfo, Lease, WorkReport
from advdmd_ray.stations.reward import RewardWorker
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import Manifest, Payload, Snapshot

Worker = TypeVar("Worker", RolloutWorker, RewardWorker)


class _WorkerActor(Generic[Worker]):
    def __init__(
        self, build: Callable[[PromptTable], Worker], threads: int, facts: TableFacts, shards: Sequence[np.ndarray]
    ) -> None:
        torch.set_num_threads(threads)
        self._build, self._facts, self._shards = build, facts, shards

    @cached_property
    def _worker(self) -> Worker:
        # Built by the first call and not by the constructor, whose errors Ray hands on as text only.
        return self._build(PromptTable.opened(self._facts, self._shards))

    def ready(self) -> str:
        """Name of the worker, once it is built."""
        return self._worker.name


@ray.remote
class RolloutActor(_WorkerActor[RolloutWorker]):
    """Generates groups."""

    def __init__(self, config: Config, name: str, facts: TableFacts, *shards: np.ndarray) -> None:
        super().__init__(partial(build_rollout_worker, config, name), config.rollout.threads, facts, shards)

    def generate(self, lease: Lease, manifest: Manifest, payload: Payload) -> tuple[WorkReport, pa.RecordBatch]:
        """See `work.generate`."""
        return work.generate(self._worker, lease, Snapshot(manifest, payload))


@ray.remote
class RewardActor(_WorkerActor[RewardWorker]):
    """Scores groups."""

    def __init__(self, config: Config, name: str, facts: TableFacts, *shards: np.ndarray) -> None:
        super().__init__(partial(build_reward_worker, config, name), config.reward.threads, facts, shards)

    def score(
        self, group: pa.RecordBatch, manifest: Manifest, payload: Payload
    ) -> tuple[tuple[WorkReport, GroupInfo], pa.RecordBatch]:
        """See `work.score`."""
        return work.score(self._worker, group, Snapshot(manifest, payload))
