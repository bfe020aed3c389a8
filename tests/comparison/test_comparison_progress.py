"""What is shown while the jobs go on: a bar for each on a terminal, plain lines elsewhere."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from advdmd_ray.comparison import progress
from advdmd_ray.comparison.job import RESULT, Job
from advdmd_ray.comparison.plan import plan_jobs
from advdmd_ray.comparison.progress import Bars, PlainLines, progress_of
from advdmd_ray.config.comparison import read_comparison
from advdmd_ray.files import write_atomically
from comparison_files import write_comparison


@pytest.fixture
def jobs(tmp_path: Path, tiny_pipeline: Path) -> tuple[Job, ...]:
    """The teacher, dmd and advdmd, one seed."""
    return plan_jobs(read_comparison(write_comparison(tmp_path, tiny_pipeline, seeds=[0])), tmp_path / "out")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_plain_lines_tell_every_end_and_the_time_left(
    jobs: tuple[Job, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    _, dmd, advdmd = jobs
    lines = PlainLines("small", jobs)
    lines.finished(jobs[0])  # by an earlier command: nothing to say
    lines.started(dmd)
    lines.started(advdmd)
    lines.tick()
    lines.spent(dmd, 20.0)  # of an earlier command, from which this job goes on
    clock.now = 20.0
    lines.spent(dmd, 100.0)
    lines.tick()
    lines.tick()
    clock.now = 30.0
    lines.finished(dmd)
    lines.failed(advdmd, "it burst")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "small: 1 of 3 jobs, 0:01:15 left | dmd seed 0 50 %, advdmd seed 0 0 %",
        "small: 2 of 3 jobs, 0:00:33 left | dmd seed 0 is done",
        "small: 2 of 3 jobs, 0:00:33 left | advdmd seed 0 failed: it burst",
    ]


def test_a_terminal_has_a_bar_for_the_whole_and_one_for_each_running_job(jobs: tuple[Job, ...]) -> None:
    write_atomically(jobs[1].folder / RESULT, json.dumps({}).encode())
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(console=console, auto_refresh=False) as shown:
        bars = Bars("small", jobs, shown)
        bars.finished(jobs[1])
        bars.started(jobs[2])
        bars.spent(jobs[2], 50.0)
        bars.spent(jobs[2], 100.0)
        bars.failed(jobs[0], "it [burst]")
        bars.tick()
    by_name = {task.description: task for task in shown.tasks}
    assert (by_name["[bold]small"].completed, by_name["[bold]small"].total) == (300.0, 400.0)
    assert (by_name["advdmd seed 0"].completed, by_name["advdmd seed 0"].visible) == (100.0, True)
    assert not by_name["dmd seed 0"].visible
    # What it had spent before its first report is no work of this command.
    assert sum(sample.completed for sample in by_name["advdmd seed 0"]._progress) == 50.0
    assert sum(sample.completed for sample in by_name["[bold]small"]._progress) == 50.0
    file = console.file
    assert isinstance(file, io.StringIO)
    assert "teacher failed: it [burst]" in file.getvalue()


def test_without_a_terminal_lines_are_plain(jobs: tuple[Job, ...]) -> None:
    with progress_of("small", jobs) as watcher:
        assert isinstance(watcher, PlainLines)
