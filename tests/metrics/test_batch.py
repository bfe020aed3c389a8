"""A batch says in one call what its samples say one by one."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.metrics.batch import Batch
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample

# Whole numbers: sums do not depend on their order.
numbers = st.integers(0, 100)
samples = st.one_of(
    st.builds(lambda n: Sample.of("advdmd_rollout_groups_total", n), numbers),
    st.builds(
        lambda n, role: Sample.of("advdmd_run_workers_lost_total", n, role=role),
        numbers,
        st.sampled_from(["rollout", "reward"]),
    ),
    st.builds(lambda n, level: Sample.of("advdmd_reward_mean", n - 50, level=level), numbers, st.sampled_from([1, 2])),
    st.builds(lambda n: Sample.of("advdmd_rollout_seconds", n), numbers),
)


@given(st.lists(st.lists(samples, max_size=8), max_size=6))
def test_totals_last_values_and_all_observations_are_those_of_the_samples_one_by_one(calls: list[list[Sample]]) -> None:
    with TemporaryDirectory() as folder:
        one_by_one, batched = Path(folder) / "one.jsonl", Path(folder) / "batched.jsonl"
        batch = Batch()
        with MetricsHub(one_by_one) as single, MetricsHub(batched) as hub:
            for call in calls:
                for sample in call:
                    single.record([sample])
                    batch.add(sample)
                hub.record(batch.drain())
        alone, together = (list(entries_of(path)) for path in (one_by_one, batched))
        histogram = "advdmd_rollout_seconds"
        observed = [[v for e in entries for v in e["values"].get(histogram, [])] for entries in (alone, together)]
        assert observed[0] == observed[1]
        last = [{k: v for k, v in last_values(entries).items() if k != histogram} for entries in (alone, together)]
        assert json.dumps(last[0], sort_keys=True) == json.dumps(last[1], sort_keys=True)


def test_a_drained_batch_is_empty_and_one_without_samples_too() -> None:
    batch = Batch()
    assert batch.drain() == []
    batch.add(Sample.of("advdmd_rollout_groups_total", 1))
    assert len(batch.drain()) == 1
    assert batch.drain() == []


def test_a_name_that_is_not_in_the_catalogue_is_refused_where_it_is_measured() -> None:
    with pytest.raises(KeyError, match="advdmd_rollout_group"):
        Batch().add(Sample.of("advdmd_rollout_group", 1))
