"""Each line of a storm's verdict says no when what it looks at is wrong, and only then."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.endurance.storm.evidence import Evidence
from benchmarks.endurance.storm.lives import End
from benchmarks.endurance.storm.verdict import misplaced, verdict

CYCLES, PER_CYCLE = 6, 2


def cycle(number: int) -> dict[str, Any]:
    return {"settled": [number * PER_CYCLE, number * PER_CYCLE + 1]}


def begins(number: int) -> dict[str, Any]:
    return {"begins": number * PER_CYCLE, "beyond": []}


# It went back from cycle 4 to 2 and from 5 to 5.
HISTORY = [begins(0), *map(cycle, range(4)), begins(2), *map(cycle, (2, 3, 4)), begins(5), cycle(5)]
LOSSES = [(1, 3.0), (2, 2.0), (3, 2.5), (4, 2.0), (5, 1.8), (6, 1.5)]
LOADS = {
    f"advdmd_weights_{what}_total{{stream={stream}}}": count
    for stream in ("student", "discriminator")
    for what, count in (("loaded", 9.0), ("verified", 9.0), ("mismatched", 0.0))
}
WELL = Evidence(
    cycles=CYCLES,
    per_cycle=PER_CYCLE,
    group_size=4,
    age_cap=2,
    settled=HISTORY,
    frontier={"step": 6, "next_ordinal": 12, "unsettled": []},
    trained=48.0,
    ages=[0.0, 1.0, 2.0, 1.0, 1.0, 0.0, 1.0, 2.0, 2.0, 1.0, 0.0, 0.0],
    losses={"fake_score": LOSSES, "discriminator": LOSSES, "rl": [(2, 0.1), (4, 0.2)]},
    loads=LOADS,
    ends=[End(1, -9, expected=True, said=""), End(2, 0, expected=True, said="")],
    stuck=[],
    left={"worker": [], "objects in Ray": 0},
)


def test_a_run_that_went_back_and_did_everything_again_once_is_well() -> None:
    findings = verdict(WELL)
    assert all(each.holds for each in findings), findings
    assert findings[0].evidence == "0 to 11; went back 1 times, by 4 ordinals in all"


STOPPED = replace(
    WELL,
    ends=[WELL.ends[0], End(2, 143, expected=True, said="")],
    frontier={"step": 6, "next_ordinal": 14, "unsettled": [[12, 0], [13, 0]]},
)


def test_a_run_that_is_judged_where_it_was_stopped_has_leases_of_the_next_cycles_and_none_of_the_saved_ones() -> None:
    assert all(each.holds for each in verdict(STOPPED))
    for frontier in ({"next_ordinal": 13}, {"unsettled": [[13, 0]]}, {"step": 5}):
        wrong = verdict(replace(STOPPED, frontier={**STOPPED.frontier, **frontier}))
        assert [index for index, each in enumerate(wrong) if not each.holds] == [1], frontier


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"settled": [*HISTORY, cycle(5)]}, 0),
        ({"settled": HISTORY[:-1]}, 0),
        ({"frontier": {"step": 6, "next_ordinal": 12, "unsettled": [[11, 1]]}}, 1),
        ({"frontier": {"step": 5, "next_ordinal": 12, "unsettled": []}}, 1),
        ({"trained": 52.0}, 1),
        ({"ages": [*WELL.ages[:-1], 3.0]}, 2),
        ({"ages": WELL.ages[:-1]}, 2),
        ({"loads": LOADS | {"advdmd_weights_verified_total{stream=student}": 8.0}}, 3),
        ({"loads": LOADS | {"advdmd_weights_mismatched_total{stream=student}": 1.0}}, 3),
        ({"loads": {}}, 3),
        ({"losses": {**WELL.losses, "fake_score": LOSSES[:-1]}}, 4),
        ({"losses": {**WELL.losses, "fake_score": [*LOSSES, (3, 2.5)]}}, 4),
        ({"losses": {**WELL.losses, "rl": [(2, 0.1), (2, 0.1)]}}, 4),
        ({"losses": {**WELL.losses, "rl": [(2, None)]}}, 4),
        ({"losses": {**WELL.losses, "fake_score": [*LOSSES[:2], (3, 9.0), *[(n, 9.0) for n in (4, 5, 6)]]}}, 5),
        ({"ends": [End(1, 1, expected=False, said=""), WELL.ends[1]]}, 6),
        ({"stuck": ["hub SIGSTOP"]}, 7),
        ({"left": {"worker": ["hub"]}}, 8),
        ({"left": {"objects in Ray": 3}}, 8),
    ],
)
def test_one_thing_that_is_wrong_is_one_line_that_says_no(changes: dict[str, Any], line: int) -> None:
    findings = verdict(replace(WELL, **changes))
    assert [index for index, each in enumerate(findings) if not each.holds] == [line], findings


@pytest.mark.parametrize(
    "settled",
    [
        [begins(0), cycle(1)],
        [begins(0), cycle(0), cycle(0)],
        [begins(0), cycle(0), begins(2)],
        [begins(0), {"settled": [1, 0]}],
        [begins(0), {"settled": [0, 1]}, {"begins": 0, "beyond": [1]}],
    ],
)
def test_ordinals_that_are_left_out_doubled_or_out_of_order_are_found(settled: list[dict[str, Any]]) -> None:
    assert misplaced(settled)[0]
