"""The Ray actor around `RolloutWorker`."""

import time

import numpy as np
import psutil
import ray
import torch

from advdmd_ray.config import Config
from advdmd_ray.runs.parts.workers import build_rollout_worker
from advdmd_ray.stations.buffer.record_batch import encode_group, to_bytes
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import Lease, WorkReport
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import Manifest, Snapshot, unpack


@ray.remote
class RolloutActor:
    """Generates groups; holds nothing that is lost when it dies."""

    def __init__(
        self, config: Config, name: str, texts: tuple[str, ...], manifest: Manifest, payload: np.ndarray
    ) -> None:
        torch.set_num_threads(config.rollout.threads)
        self._config, self._name = config, name
        self._prompts = texts, Snapshot(manifest, payload)
        self._built: RolloutWorker | None = None

    @property
    def _worker(self) -> RolloutWorker:
        # Built by the first call and not by the constructor, whose errors Ray hands on as text only.
        if self._built is None:
            texts, snapshot = self._prompts
            table = PromptTable.from_state(texts, unpack(snapshot))
            self._built = build_rollout_worker(self._config, self._name, table)
        return self._built

    def ready(self) -> str:
        """Name of the worker, once it is built."""
        return self._worker.name

    def generate(self, lease: Lease, manifest: Manifest, payload: np.ndarray) -> tuple[WorkReport, np.ndarray]:
        """The group of one lease as Arrow bytes; loads the student first if it is another version."""
        began = time.monotonic()
        load = self._worker.load(Snapshot(manifest, payload))
        data = to_bytes(encode_group(self._worker.generate(lease)))
        return WorkReport(self._worker.name, time.monotonic() - began, load, psutil.Process().memory_info().rss), data
