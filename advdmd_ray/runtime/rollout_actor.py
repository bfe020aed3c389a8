"""The Ray actor around `RolloutWorker`."""

import time

import numpy as np
import ray
import torch

from advdmd_ray.assembly import build_rollout_worker
from advdmd_ray.buffer.codec import encode_group, to_bytes
from advdmd_ray.config import Config
from advdmd_ray.prompts import PromptTable
from advdmd_ray.records import Lease, WorkReport
from advdmd_ray.runtime.calls import ANSWER_S
from advdmd_ray.weights import Manifest, Snapshot, unpack


@ray.remote
class RolloutActor:
    """Generates groups; holds nothing that is lost when it dies."""

    def __init__(
        self, config: Config, name: str, texts: tuple[str, ...], manifest: Manifest, boxed: list[ray.ObjectRef]
    ) -> None:
        torch.set_num_threads(config.run.threads)
        # Boxed: a plain argument in the object store would end with the first start, and no restart could have it.
        table = PromptTable.from_state(texts, unpack(Snapshot(manifest, ray.get(boxed[0], timeout=ANSWER_S))))
        self._worker = build_rollout_worker(config, name, table)

    def ready(self) -> str:
        """The node it runs on."""
        return ray.get_runtime_context().get_node_id()

    def generate(self, lease: Lease, manifest: Manifest, payload: np.ndarray) -> tuple[WorkReport, np.ndarray]:
        """The group of one lease as Arrow bytes; loads the student first if it is another version."""
        began = time.monotonic()
        load = self._worker.load(Snapshot(manifest, payload))
        data = to_bytes(encode_group(self._worker.generate(lease)))
        return WorkReport(self._worker.name, time.monotonic() - began, load), data
