"""Whoever says nothing is asked once, and hangs if it does not answer; time in which nobody listens does not count."""

from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.controller.pulse import MOST_TURN_S, Pulse
from fake_shell import Clock

HANG_S = 10.0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0.01, MOST_TURN_S)), max_size=300),
    st.sampled_from([None, 1.0, 9.0]),
)
def test_a_worker_is_asked_after_a_time_and_hangs_after_all_of_it_and_not_before(
    events: list[tuple[int, bool, float]], ask_s: float | None
) -> None:
    clock = Clock()
    pulse = Pulse(HANG_S, clock, ask_s)
    ask_s = HANG_S / 2 if ask_s is None else ask_s
    heard, asked = {}, {}
    for number in range(4):
        pulse.heard(f"w{number}")
        heard[f"w{number}"] = 0.0
    for number, speaks, seconds in events:
        clock.now += seconds
        worker = f"w{number}"
        if speaks and pulse.expects(worker):
            heard[worker] = clock.now
            asked.pop(worker, None)
            pulse.look()  # hears at the time of the last look
            pulse.heard(worker)
        ask, hang = pulse.look()
        for each in ask:
            assert clock.now - heard[each] >= ask_s - 1e-6
            assert each not in asked
            asked[each] = clock.now
        for each in hang:
            assert clock.now - heard[each] >= HANG_S - 1e-6
            assert clock.now - asked[each] >= HANG_S - ask_s - 1e-6
            assert not pulse.expects(each)
            del heard[each], asked[each]
        assert all(clock.now - at < HANG_S + 2 * MOST_TURN_S for at in heard.values())


def test_time_in_which_nobody_listened_does_not_count() -> None:
    clock = Clock()
    pulse = Pulse(HANG_S, clock)
    pulse.heard("w")
    clock.now += 1e6
    assert pulse.look() == ([], [])


def test_one_that_is_gone_is_neither_asked_nor_found_to_hang() -> None:
    clock = Clock()
    pulse = Pulse(HANG_S, clock)
    pulse.heard("w")
    pulse.forget("w")
    for _ in range(30):
        clock.now += 1.0
        assert pulse.look() == ([], [])
