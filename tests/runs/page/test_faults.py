"""Faults: what counters and alarms of metrics.jsonl gained, each once, at its cycle."""

from collections.abc import Mapping
from typing import Any

from advdmd_ray.runs.page.faults import LANES, MOST_FAULTS, Fault, FaultReader, fault_text


def found(*lines: tuple[int, Mapping[str, float]], unnumbered: tuple[int, ...] = ()) -> list[tuple[str, int, str]]:
    return [(fault.lane, fault.cycle, fault_text(fault)) for fault in read(*lines, unnumbered=unnumbered).found]


def read(*lines: tuple[int, Mapping[str, float]], unnumbered: tuple[int, ...] = ()) -> FaultReader:
    reader = FaultReader()
    for place, (cycle, values) in enumerate(lines):
        entry: dict[str, Any] = {"time": 100.0 + place, "cycle": cycle, "values": values}
        reader.see(entry if place in unnumbered else {**entry, "record": place + 1})
    return reader


LOST = "advdmd_run_workers_lost_total{role=rollout}"
AGAIN = "advdmd_rollout_leases_reissued_total{reason=lost}"


def test_a_counter_that_rises_is_a_fault_and_one_that_stands_is_none() -> None:
    assert found((1, {LOST: 0}), (2, {LOST: 1}), (3, {LOST: 1}), (4, {LOST: 3, AGAIN: 2})) == [
        ("worker", 2, "lost: one of the rollout actors, whose work is given to others"),
        ("worker", 4, "lost: one of the rollout actors, whose work is given to others (2 times)"),
        ("group", 4, "lease given again: lost (2 times)"),
    ]


def test_neighbours_of_one_cycle_are_one_fault() -> None:
    reader = read((5, {AGAIN: 1}), (5, {AGAIN: 2}), (5, {AGAIN: 4}), (6, {AGAIN: 5}))
    assert [(fault.cycle, fault.count) for fault in reader.found] == [(5, 4), (6, 1)]
    assert reader.total == 5


def test_an_alarm_is_told_when_it_begins_and_again_after_it_ended() -> None:
    alarm, out = "advdmd_run_reward_hack_alarm", "advdmd_run_series_out"
    lines = [(cycle, {alarm: value, out: 0}) for cycle, value in enumerate([0, 1, 1, 0, 1], start=1)]
    assert [(lane, cycle) for lane, cycle, _ in found(*lines, (6, {out: 2}), (7, {out: 3}))] == [
        ("alarm", 2),
        ("alarm", 5),
        ("guard", 6),
    ]


def test_a_run_that_goes_on_is_told_once_and_its_totals_are_no_faults() -> None:
    elapsed = "advdmd_run_elapsed_seconds"
    lines = [(1, {elapsed: 50, LOST: 1}), (1, {LOST: 1, AGAIN: 7}), (2, {elapsed: 3, LOST: 1, AGAIN: 7})]
    expected = [("worker", 1), ("resume", 1)]
    assert [(lane, cycle) for lane, cycle, _ in found(*lines, unnumbered=(1,))] == expected
    # Thinning may have taken the mark away: time begins again.
    assert [(lane, cycle) for lane, cycle, _ in found(lines[0], (2, {elapsed: 3, LOST: 1}))] == [
        ("worker", 1),
        ("resume", 2),
    ]


def test_the_newest_are_kept_and_all_are_counted() -> None:
    reader = read(*((cycle, {LOST: cycle}) for cycle in range(1, 2 * MOST_FAULTS + 1)))
    assert len(reader.found) == MOST_FAULTS
    assert (reader.found[-1].cycle, reader.total) == (2 * MOST_FAULTS, 2 * MOST_FAULTS)


def test_what_is_no_trouble_is_no_fault_and_every_fault_has_a_lane() -> None:
    assert found((1, {"advdmd_rollout_groups_total": 8, "advdmd_run_cycle": 1}), (2, {"nobody_knows": 3})) == []
    assert Fault("resume", 1, 0.0, "x").lane in LANES
