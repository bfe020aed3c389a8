"""A sink shows each cycle of a metrics.jsonl once, with its last values, whatever ends sinks, hubs and runs."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advdmd_ray.metrics.history import cut_back, entries_of, thin
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample
from advdmd_ray.metrics.sinks import follower
from advdmd_ray.metrics.sinks.follower import Follower
from advdmd_ray.metrics.sinks.point import Gathering, Point, histogram, tag_of

LOSS, GROUPS, SECONDS = "advdmd_learner_loss", "advdmd_rollout_groups_total", "advdmd_rollout_seconds"
WAIT_S = 10.0


class Board:
    """What a sink shows; it forgets what it is opened at, takes cycles in their order, and fails when it is told to."""

    def __init__(self) -> None:
        self.points: dict[int, Point] = {}
        self.opened: list[int] = []
        self.closed = 0
        self.fails_after: int | None = None
        self.first = 0
        self.hangs = threading.Event()
        self.hangs.set()

    def open(self, first: int) -> "Board":
        self.opened.append(first)
        self.points = {cycle: point for cycle, point in self.points.items() if cycle < first}
        self.first = first
        return self

    def write(self, point: Point) -> None:
        self.hangs.wait(WAIT_S)
        if self.fails_after == 0:
            raise RuntimeError("no\nroom")
        if self.fails_after is not None:
            self.fails_after -= 1
        assert not self.points or point.cycle > max(self.points), "a point that comes late, or twice"
        self.points[point.cycle] = point

    def close(self) -> None:
        self.closed += 1


class NoPictures:
    """A run that draws nothing."""

    def of(self, cycle: int) -> Mapping[str, bytes]:
        return {}

    def last(self, since: float) -> Mapping[str, bytes]:
        return {}


class Place:
    """A run folder with a metrics.jsonl, and one board that outlives hubs and runs."""

    def __init__(self, folder: Path) -> None:
        self.path, self.state = folder / "metrics.jsonl", folder / "board" / "cycle.json"
        self.board, self.pictures = Board(), NoPictures()

    def follow(self, hub: MetricsHub) -> Follower:
        return Follower("board", self.board.open, self.path, hub.cycle, self.state, self.pictures)

    def scalars(self) -> dict[int, Mapping[str, float]]:
        return {cycle: point.scalars for cycle, point in self.board.points.items()}

    def written(self) -> dict[int, dict[str, float]]:
        """The last value of each series in each cycle, as the file has it."""
        found: dict[int, dict[str, float]] = {}
        for entry in entries_of(self.path):
            for key, value in entry["values"].items():
                if not isinstance(value, list):
                    found.setdefault(entry["cycle"], {})[tag_of(key)] = value
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def record(hub: MetricsHub, cycle: int, loss: float, *seconds: float) -> None:
    samples = [Sample.of(LOSS, loss, objective="dmd"), Sample.of(GROUPS, 1)]
    hub.record([*samples, *(Sample.of(SECONDS, each) for each in seconds)], cycle)


def followed(place: Place, cycles: int) -> None:
    """A run of so many cycles, with a sink until its end."""
    with MetricsHub(place.path) as hub:
        following = place.follow(hub)
        for cycle in range(cycles):
            record(hub, cycle, 1.0)
        following.close()


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def totals(path: Path, cycle: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for entry in entries_of(path):
        if entry["cycle"] <= cycle:
            found |= {key: value for key, value in entry["values"].items() if key == GROUPS}
    return found


def test_a_cycle_is_one_point_with_its_last_values_and_all_its_observations(place: Place) -> None:
    with MetricsHub(place.path) as hub:
        following = place.follow(hub)
        record(hub, 0, 3.0, 1.0)
        record(hub, 0, 2.0, 5.0, 7.0)
        hub.record([Sample.of("advdmd_run_remaining_seconds", float("nan"))])
        record(hub, 1, 1.0)
        following.close()
    first, second = (place.board.points[cycle] for cycle in (0, 1))
    assert first.scalars == {"learner/advdmd_learner_loss/dmd": 2.0, "rollout/advdmd_rollout_groups_total": 2.0}
    assert first.observations == {"rollout/advdmd_rollout_seconds": [1.0, 5.0, 7.0]}
    assert (second.scalars["learner/advdmd_learner_loss/dmd"], second.observations) == (1.0, {})
    assert first.time <= second.time
    assert (place.board.opened, place.board.closed) == ([0], 1)


def test_a_cycle_that_is_over_is_shown_while_the_run_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "LOOK_S", 0.005)
    with MetricsHub(place.path) as hub:
        following = place.follow(hub)
        for cycle in range(3):
            record(hub, cycle, float(cycle))
            wait_until(lambda cycle=cycle: len(place.board.points) == cycle)
        following.close()
    assert len(place.board.points) == 3


def test_a_run_that_is_refused_before_it_has_figures_opens_no_sink(place: Place) -> None:
    with MetricsHub(place.path) as hub:
        place.follow(hub).close()
    assert place.board.opened == []
    assert not place.state.parent.exists()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_ends_sinks_hubs_and_runs_each_cycle_of_the_file_is_shown_once_with_its_last_values(
    place: Place, seed: int
) -> None:
    draw, cycle = np.random.default_rng(seed), 0
    for _ in range(5):
        with MetricsHub(place.path) as hub:
            assert hub.cycle == cycle
            place.board.fails_after = (None, 0, 1, 3)[draw.integers(4)]
            following = place.follow(hub)
            for _ in range(draw.integers(12)):
                cycle += int(draw.integers(3) == 0)
                record(hub, cycle, float(draw.random()), *draw.random(draw.integers(2)))
            following.close()
        if draw.random() < 0.6:  # what was made since a checkpoint is made again
            cycle = int(draw.integers(max(0, cycle - 3), cycle + 1))
            cut_back(place.path, cycle, totals(place.path, cycle))
    place.board.fails_after = None
    with MetricsHub(place.path) as hub:
        place.follow(hub).close()
    assert place.scalars() == place.written()


def test_a_file_that_is_thinned_meanwhile_is_followed_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "LOOK_S", 0.005)
    place.path.touch()
    following = Follower("board", place.board.open, place.path, 0, place.state, place.pictures)
    for cycle in range(9):
        line = {"time": 1.0, "cycle": cycle, "record": cycle + 1, "values": {"advdmd_run_cycle": cycle / 4}}
        with place.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        wait_until(lambda cycle=cycle: len(place.board.points) == cycle)
        if cycle == 5:
            assert thin(place.path, 300) == 4
    following.close()
    assert place.scalars() == {cycle: {"run/advdmd_run_cycle": cycle / 4} for cycle in range(9)}


def test_half_a_line_waits_for_its_rest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "LOOK_S", 0.005)
    line = json.dumps({"time": 1.0, "cycle": 0, "record": 1, "values": {"advdmd_run_cycle": 5.0}}) + "\n"
    with MetricsHub(place.path) as hub, place.path.open("a") as file:
        following = place.follow(hub)
        file.write(line[:30])
        file.flush()
        time.sleep(0.05)
        assert place.board.opened == []
        file.write(line[30:])
        file.flush()
        following.close()
    assert place.scalars() == {0: {"run/advdmd_run_cycle": 5.0}}


def test_a_sink_that_fails_is_told_once_and_records_go_on(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.board.fails_after = 1
    followed(place, 5)
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert "board gets nothing more (RuntimeError: no room); the run goes on" in told.message
    assert len(place.written()) == 5


def test_a_state_that_somebody_spoiled_costs_the_sink_only(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.state.parent.mkdir()
    place.state.write_text("[")
    followed(place, 1)
    assert "board gets nothing more (JSONDecodeError" in caplog.text


def test_what_was_drawn_at_the_end_is_given_though_a_last_record_says_how_the_run_ended(place: Place) -> None:
    class DrawnAtTheEnd(NoPictures):
        at = 0.0

        def last(self, since: float) -> Mapping[str, bytes]:
            return {"samples/comparison": b"png"} if self.at >= since else {}

    place.pictures = pictures = DrawnAtTheEnd()
    with MetricsHub(place.path) as hub:
        following = place.follow(hub)
        record(hub, 0, 1.0)
        time.sleep(0.01)  # lines have milliseconds
        pictures.at = time.time()
        time.sleep(0.01)
        record(hub, 0, 2.0)
        following.close()
    assert place.board.points[0].pictures == {"samples/comparison": b"png"}


def test_a_sink_that_hangs_keeps_neither_the_run_nor_its_end(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.board.hangs.clear()
    with MetricsHub(place.path) as hub:
        following = place.follow(hub)
        for cycle in range(3):
            record(hub, cycle, 1.0)
        began = time.monotonic()
        following.close(0.05)
        assert time.monotonic() - began < 30.0
    place.board.hangs.set()
    following.close()
    assert "board has not taken all after 0 s and is left; metrics.jsonl has everything" in caplog.text


def test_a_sink_that_is_slow_is_told_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follower, "SLOW_S", -1.0)
    followed(place, 3)
    (told,) = caplog.records
    assert "its points come late, the run goes on" in told.message


def test_a_sink_that_has_more_than_the_folder_says_is_not_given_it_again(place: Place) -> None:
    with MetricsHub(place.path) as hub:
        for cycle in range(5):
            record(hub, cycle, 1.0)

        def opened(first: int) -> Board:
            board = place.board.open(first)
            board.first = 3
            return board

        Follower("board", opened, place.path, hub.cycle, place.state, place.pictures).close()
    assert [*place.board.points] == [3, 4]


def test_a_line_of_an_earlier_cycle_is_no_point_of_its_own() -> None:
    gathering = Gathering(0)
    for cycle in (2, 1, 2):
        line = {"time": 1.0, "cycle": cycle, "values": {"advdmd_run_cycle": float(cycle)}}
        assert gathering.add(line) is None
    point = gathering.point()
    assert point is not None
    assert (point.cycle, point.scalars) == (2, {"run/advdmd_run_cycle": 2.0})


@pytest.mark.parametrize("observations", [[3.0], [1.0, 1.0], [0.0, 0.5, 2.0, 2.0], [-1e9, 1e9]])
def test_a_histogram_counts_each_observation_between_its_least_and_greatest(observations: list[float]) -> None:
    counts, edges = histogram(observations)
    assert sum(counts) == len(observations)
    assert len(edges) == len(counts) + 1
    assert edges == sorted(edges)
    assert edges[0] <= min(observations) <= max(observations) <= edges[-1]
    for least, most, count in zip(edges, edges[1:], counts, strict=False):
        assert count >= sum(least < each < most for each in observations)
