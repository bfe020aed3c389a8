"""metrics.jsonl stays below its bound, and what is thinned out of it is only resolution."""

import json
import math
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.evaluation.pictures.series import read_series
from advdmd_ray.metrics.history import (
    LEAST_BYTES,
    History,
    Standing,
    cut_back,
    entries_of,
    last_values,
    merged,
    standing_of,
    thin,
)
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample

KEYS = tuple(f"advdmd_reward_mean{{level={level}}}" for level in range(1, 4))


def entry(cycle: int, values: dict[str, Any], time: float = 0.0) -> dict[str, Any]:
    return {"time": time, "cycle": cycle, "values": values}


def written(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in entries))
    return path


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A run's lines: cycles that rise, but fall back where it was resumed from a checkpoint; any series in any line."""
    steps = draw(st.lists(st.sampled_from([0, 0, 1, 1, 1, 2, -3]), min_size=1, max_size=40))
    values = st.dictionaries(st.sampled_from(KEYS), st.one_of(st.none(), st.floats(-9, 9)))
    lines, cycle = [], 0
    for time, step in enumerate(steps):
        cycle = max(0, cycle + step)
        lines.append(entry(cycle, draw(values), float(time)))
    return lines


@given(histories(), st.integers(0, 4))
def test_merging_keeps_the_newest_value_of_every_series_and_where_the_run_is(
    lines: list[dict[str, Any]], doublings: int
) -> None:
    fewer = list(merged(lines, 2**doublings))
    assert last_values(fewer) == last_values(lines)
    assert (fewer[-1]["cycle"], fewer[-1]["time"]) == (lines[-1]["cycle"], lines[-1]["time"])


@given(histories())
def test_lines_of_one_cycle_become_one_and_no_curve_changes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("history") / "metrics.jsonl"
    before = read_series(written(path, lines))
    after = read_series(written(path, list(merged(lines, 1))))
    assert before.keys() == after.keys()
    for key, curve in before.items():
        assert curve.cycles.tolist() == after[key].cycles.tolist()
        assert curve.values.tolist() == pytest.approx(after[key].values.tolist(), abs=0, nan_ok=True)


@given(histories(), st.integers(1, 4))
def test_a_value_moves_by_less_than_the_cycles_that_become_one_and_is_one_that_was_recorded(
    lines: list[dict[str, Any]], doublings: int
) -> None:
    cycles = 2**doublings
    for kept in merged(lines, cycles):
        for key, value in kept["values"].items():
            assert any(
                line["values"].get(key, math.nan) == value and 0 <= abs(kept["cycle"] - line["cycle"]) < cycles
                for line in lines
            )


@given(histories(), st.integers(1, 3))
def test_a_history_thinned_twice_is_that_thinned_once(lines: list[dict[str, Any]], doublings: int) -> None:
    once = list(merged(lines, 2**doublings))
    twice = list(merged(merged(lines, 2 ** (doublings - 1)), 2**doublings))
    assert once == twice


def test_a_run_that_records_without_end_keeps_a_file_below_its_bound_with_evenly_spaced_cycles(tmp_path: Path) -> None:
    path, cycles, lines = tmp_path / "metrics.jsonl", 3000, 4
    history = History(path, LEAST_BYTES)
    largest = 0
    for cycle in range(1, cycles + 1):
        for line in range(lines):
            values = {f"advdmd_reward_mean{{level={level}}}": cycle + line / 8 for level in range(8)}
            history.append(entry(cycle, values))
        largest = max(largest, path.stat().st_size)
    history.close()
    kept = list(entries_of(path))
    assert largest <= LEAST_BYTES
    assert cycles * lines * len(json.dumps(kept[-1])) > 3 * LEAST_BYTES, "it was thinned more than once"
    series = read_series(path)[KEYS[0]]
    assert series.cycles[-1] == cycles
    assert max(b - a for a, b in zip(series.cycles, series.cycles[1:], strict=False)) <= 4
    assert (series.values == series.cycles + (lines - 1) / 8).all(), "the last value of each cycle stands"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_totals_of_counters_go_on_over_a_thinned_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    updates = Sample.of("advdmd_learner_updates_total", 1, objective="rl")
    with MetricsHub(path, most_bytes=LEAST_BYTES) as hub:
        hub.record([updates], cycle=1)
        for cycle in range(2, 20):
            hub.record([Sample.of("advdmd_reward_mean", cycle, level=1)], cycle=cycle)
    assert thin(path, 300) > 1
    with MetricsHub(path, most_bytes=LEAST_BYTES) as hub:
        hub.record([updates])
        assert hub.registry.get_sample_value("advdmd_learner_updates_total", {"objective": "rl"}) == 2
    assert list(entries_of(path))[-1]["cycle"] == 19


def test_a_torn_line_is_passed_over_by_readers_and_gone_when_the_file_is_thinned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "metrics.jsonl", [entry(cycle, {KEYS[0]: 1.0}) for cycle in range(1, 4)])
    with path.open("a") as file:
        file.write('{"time": 1, "cyc\n' + json.dumps(entry(4, {KEYS[0]: 2.0})) + "\n")
    assert [each["cycle"] for each in entries_of(path)] == [1, 2, 3, 4]
    assert "line 4 is torn" in caplog.text
    thin(path, 2**20)
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("torn", ['{"time": 1, "cyc', json.dumps(entry(9, {KEYS[0]: 9.0}))])
def test_what_a_process_left_half_done_is_taken_away_before_another_goes_on(tmp_path: Path, torn: str) -> None:
    path = written(tmp_path / "metrics.jsonl", [entry(cycle, {KEYS[0]: 1.0}) for cycle in range(1, 4)])
    with path.open("a") as file:
        file.write(torn)
    (tmp_path / ".metrics.jsonl.0123.part").write_text("a thinner fi")
    history = History(path, LEAST_BYTES)
    history.append(entry(4, {KEYS[0]: 2.0}))
    history.close()
    assert [json.loads(line)["cycle"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_file_says_where_its_figures_stand(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert standing_of(path) == Standing()
    with MetricsHub(path) as hub:
        hub.record([Sample.of("advdmd_rollout_groups_total", 2), Sample.of("advdmd_run_cycle", 5)], cycle=5)
        hub.record([Sample.of("advdmd_rollout_groups_total", 1), Sample.of("advdmd_rollout_seconds", 3)], number=7)
    assert standing_of(path) == Standing(7, 5, {"advdmd_rollout_groups_total": 3})
    thin(path, 1)
    assert standing_of(path) == Standing(7, 5, {"advdmd_rollout_groups_total": 3})


def test_a_process_that_is_killed_while_it_thins_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "metrics.jsonl", [entry(cycle, {KEYS[0]: 1.0}) for cycle in range(9)])
    before = path.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        thin(path, 10)
    assert path.read_bytes() == before


def test_one_line_is_never_thinned_away(tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.jsonl", [entry(3, {KEYS[0]: 1.0})])
    thin(path, 1)
    assert last_values(entries_of(path)) == {KEYS[0]: 1.0}


def test_a_full_disk_costs_the_lines_that_it_refuses_and_leaves_whole_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, soft_and_hard = tmp_path / "metrics.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    history = History(path, LEAST_BYTES)
    history.append(entry(1, {KEYS[0]: 1.0}))
    whole = path.stat().st_size
    # No file may grow beyond this: the system takes the first part of the next line, and refuses the one after it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 10, soft_and_hard[1]))
    try:
        for cycle in (2, 3):
            history.append(entry(cycle, {KEYS[0]: 2.0}))
            assert path.stat().st_size == whole
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_and_hard)
    history.append(entry(4, {KEYS[0]: 4.0}))
    history.close()
    (record,) = caplog.records
    assert "lines are left out until the disk takes them" in record.message
    caplog.clear()
    assert [each["cycle"] for each in entries_of(path)] == [1, 4]
    assert caplog.text == "", "no line is torn"


def test_a_disk_that_has_no_room_for_the_thinning_is_not_asked_with_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "metrics.jsonl", list[int]()

    def refused(_: Path, most: int) -> int:
        asked.append(most)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("advdmd_ray.metrics.history.thin", refused)
    history, line = History(path, LEAST_BYTES), {"text": "x" * 2**16}
    for cycle in range(40):  # 2.5 MiB
        history.append(entry(cycle, line))
    assert len(asked) == 2
    assert len(list(entries_of(path))) == 40
    monkeypatch.undo()
    for cycle in range(40, 60):
        history.append(entry(cycle, line))
    history.close()
    assert path.stat().st_size <= LEAST_BYTES


COUNTER = "advdmd_learner_trajectories_trained_total"


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=20), at=st.integers(0, 20))
def test_a_file_that_is_cut_back_has_what_was_there_at_the_checkpoint_and_its_totals(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]], at: int
) -> None:
    lines, cycle, total = [entry(0, {COUNTER: 0.0})], 0, 0.0
    for ends, more in steps:
        cycle, total = cycle + ends, total + more
        lines.append(entry(cycle, {COUNTER: total} if more else {KEYS[0]: 1.0}))
    at = min(at, len(lines) - 1)
    cycle, total = lines[at]["cycle"], last_values(lines[: at + 1])[COUNTER]
    path = written(tmp_path_factory.mktemp("history") / "metrics.jsonl", lines)
    cut_back(path, cycle, {COUNTER: total})
    *left, mark = entries_of(path)
    assert (mark["cycle"], mark["values"]) == (cycle, {COUNTER: total})
    assert left[: at + 1] == lines[: at + 1]
    assert all(each["cycle"] == cycle and COUNTER not in each["values"] for each in left[at + 1 :])


def test_a_checkpoint_that_counted_nothing_cuts_back_by_its_cycle_and_one_without_a_file_makes_it(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "old.jsonl", [entry(cycle, {COUNTER: float(cycle)}) for cycle in (0, 1, 2, 3, 2)])
    cut_back(path, 2, None)
    assert [each["cycle"] for each in entries_of(path)] == [0, 1, 2, 2]
    cut_back(tmp_path / "new.jsonl", 5, {COUNTER: 80.0})
    assert last_values(entries_of(tmp_path / "new.jsonl")) == {COUNTER: 80.0}
