"""When the pace of a run is back, from looks at what it has committed."""

from collections.abc import Callable

import pytest

from benchmarks.endurance.hanging import LOOK_S, WINDOW_S, Seen, looks, recovery

STOPPED = 40.0


def seen_at(pace: Callable[[float], float], until: float = 120.0) -> list[Seen]:
    """A look every `LOOK_S` at a run of this pace."""
    seen, groups = [], 0.0
    for number in range(int(until / LOOK_S)):
        seen.append(Seen(number * LOOK_S, groups))
        groups += LOOK_S * pace(number * LOOK_S)
    return seen


@pytest.mark.parametrize("gap", [5.0, 18.0, 45.0])
def test_the_pace_is_back_when_no_window_is_short_of_it_any_more(gap: float) -> None:
    seen = seen_at(lambda at: 4.0 if STOPPED <= at < STOPPED + gap else 8.0)
    before, least, back = recovery(seen, STOPPED)
    assert before == pytest.approx(8.0)
    assert least == pytest.approx(4.0 if gap > WINDOW_S + 1 else 8.0 - 4.0 * gap / WINDOW_S, abs=0.2)
    # A window that lies in the gap with a fifth of its time has 0.9 of the pace.
    assert back == pytest.approx(gap - 0.2 * WINDOW_S, abs=3 * LOOK_S)


def test_a_run_that_lost_nothing_is_back_at_once_and_one_that_never_recovers_never() -> None:
    assert recovery(seen_at(lambda _: 8.0), STOPPED)[2] == 0.0
    assert recovery(seen_at(lambda at: 8.0 if at < STOPPED else 7.0), STOPPED)[2] is None


def test_too_few_looks_are_no_figure() -> None:
    with pytest.raises(ValueError, match="too few"):
        recovery(seen_at(lambda _: 8.0, until=STOPPED + WINDOW_S / 2), STOPPED)


def test_what_was_told_now_and_then_is_looked_at_evenly() -> None:
    seen = looks([(100.0, 8.0), (102.0, 16.0), (103.0, 16.0), (104.0, 24.0)])
    assert [look.seconds for look in seen] == [100.0 + number * LOOK_S for number in range(16)]
    assert [look.groups for look in seen[:16:4]] == [8.0, 12.0, 16.0, 16.0]
    assert seen[-1].groups == 22.0
