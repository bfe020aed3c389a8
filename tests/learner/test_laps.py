"""The parts of a cycle: their seconds add up to the whole."""

from collections.abc import Iterator

from advdmd_ray.learner.laps import Laps


def ticks() -> Iterator[float]:
    yield from (10.0, 11.0, 13.0, 20.0)


def test_a_part_has_the_time_since_the_one_before_and_may_come_again() -> None:
    laps = Laps(ticks().__next__)
    for part in ("dmd", "average", "dmd"):
        laps.ended(part)
    assert laps.seconds == {"dmd": 8.0, "average": 2.0}
