"""The end of a run: exported, reported, judged and reported again, and what becomes of it when one of these fails.

Prometheus hears of it, and finds the run as long as it goes on.
"""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

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
        assert (host, port) == ("0.0.0.0", 0)  # noqa: S104 - every interface
        found(4321)
        return 4321

    def finish(self, outcome: str, linger_s: float) -> None:
        assert self._target.exists(), "Prometheus would not scrape it any more"
        self.ends.append((outcome, linger_s))


class ServedPlace:
    """A node with a hub."""

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub

    def address(self) -> str:
        return "10.0.0.7"


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
    config.folder.mkdir()
    RunFolder(config.folder).config.touch()
    with suppress(type(error or RuntimeError())), launch.served(config, ServedPlace(hub)):  # type: ignore[arg-type]
        assert json.loads(target.read_text()) == [{"targets": ["10.0.0.7:4321"], "labels": {"run": "one"}}]
        ended_by(error)
    assert hub.ends == [(outcome, 3.0)]
    assert not target.exists()


def test_a_start_that_is_refused_leaves_nothing_not_even_how_it_ended(tmp_path: Path) -> None:
    metrics = {"host": "0.0.0.0", "port": 0}  # noqa: S104 - every interface
    config = Config.model_validate({"run": {"name": "one", "output": str(tmp_path)}, "metrics": metrics})
    hub = FakeHub(config.folder / "targets.json")
    with pytest.raises(UserError), launch.served(config, ServedPlace(hub)):  # type: ignore[arg-type]
        ended_by(UserError("the cluster has no room"))
    assert hub.ends == []
    assert [*config.folder.iterdir()] == []
