"""A worker's turn, from record batch to record batch: load the weights, do the work, encode it, say what was done."""

import time

import psutil
import pyarrow as pa

from advdmd_ray.stations.buffer.record_batch import decode_group, encode_group, encode_scores
from advdmd_ray.stations.records import GroupInfo, Lease, LoadReport, TrajectoryGroup, WorkReport
from advdmd_ray.stations.reward import RewardWorker, group_info
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import Snapshot


def generate(worker: RolloutWorker, lease: Lease, student: Snapshot) -> tuple[WorkReport, TrajectoryGroup]:
    """The group of one lease; the student is loaded first if the worker runs another version.

    Raises:
        WeightsMismatchError: if the loaded bytes differ from the manifest.
        ValueError: if the student is not the version that the lease names.
    """
    began = time.monotonic()
    load = worker.load(student)
    group = worker.generate(lease)
    return _report(worker.name, began, load), group


def hand_over(worker: RolloutWorker, group: TrajectoryGroup) -> tuple[WorkReport, pa.RecordBatch]:
    """A generated group as it travels. Nothing of the worker's network is used, so it may have its next work."""
    began = time.monotonic()
    batch = encode_group(group)
    return _report(worker.name, began, None), batch


def score(
    worker: RewardWorker, group: pa.RecordBatch, discriminator: Snapshot
) -> tuple[tuple[WorkReport, GroupInfo], pa.RecordBatch]:
    """A group's scores, and what the index must know of it; the discriminator is loaded first, as by `generate`.

    Raises:
        WeightsMismatchError: if the loaded bytes differ from the manifest.
    """
    began = time.monotonic()
    load = worker.load(discriminator)
    scored = worker.score(decode_group(group))
    scores = encode_scores(scored)
    return (_report(worker.name, began, load), group_info(scored, group.nbytes + scores.nbytes)), scores


def _report(worker: str, began: float, load: LoadReport | None) -> WorkReport:
    return WorkReport(worker, time.monotonic() - began, load, psutil.Process().memory_info().rss)
