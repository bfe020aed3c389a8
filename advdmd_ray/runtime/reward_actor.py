"""The Ray actor around `RewardWorker`."""

import time

import numpy as np
import psutil
import ray
import torch

from advdmd_ray.config import Config
from advdmd_ray.runs.parts.workers import build_reward_worker
from advdmd_ray.stations.buffer.record_batch import decode_group, encode_scored, from_bytes, to_bytes
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import GroupInfo, WorkReport
from advdmd_ray.stations.reward import RewardWorker, group_info
from advdmd_ray.stations.weights.snapshot import Manifest, Snapshot, unpack


@ray.remote
class RewardActor:
    """Scores groups; holds nothing that is lost when it dies."""

    def __init__(
        self, config: Config, name: str, texts: tuple[str, ...], manifest: Manifest, payload: np.ndarray
    ) -> None:
        torch.set_num_threads(config.reward.threads)
        self._config, self._name = config, name
        self._prompts = texts, Snapshot(manifest, payload)
        self._built: RewardWorker | None = None

    @property
    def _worker(self) -> RewardWorker:
        # Built by the first call and not by the constructor, whose errors Ray hands on as text only.
        if self._built is None:
            texts, snapshot = self._prompts
            table = PromptTable.from_state(texts, unpack(snapshot))
            self._built = build_reward_worker(self._config, self._name, table)
        return self._built

    def ready(self) -> str:
        """Name of the worker, once it is built."""
        return self._worker.name

    def score(
        self, group: np.ndarray, manifest: Manifest, payload: np.ndarray
    ) -> tuple[tuple[WorkReport, GroupInfo], np.ndarray]:
        """The scored group as Arrow bytes, and what the index must know of it."""
        began = time.monotonic()
        load = self._worker.load(Snapshot(manifest, payload))
        scored = self._worker.score(decode_group(from_bytes(group)))
        data = to_bytes(encode_scored(scored))
        report = WorkReport(self._worker.name, time.monotonic() - began, load, psutil.Process().memory_info().rss)
        return (report, group_info(scored, data.nbytes)), data
