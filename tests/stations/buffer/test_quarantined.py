"""A file of the quarantine says all that it was made of, whatever its values; others are refused in one line."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.errors import UserError
from advdmd_ray.stations import work
from advdmd_ray.stations.buffer.quarantined import (
    FORMAT,
    Quarantined,
    QuarantineFolder,
    read_quarantined,
    write_quarantined,
)
from advdmd_ray.stations.buffer.record_batch import decode_group, encode_group, encode_scores
from advdmd_ray.stations.records import Lease, ScoredGroup, TrajectoryGroup
from advdmd_ray.stations.weights.snapshot import pack
from small_parts import Judge, Mixer, lease, reward_worker, rollout_worker

LEASE = lease(4)
naturals = st.integers(0, 2**63 - 1)


def group() -> TrajectoryGroup:
    made = rollout_worker(Mixer(1), version=0).generate(LEASE)
    latents = made.latents.copy()
    latents[1, 2] = np.nan
    latents[0, 3] = np.inf
    return replace(made, latents=latents)


def kept(*, scored: bool = False) -> Quarantined:
    broken = group()
    scores = ScoredGroup(broken, np.full((len(broken.seeds), 3), np.nan, np.float32), 5)
    batches = (encode_group(broken, finite=False), *([encode_scores(scores, finite=False)] if scored else []))
    return Quarantined(LEASE, "latents: contains NaN", "rollout-1", batches)


@given(naturals, naturals, naturals, naturals, naturals, st.text(max_size=40), st.text(max_size=20))
def test_a_lease_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, o: int, a: int, p: int, s: int, v: int, fault: str, worker: str
) -> None:
    given_lease = Quarantined(Lease(o, a, p, s, v), fault, worker)
    path = tmp_path_factory.mktemp("q") / "lease.arrow"
    write_quarantined(path, given_lease)
    assert read_quarantined(path) == given_lease
    assert given_lease.group is None


@pytest.mark.parametrize("scored", [False, True])
def test_values_come_back_to_the_bit_finite_or_not(tmp_path: Path, scored: bool) -> None:
    given_group = kept(scored=scored)
    write_quarantined(tmp_path / "group.arrow", given_group)
    found = read_quarantined(tmp_path / "group.arrow")
    assert (found.lease, found.fault, found.worker) == (LEASE, "latents: contains NaN", "rollout-1")
    assert found.group is not None
    for name, value in asdict(group()).items():
        np.testing.assert_array_equal(getattr(found.group, name), value, strict=isinstance(value, np.ndarray))
    names = pa.ipc.open_file(str(tmp_path / "group.arrow")).schema.names
    assert ("rewards" in names) == scored, "whoever opens the file by hand finds the scores too"


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_quarantined(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


def test_what_is_no_file_of_a_quarantine_is_one_line_that_says_what_came(tmp_path: Path) -> None:
    assert "cannot be read (no such file or directory)" in refused(tmp_path / "none.arrow")
    assert "give a file of a run's quarantine/" in refused(tmp_path)
    text = tmp_path / "text.arrow"
    text.write_text("hello")
    assert "no Arrow file" in refused(text)
    other = tmp_path / "other.arrow"
    with pa.OSFile(str(other), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("a", pa.int64())])):
        pass
    assert f"format none none, this command reads {FORMAT} 1" in refused(other)


def test_a_file_cut_at_any_place_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "group.arrow"
    write_quarantined(path, kept())
    whole = path.read_bytes()
    for size in range(0, len(whole), 997):
        path.write_bytes(whole[:size])
        refused(path)


@pytest.mark.parametrize(
    "lease_text",
    [
        "3",
        "nonsense",
        "{}",
        '{"ordinal": 1}',
        *(  # and each field of another kind
            pa.scalar(text).as_py()
            for text in (
                '{"ordinal": -1, "attempt": 0, "prompt_id": 0, "seed": 0, "policy_version": 0}',
                '{"ordinal": 1.5, "attempt": 0, "prompt_id": 0, "seed": 0, "policy_version": 0}',
                '{"ordinal": true, "attempt": 0, "prompt_id": 0, "seed": 0, "policy_version": 0}',
                '{"ordinal": 0, "attempt": 0, "prompt_id": 0, "seed": 9223372036854775808, "policy_version": 0}',
            )
        ),
    ],
)
def test_a_lease_that_is_none_is_refused(tmp_path: Path, lease_text: str) -> None:
    path = tmp_path / "bad.arrow"
    metadata: dict[str, Any] = {"format": FORMAT, "version": "1", "lease": lease_text, "fault": "", "worker": ""}
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([], metadata=metadata)):
        pass
    assert "a damaged file of the quarantine" in refused(path)


def test_a_folder_keeps_so_many_files_and_bytes_over_the_starts_of_a_run(tmp_path: Path) -> None:
    each, path = kept(), tmp_path / "quarantine"
    write_quarantined(tmp_path / "one.arrow", each)
    most = 2 * (tmp_path / "one.arrow").stat().st_size + each.batches[0].nbytes // 2
    for ordinal in range(5):
        # Another start: what is there counts.
        folder = QuarantineFolder(path, files=4, max_bytes=most)
        found = folder.keep(replace(each, lease=lease(ordinal)))
        assert (found is None) == (ordinal == 4)
    files = sorted(path.iterdir())
    assert [file.name for file in files] == [f"ordinal-{ordinal:08d}-attempt-0.arrow" for ordinal in range(4)]
    whole = [read_quarantined(file).group is not None for file in files]
    assert whole == [True, True, False, False], "where the bytes end, the lease is kept alone"


def test_a_folder_of_no_files_is_not_made(tmp_path: Path) -> None:
    assert QuarantineFolder(tmp_path / "none", files=0, max_bytes=2**20).keep(kept()) is None
    assert not (tmp_path / "none").exists()


def test_a_worker_hands_over_what_is_not_finite_and_says_which_values() -> None:
    actor = rollout_worker(Mixer(1), version=0)
    report, batch = work.hand_over(actor, group())
    assert report.fault == "latents: contains NaN or infinite values; a group must be finite"
    np.testing.assert_array_equal(decode_group(batch).latents, group().latents)
    fine, _ = work.hand_over(actor, actor.generate(LEASE))
    assert fine.fault == ""


def test_scores_that_are_not_finite_are_told_by_the_reward_worker() -> None:
    discriminator = Judge(5)
    for parameter in discriminator.parameters():
        parameter.data.fill_(float("nan"))
    _, batch = work.hand_over(rollout_worker(Mixer(1)), rollout_worker(Mixer(1), version=0).generate(LEASE))
    snapshot = pack("discriminator", 3, discriminator.state_dict())
    (report, info), scores = work.score(reward_worker(Judge(9)), batch, snapshot)
    assert report.fault == "rewards: contains NaN or infinite values; a group must be finite"
    assert info.ordinal == LEASE.ordinal
    assert scores.num_rows == batch.num_rows
