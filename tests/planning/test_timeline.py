"""Work on a shared card takes turns: none is lost, none is faster than alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.planning.timeline import Timeline

SECONDS = st.floats(0.1, 10.0)
NEVER = 1e9


def ends(starts: list[tuple[float, float, int | None]]) -> dict[int, float]:
    """When each work ends, of those that begin at a time and take seconds on a card."""
    timeline, found = Timeline[int](), {}
    for work, (begin, seconds, card) in enumerate(starts):
        timeline.start(0.0, seconds, work + 1, before=begin, card=card)
    now = 0.0
    while len(found) < len(starts):
        now, ended = timeline.ended(now, NEVER)
        assert ended
        found |= dict.fromkeys(ended, now)
    return {work - 1: end for work, end in found.items()}


def shared(works: list[tuple[float, float]], step: float = 1e-3) -> list[float]:
    """The same of one card, in small steps."""
    left, end, now = [seconds for _, seconds in works], [0.0] * len(works), 0.0
    while max(left) > 0:
        here = [work for work, (begin, _) in enumerate(works) if begin <= now and left[work] > 0]
        now += step
        for work in here:
            left[work] -= step / len(here)
            end[work] = now
    return end


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 3)), min_size=1, max_size=4))
def test_everybody_on_a_card_has_an_equal_share_of_its_time(works: list[tuple[float, float]]) -> None:
    found = ends([(begin, seconds, 7) for begin, seconds in works])
    assert [found[work] for work in range(len(works))] == pytest.approx(shared(works), abs=0.02)


@given(st.lists(st.tuples(SECONDS, SECONDS, st.sampled_from([None, 0, 1])), min_size=1, max_size=8))
def test_work_is_never_faster_than_alone_and_a_card_never_idles_while_there_is_some(
    works: list[tuple[float, float, int | None]],
) -> None:
    found = ends(works)
    for work, (begin, seconds, card) in enumerate(works):
        alone = begin + seconds
        if card is None:
            assert found[work] == pytest.approx(alone)
        assert found[work] >= alone - 1e-9
    for card in (0, 1):
        queue = sorted((begin, seconds) for begin, seconds, on in works if on == card)
        busy = 0.0
        for begin, seconds in queue:
            busy = max(busy, begin) + seconds
        assert max((found[work] for work, (*_, on) in enumerate(works) if on == card), default=0.0) == pytest.approx(
            busy
        )


def test_time_stops_at_the_limit_and_goes_on_from_there() -> None:
    timeline = Timeline[str]()
    timeline.start(0.0, 4.0, "long", card=0)
    assert timeline.ended(0.0, 1.0) == (1.0, [])
    timeline.start(1.0, 1.0, "short", card=0)
    assert timeline.ended(1.0, 2.5) == (2.5, [])
    assert timeline.ended(2.5, NEVER) == (3.0, ["short"])
    assert timeline.ended(3.0, NEVER) == (5.0, ["long"])
    assert timeline.ended(5.0, 6.0) == (6.0, [])


def test_what_ends_at_once_is_told_together_in_the_order_of_the_starts() -> None:
    timeline = Timeline[str]()
    for work in ("first", "second"):
        timeline.start(0.0, 2.0, work)
    assert timeline.ended(0.0, math.inf) == (2.0, ["first", "second"])
