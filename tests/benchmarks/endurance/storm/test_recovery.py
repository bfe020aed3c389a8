"""When a run is back, from looks at it."""

import pytest

from benchmarks.endurance.storm.lives import Look
from benchmarks.endurance.storm.recovery import WINDOW_S, pace, recovered, usual


def looks(*paces: float, full_from: float = 0.0) -> list[Look]:
    """A look each quarter of a second; each pace, in cycles a second, holds for a second."""
    seen, cycle = [], 0.0
    for index in range(4 * len(paces) + 1):
        at = index / 4
        seen.append(Look(at, cycle, full=at >= full_from))
        cycle += paces[min(index // 4, len(paces) - 1)] / 4
    return seen


def test_a_run_that_kept_its_pace_is_back_at_once_and_not_before_a_whole_window_was_seen() -> None:
    seen = looks(4, 4, 4, 4)
    assert recovered(seen, 4.0) == 0.0
    assert recovered([look for look in seen if look.at < WINDOW_S], 4.0) is None


def test_a_run_is_back_where_a_window_at_its_pace_begins() -> None:
    assert recovered(looks(0, 0, 0, 0, 0, 4, 4, 4, 4), 4.0) == pytest.approx(5 - 0.5 * WINDOW_S, abs=0.3)
    assert recovered(looks(0, 0, 1, 1, 1, 1, 1, 1), 4.0) is None


def test_a_run_is_not_back_while_a_worker_is_missing() -> None:
    assert recovered(looks(4, 4, 4, 4, 4, 4, 4, full_from=2.0), 4.0) == 2.0
    assert recovered(looks(4, 4, 4, 4, full_from=2.0), 4.0) is None


def test_going_back_to_a_checkpoint_is_no_progress_and_looks_that_say_nothing_do_not_count() -> None:
    assert pace([Look(0.0, 8.0, True), Look(1.0, 4.0, True), Look(2.0, 6.0, True)]) == 1.0
    assert pace([Look(0.0, 8.0, True), Look(1.0, None, False), Look(2.0, 10.0, True)]) == 1.0
    assert pace([Look(0.0, None, False), Look(1.0, 3.0, True)]) == 0.0


def test_a_burst_before_a_fault_is_not_asked_of_the_run_after_it_and_a_slow_moment_is_enough() -> None:
    assert usual([4.0, 4.2, 9.0]) == 4.2
    assert usual([4.0, 4.2, 2.0]) == 2.0
