"""A worker's turn, from bytes to bytes: load the weights it is to run, do the work, encode it, say what was done."""

import time
from typing import TypeAlias

import numpy as np
import psutil
from jaxtyping import UInt8

from advdmd_ray.stations.buffer.record_batch import decode_group, encode_group, encode_scored, from_bytes, to_bytes
from advdmd_ray.stations.records import GroupInfo, Lease, LoadReport, WorkReport
from advdmd_ray.stations.reward import RewardWorker, group_info
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import Snapshot

GroupBytes: TypeAlias = UInt8[np.ndarray, " bytes"]
"""One group as an Arrow stream."""


def generate(worker: RolloutWorker, lease: Lease, student: Snapshot) -> tuple[WorkReport, GroupBytes]:
    """The group of one lease; the student is loaded first if the worker runs another version.

    Raises:
        WeightsMismatchError: if the loaded bytes differ from the manifest.
        ValueError: if the student is not the version that the lease names.
    """
    began = time.monotonic()
    load = worker.load(student)
    data = to_bytes(encode_group(worker.generate(lease)))
    return _report(worker.name, began, load), data


def score(
    worker: RewardWorker, group: GroupBytes, discriminator: Snapshot
) -> tuple[tuple[WorkReport, GroupInfo], GroupBytes]:
    """A group scored, and what the index must know of it; the discriminator is loaded first, as by `generate`.

    Raises:
        WeightsMismatchError: if the loaded bytes differ from the manifest.
    """
    began = time.monotonic()
    load = worker.load(discriminator)
    scored = worker.score(decode_group(from_bytes(group)))
    data = to_bytes(encode_scored(scored))
    return (_report(worker.name, began, load), group_info(scored, data.nbytes)), data


def _report(worker: str, began: float, load: LoadReport | None) -> WorkReport:
    return WorkReport(worker, time.monotonic() - began, load, psutil.Process().memory_info().rss)
