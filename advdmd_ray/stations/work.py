"""A worker's turn, from record batch to record batch: load the weights, do the work, encode it, say what was done."""

import time
from collections.abc import Callable
from functools import partial

import psutil
import pyarrow as pa

from advdmd_ray.errors import NotFiniteError
from advdmd_ray.stations.buffer.record_batch import decode_group, encode_group, encode_scores
from advdmd_ray.stations.gpu import gpu_use
from advdmd_ray.stations.records import GpuUse, GroupInfo, Lease, LoadReport, TrajectoryGroup, WorkReport
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
    return _report(worker.name, began, load, gpu=gpu_use(worker.device)), group


def hand_over(worker: RolloutWorker, group: TrajectoryGroup) -> tuple[WorkReport, pa.RecordBatch]:
    """A generated group as it travels. Nothing of the worker's network is used, so it may have its next work.

    One that is not finite travels too, for the quarantine; the report says so.
    """
    began = time.monotonic()
    batch, fault = _encoded(partial(encode_group, group))
    return _report(worker.name, began, None, fault), batch


def score(
    worker: RewardWorker, group: pa.RecordBatch, discriminator: Snapshot
) -> tuple[tuple[WorkReport, GroupInfo], pa.RecordBatch]:
    """A group's scores, and what the index must know of it; the discriminator is loaded first, as by `generate`.

    Scores that are not finite are told by the report.

    Raises:
        WeightsMismatchError: if the loaded bytes differ from the manifest.
    """
    began = time.monotonic()
    load = worker.load(discriminator)
    scored = worker.score(decode_group(group))
    scores, fault = _encoded(partial(encode_scores, scored))
    report = _report(worker.name, began, load, fault, gpu_use(worker.device))
    return (report, group_info(scored, group.nbytes + scores.nbytes)), scores


def _encoded(encode: Callable[..., pa.RecordBatch]) -> tuple[pa.RecordBatch, str]:
    """The record batch, and what is not finite in it."""
    try:
        return encode(finite=True), ""
    except NotFiniteError as error:
        return encode(finite=False), str(error)


def _report(
    worker: str, began: float, load: LoadReport | None, fault: str = "", gpu: GpuUse | None = None
) -> WorkReport:
    return WorkReport(worker, time.monotonic() - began, load, psutil.Process().memory_info().rss, fault, gpu)
