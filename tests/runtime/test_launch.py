"""The end of a run: exported, reported, judged and reported again, and what becomes of it when one of these fails.

Prometheus hears of it, and finds the run as long as it goes on.
"""

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.errors import (
    CheckpointError,
    DeadlineError,
    DivergedError,
    Interrupted,
    UserError,
    WorkerFailedError,
    WorkerLostError,
)
from advdmd_ray.runs.finish import Judged, Phases
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runtime import launch

CONFIG = Config.model_validate({"run": {"name": "one", "output": "out"}})
PHASES = Phases(1.0, 2.0)


class FakePlace:
    """Does the steps of an end in name, and fails at one of them."""

    note = "nowhere"

    def __init__(self, **failing: BaseException) -> None:
        self._failing = failing
        self.steps: list[str] = []
        self.reports: list[Judged] = []

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name in self._failing:
            raise self._failing[name]

    def export(self) -> Path:
        self._step("export")
        return Path("student")

    def judge(self, student: Path) -> Judged:
        assert student == Path("student")
        self._step("judge")
        return Judged(comparison=Path("comparison"))

    def report(self, phases: Phases, judged: Judged) -> None:
        assert phases == PHASES
        self.reports.append(judged)
        self._step("report")


def finish(place: FakePlace) -> None:
    launch.finish(CONFIG, place, PHASES, StartClock())  # type: ignore[arg-type]


def test_a_run_is_reported_before_its_judge_begins_and_again_with_the_verdict() -> None:
    place = FakePlace()
    finish(place)
    assert place.steps == ["export", "report", "judge", "report"]
    before, after = place.reports
    assert (before.verdict, before.comparison, before.seconds) == (None, None, 0.0)
    assert after.comparison == Path("comparison")
    assert after.seconds > 0


@pytest.mark.parametrize("error", [DeadlineError, WorkerLostError, WorkerFailedError, UserError])
def test_a_judge_that_fails_is_a_warning_and_a_report_that_says_so(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    place = FakePlace(judge=error("nothing done in 9 s"))
    with caplog.at_level(logging.WARNING):
        finish(place)
    assert place.steps == ["export", "report", "judge", "report"]
    assert place.reports[-1].verdict is None
    assert place.reports[-1].missing == "the judge failed: nothing done in 9 s"
    (record,) = caplog.records
    assert "the judge failed: nothing done in 9 s; the student is exported" in record.message
    assert "`advdmd evaluate --config out/one/config.yaml --student out/one/student` judges it" in record.message


def test_ctrl_c_while_the_judge_works_ends_the_run_with_its_first_report() -> None:
    place = FakePlace(judge=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        finish(place)
    assert place.steps == ["export", "report", "judge"]


@pytest.mark.parametrize("step", ["export", "report"])
def test_a_student_that_cannot_be_exported_and_a_report_that_cannot_be_written_are_failures(step: str) -> None:
    place = FakePlace(**{step: CheckpointError("damaged")})
    with pytest.raises(CheckpointError, match="damaged"):
        finish(place)
    assert "judge" not in place.steps


class FakeHub:
    """Serves at a port of its own, and notes what is told of the end while the target is there."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.ends: list[tuple[str, float]] = []

    def serve(self, host: str, port: int, found: Callable[[int], None]) -> int:
        assert port == 0
        found(4321)
        return 4321

    def finish(self, outcome: str, linger_s: float) -> None:
        assert self._target.exists(), "Prometheus would not scrape it any more"
        self.ends.append((outcome, linger_s))


class ServedPlace:
    """A node with a hub, which is asked for its address only where /metrics has none of its own."""

    def __init__(self, hub: FakeHub, address: str | None = "10.0.0.7") -> None:
        self.hub, self._address = hub, address

    def address(self) -> str:
        assert self._address is not None, "/metrics listens on one address, which is the one to scrape"
        return self._address


def place(hub: FakeHub, address: str | None = "10.0.0.7") -> Any:
    return ServedPlace(hub, address)


def ended_by(error: BaseException | None) -> None:
    if error is not None:
        raise error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "completed"),
        (Interrupted(15, "stopped by SIGTERM"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (DivergedError("the run diverges"), "diverged"),
        (WorkerLostError("a rank died"), "failed"),
        (UserError("no such image"), "failed"),
    ],
)
def test_a_run_is_found_while_it_goes_on_and_its_outcome_is_told_before_it_is_found_no_more(
    tmp_path: Path, error: BaseException | None, outcome: str
) -> None:
    metrics = {"host": "0.0.0.0", "port": 0, "linger_s": 3.0}  # noqa: S104 - every interface
    config = Config.model_validate({"run": {"name": "one", "output": str(tmp_path)}, "metrics": metrics})
    target = config.folder / "targets.json"
    hub = FakeHub(target)
    if isinstance(error, Interrupted):
        error.since = time.monotonic()  # the parameters were made before all tests
    config.folder.mkdir()
    RunFolder(config.folder).config.touch()
    with suppress(type(error or RuntimeError())), launch.served(config, place(hub)):
        assert json.loads(target.read_text()) == [{"targets": ["10.0.0.7:4321"], "labels": {"run": "one"}}]
        ended_by(error)
    assert hub.ends == [(outcome, 3.0)]
    assert not target.exists()


def test_a_start_that_is_refused_leaves_nothing_not_even_how_it_ended(tmp_path: Path) -> None:
    metrics = {"host": "0.0.0.0", "port": 0}  # noqa: S104 - every interface
    config = Config.model_validate({"run": {"name": "one", "output": str(tmp_path)}, "metrics": metrics})
    hub = FakeHub(config.folder / "targets.json")
    with pytest.raises(UserError), launch.served(config, place(hub)):
        ended_by(UserError("the cluster has no room"))
    assert hub.ends == []
    assert [*config.folder.iterdir()] == []


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("0.0.0.0", "10.0.0.7", "10.0.0.7:4321"),  # noqa: S104 - every interface
        ("::", "fd00::7", "[fd00::7]:4321"),
        ("::1", None, "[::1]:4321"),
        ("10.1.2.3", None, "10.1.2.3:4321"),
    ],
)
def test_user_and_prometheus_are_told_an_address_that_can_be_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str, address: str | None, expected: str
) -> None:
    config = Config.model_validate(
        {"run": {"name": "one", "output": str(tmp_path)}, "metrics": {"host": host, "port": 0}}
    )
    target = config.folder / "targets.json"
    with caplog.at_level(logging.INFO), launch.served(config, place(FakeHub(target), address)):
        assert json.loads(target.read_text())[0]["targets"] == [expected]
    assert f"metrics at http://{expected}/metrics" in caplog.text


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (Interrupted(15, "just now"), 15.0, 15.0),
        (Interrupted(15, "its cycle took 110 of 120 s", since=-110.0), 9.0, 10.0),
        (Interrupted(15, "after all of them", since=-121.0), 0.0, 0.0),
        (Interrupted(2, "twice", at_once=True), 0.0, 0.0),
        (WorkerLostError("a rank died"), 15.0, 15.0),
    ],
)
def test_a_run_that_is_told_to_stop_keeps_to_its_bound_with_all_that_it_waits_for(
    error: BaseException, least: float, most: float
) -> None:
    if isinstance(error, Interrupted):
        error.since = time.monotonic() + min(error.since, 0.0)
    assert least <= launch.linger_s(Config(), error) <= most
