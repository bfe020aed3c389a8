"""The metrics hub: nothing outside the catalogue, the same values on /metrics and in metrics.jsonl."""

import json
import re
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from advdmd_ray.config.metrics import MetricsSection
from advdmd_ray.errors import UserError
from advdmd_ray.metrics.catalogue import CATALOGUE, PHASES, Kind, Station, phase_samples
from advdmd_ray.metrics.history import Standing
from advdmd_ray.metrics.hub import MetricsHub, check_port_free
from advdmd_ray.metrics.series import Sample, parse_key


def any_labels(name: str) -> tuple[tuple[str, str], ...]:
    open_labels = {"level": "3", "worker": "rollout-0", "figure": "accuracy", "scorer": "clip_score"}
    series = CATALOGUE[name]
    return tuple((label, (series.values_of(label) or (open_labels[label],))[0]) for label in series.labels)


def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_name_says_its_station_and_kind() -> None:
    for series in CATALOGUE.values():
        assert re.fullmatch(r"advdmd_[a-z]+(_[a-z]+)+", series.name)
        assert series.station in Station
        assert series.name.endswith("_total") == (series.kind is Kind.COUNTER)
        assert bool(series.buckets) == (series.kind is Kind.HISTOGRAM)
        assert list(series.buckets) == sorted(set(series.buckets))
        assert series.help.endswith(".")
        assert series.unit != "s" or "seconds" in series.name
        assert series.unit != "bytes" or series.name.endswith("bytes")
    assert {series.station for series in CATALOGUE.values()} == set(Station)


def test_every_series_of_the_catalogue_can_be_recorded_and_scraped(tmp_path: Path) -> None:
    with MetricsHub(tmp_path / "metrics.jsonl") as hub:
        port = hub.serve("127.0.0.1", 0)
        hub.record([Sample(name, 2.0, any_labels(name)) for name in CATALOGUE], cycle=7)
        scraped = scrape(port)
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert line["cycle"] == 7
    for name, series in CATALOGUE.items():
        labels = any_labels(name)
        exposed = f"{name}_sum" if series.kind is Kind.HISTOGRAM else name
        assert scraped[exposed, tuple(sorted(labels))] == 2.0
        expected = [2.0] if series.kind is Kind.HISTOGRAM else 2.0
        assert line["values"][Sample(name, 2.0, labels).key] == expected


def test_counters_add_up_gauges_are_set_and_histograms_keep_every_observation(tmp_path: Path) -> None:
    with MetricsHub(tmp_path / "metrics.jsonl") as hub:
        port = hub.serve()
        for value in (1.0, 2.5):
            hub.record(
                [
                    Sample.of("advdmd_rollout_trajectories_total", 16),
                    Sample.of("advdmd_reward_mean", value, level=1),
                    Sample.of("advdmd_rollout_seconds", value),
                    Sample.of("advdmd_rollout_seconds", 100.0),
                ]
            )
        scraped = scrape(port)
    assert scraped["advdmd_rollout_trajectories_total", ()] == 32
    assert scraped["advdmd_reward_mean", (("level", "1"),)] == 2.5
    assert scraped["advdmd_rollout_seconds_count", ()] == 4
    assert scraped["advdmd_rollout_seconds_sum", ()] == 203.5
    last = lines(tmp_path / "metrics.jsonl")[-1]["values"]
    assert last["advdmd_rollout_trajectories_total"] == 32
    assert last["advdmd_reward_mean{level=1}"] == 2.5
    assert last["advdmd_rollout_seconds"] == [2.5, 100.0]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (Sample.of("advdmd_reward_means", 1.0, level=1), "nearest is advdmd_reward_mean"),
        (Sample.of("advdmd_reward_mean", 1.0), "has the labels ['level'], got []"),
        (Sample.of("advdmd_reward_mean", 1.0, level=1, worker="a"), "has the labels ['level']"),
        (Sample.of("advdmd_learner_loss", 1.0, objective="gan"), "objective must be one of dmd, rl"),
        (Sample.of("advdmd_buffer_dropped_groups_total", 1.0, reason="expired"), "reason must be one of age, lost"),
        (Sample.of("advdmd_reward_mean", 1.0, level="1,2"), "one plain word"),
        (Sample.of("advdmd_buffer_commits_total", -1.0), "at least 0, got -1"),
        (Sample.of("advdmd_buffer_commits_total", float("nan")), "finite"),
        (Sample.of("advdmd_rollout_seconds", float("inf")), "finite"),
    ],
)
def test_a_sample_outside_the_catalogue_is_refused_and_nothing_of_its_call_is_recorded(
    tmp_path: Path, sample: Sample, words: str
) -> None:
    with MetricsHub(tmp_path / "metrics.jsonl") as hub:
        with pytest.raises(ValueError, match=re.escape(words)):
            hub.record([Sample.of("advdmd_buffer_groups", 3.0), sample])
        assert hub.registry.get_sample_value("advdmd_buffer_groups") is None
    assert lines(tmp_path / "metrics.jsonl") == []


def test_a_gauge_that_is_not_finite_is_null_in_the_file() -> None:
    sample = Sample.of("advdmd_run_remaining_seconds", float("nan"))
    with MetricsHub() as hub:
        hub.record([sample])
        value = hub.registry.get_sample_value(sample.name)
        assert value is not None
        assert value != value  # noqa: PLR0124 - only NaN differs from itself


def test_a_resumed_run_goes_on_with_its_totals_and_its_cycle_even_after_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsHub(path) as hub:
        hub.record([Sample.of("advdmd_learner_updates_total", 3, objective="rl")], cycle=4)
    with path.open("a") as file:
        file.write('{"time": 1, "cyc')
    with MetricsHub(path) as hub:
        hub.record([Sample.of("advdmd_learner_updates_total", 2, objective="rl")])
        assert hub.registry.get_sample_value("advdmd_learner_updates_total", {"objective": "rl"}) == 5
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["cycle"] == 4
    assert last["values"] == {"advdmd_learner_updates_total{objective=rl}": 5}


def test_a_hub_in_the_place_of_another_has_counters_and_gauges_at_once_and_refuses_what_was_there(
    tmp_path: Path,
) -> None:
    path, labels = tmp_path / "metrics.jsonl", {"objective": "rl"}
    standing = Standing(57, 4, {"advdmd_learner_updates_total{objective=rl}": 3.1, "advdmd_run_cycle": 4})
    with MetricsHub(path, standing=standing) as hub:
        assert hub.registry.get_sample_value("advdmd_learner_updates_total", labels) == 3.1
        assert hub.registry.get_sample_value("advdmd_run_cycle") == 4
        with pytest.raises(ValueError, match="record 57 comes after record 57"):
            hub.record([], number=57)
        hub.record([Sample.of("advdmd_learner_updates_total", 2, objective="rl")], number=60)
    (line,) = lines(path)
    assert (line["record"], line["cycle"]) == (60, 4)
    assert line["values"] == {"advdmd_learner_updates_total{objective=rl}": 5.1}


def test_each_line_is_on_the_disk_when_record_returns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsHub(path) as hub:
        for count in range(1, 4):
            hub.record([Sample.of("advdmd_run_cycle", count)], cycle=count)
            assert len(lines(path)) == count


def test_two_hubs_share_nothing() -> None:
    with MetricsHub() as one, MetricsHub() as two:
        one.record([Sample.of("advdmd_buffer_commits_total", 1)])
        assert two.registry.get_sample_value("advdmd_buffer_commits_total") == 0


def test_an_occupied_port_is_one_clear_line_before_and_at_serving() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        for attempt in (check_port_free, MetricsHub().serve):
            with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}: address already in use; set metrics\.port=0"):
                attempt("127.0.0.1", port)
    check_port_free("127.0.0.1", port)


def test_a_host_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"set metrics\.port=0 for a free port, or choose"):
        check_port_free("192.0.2.1", 0)


def test_a_closed_hub_frees_its_port() -> None:
    hub = MetricsHub()
    port = hub.serve()
    with pytest.raises(RuntimeError, match="being served"):
        hub.serve()
    hub.close()
    hub.close()
    check_port_free("127.0.0.1", port)


def test_metrics_listen_on_this_machine_only_unless_told_otherwise() -> None:
    assert MetricsSection().host == "127.0.0.1"


@pytest.mark.parametrize("phase", PHASES)
def test_exactly_one_phase_is_active(phase: str) -> None:
    number, *active = phase_samples(phase)
    assert number.value == PHASES.index(phase)
    assert [dict(sample.labels)["phase"] for sample in active if sample.value == 1] == [phase]
    assert sum(sample.value for sample in active) == 1


def test_an_unknown_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="warm, ramp, full"):
        phase_samples("cold")


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.from_regex(r"[A-Za-z0-9_.:-]{1,9}", fullmatch=True)
    )
)
def test_a_key_gives_back_its_name_and_labels(labels: dict[str, str]) -> None:
    sample = Sample("advdmd_x", 1.0, tuple(labels.items()))
    assert parse_key(sample.key) == (sample.name, sample.labels)
