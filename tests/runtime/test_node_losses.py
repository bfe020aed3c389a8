"""Nodes that end our processes again and again."""

from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.runtime.node_losses import AVOIDED_S, MOST_LOSSES, WITHIN_S, NodeLosses


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_node_is_avoided_for_a_while_after_three_losses_and_others_are_not() -> None:
    clock = Clock()
    losses = NodeLosses(clock)
    assert [losses.lost(node) for node in ("a", "b", "a", "a")] == [False, False, False, True]
    assert losses.avoided() == ("a",)
    clock.now += AVOIDED_S - 1
    assert losses.avoided() == ("a",)
    clock.now += 1
    assert losses.avoided() == ()
    assert not losses.lost("a"), "it is counted anew"


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=12))
def test_only_losses_close_together_count(waits: list[float]) -> None:
    clock = Clock()
    losses, times, avoided = NodeLosses(clock), [], False
    for wait in waits:
        clock.now += wait
        times.append(clock.now)
        said = losses.lost("a")
        close = len(times) >= MOST_LOSSES and times[-1] - times[-MOST_LOSSES] <= WITHIN_S
        assert said == close
        if close:
            times, avoided = [], True
    assert ("a" in losses.avoided()) <= avoided
