"""The Ray actor around `RewardWorker`."""

import time

import numpy as np
import ray
import torch

from advdmd_ray.assembly import build_reward_worker
from advdmd_ray.buffer.codec import decode_group, encode_scored, from_bytes, to_bytes
from advdmd_ray.config import Config
from advdmd_ray.prompts import PromptTable
from advdmd_ray.records import GroupInfo, WorkReport
from advdmd_ray.reward import group_info
from advdmd_ray.runtime.calls import ANSWER_S
from advdmd_ray.weights import Manifest, Snapshot, unpack


@ray.remote
class RewardActor:
    """Scores groups; holds nothing that is lost when it dies."""

    def __init__(
        self, config: Config, name: str, texts: tuple[str, ...], manifest: Manifest, boxed: list[ray.ObjectRef]
    ) -> None:
        torch.set_num_threads(config.run.threads)
        # Boxed: a plain argument in the object store would end with the first start, and no restart could have it.
        table = PromptTable.from_state(texts, unpack(Snapshot(manifest, ray.get(boxed[0], timeout=ANSWER_S))))
        self._worker = build_reward_worker(config, name, table)

    def ready(self) -> str:
        """The node it runs on."""
        return ray.get_runtime_context().get_node_id()

    def score(
        self, group: np.ndarray, manifest: Manifest, payload: np.ndarray
    ) -> tuple[tuple[WorkReport, GroupInfo], np.ndarray]:
        """The scored group as Arrow bytes, and what the index must know of it."""
        began = time.monotonic()
        load = self._worker.load(Snapshot(manifest, payload))
        scored = self._worker.score(decode_group(from_bytes(group)))
        data = to_bytes(encode_scored(scored))
        report = WorkReport(self._worker.name, time.monotonic() - began, load)
        return (report, group_info(scored, data.nbytes)), data
