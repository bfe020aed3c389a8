"""A worker's turn from record batch to record batch: what it loads, what it hands on and what it says of itself."""

import numpy as np
import psutil
import pytest

from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.stations import work
from advdmd_ray.stations.buffer.record_batch import decode_group, decode_scored
from advdmd_ray.stations.records import WorkReport
from advdmd_ray.stations.weights.snapshot import pack
from damage import damaged
from small_parts import Judge, Mixer, lease, reward_worker, rollout_worker


def _says_who_worked_and_how_much_it_holds(report: WorkReport, worker: str) -> None:
    assert report.worker == worker
    assert 0 < report.seconds < 60
    assert report.resident_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.5)


def test_a_group_travels_as_a_record_batch_and_weights_are_reported_by_the_turn_that_loaded_them() -> None:
    student = pack("student", 1, Mixer(2).state_dict())
    worker = rollout_worker(Mixer(1))
    reports, groups = zip(*(work.generate(worker, lease(4, version=1), student) for _ in range(2)), strict=True)
    handings, batches = zip(*(work.hand_over(worker, group) for group in groups), strict=True)
    for report in (*reports, *handings):
        _says_who_worked_and_how_much_it_holds(report, worker.name)
    assert reports[0].load is not None
    assert (reports[0].load.version, reports[0].load.digest) == (1, student.manifest.digest)
    assert {report.load for report in (reports[1], *handings)} == {None}
    assert batches[0].equals(batches[1])
    alone = rollout_worker(Mixer(2), version=1).generate(lease(4, version=1))
    np.testing.assert_array_equal(decode_group(batches[0]).latents, alone.latents)


def test_scores_travel_without_their_group_and_the_index_knows_the_size_of_both() -> None:
    student, discriminator = (
        pack("student", 0, Mixer(1).state_dict()),
        pack("discriminator", 3, Judge(5).state_dict()),
    )
    actor = rollout_worker(Mixer(1))
    _, group = work.hand_over(actor, work.generate(actor, lease(2), student)[1])
    worker = reward_worker(Judge(9))
    (report, info), scores = work.score(worker, group, discriminator)
    _says_who_worked_and_how_much_it_holds(report, worker.name)
    assert report.load is not None
    assert report.load.version == info.reward_version == 3
    assert (info.ordinal, info.size_bytes) == (2, group.nbytes + scores.nbytes)
    assert scores.nbytes < group.nbytes / 10
    scored = decode_scored(group, scores)
    assert scored.reward_version == 3
    np.testing.assert_allclose(scored.rewards.mean(axis=0), info.reward_mean, rtol=1e-5)


def test_weights_that_are_not_those_of_their_manifest_end_the_turn() -> None:
    student = pack("student", 1, Mixer(2).state_dict())
    with pytest.raises(WeightsMismatchError, match="student version 1"):
        work.generate(rollout_worker(Mixer(1)), lease(0, version=1), damaged(student))
