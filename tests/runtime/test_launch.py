"""The end of a run: exported, reported, judged and reported again, and what becomes of it when one of these fails."""

import logging
from pathlib import Path

import pytest

from advdmd_ray.config import Config
from advdmd_ray.errors import CheckpointError, DeadlineError, UserError, WorkerFailedError, WorkerLostError
from advdmd_ray.runs.finish import Judged, Phases
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
    launch.finish(CONFIG, place, PHASES)  # type: ignore[arg-type]


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
