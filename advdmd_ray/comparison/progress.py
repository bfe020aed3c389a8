"""Shows how the jobs of a comparison go on: a bar for each and one for all, or plain lines without a terminal."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from advdmd_ray.comparison.job import Job
from advdmd_ray.comparison.runner import Watcher
from advdmd_ray.console import drawing, say, warn

PLAIN_EVERY_S = 10.0
ETA_WINDOW_S = 300.0
"""Speed is measured over this time."""


@contextmanager
def progress_of(name: str, jobs: Sequence[Job]) -> Iterator[Watcher]:
    """The display that fits where stderr goes.

    Args:
        name: Of the comparison.
        jobs: All jobs, finished ones too.
    """
    console = drawing()
    if console is None:
        yield PlainLines(name, jobs)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, speed_estimate_period=ETA_WINDOW_S) as bars:
        yield Bars(name, jobs, bars)


def weight(job: Job) -> float:
    """A job's part in the whole, what its start spent left out; the teacher's judging is small beside any training."""
    return 0.0 if job.trainer == "none" else job.own_budget


class Bars:
    """One bar a job, from its start on, and one for the whole."""

    def __init__(self, name: str, jobs: Sequence[Job], bars: Progress) -> None:
        self._bars = bars
        # Finished jobs count from the beginning: they say nothing of the speed.
        had = sum(weight(job) for job in jobs if job.done)
        self._whole = bars.add_task(f"[bold]{name}", total=sum(weight(job) for job in jobs), completed=round(had))
        self._tasks: dict[str, TaskID] = {
            job.name: bars.add_task(job.name, total=job.own_budget, visible=False, start=False) for job in jobs
        }
        self._spent = {job.name: job.own_budget for job in jobs if job.done}

    def started(self, job: Job) -> None:
        """See `Watcher`."""
        self._bars.start_task(self._tasks[job.name])
        self._bars.update(self._tasks[job.name], visible=True)

    def spent(self, job: Job, amount: float) -> None:
        """See `Watcher`."""
        amount, task = job.spent_itself(amount), self._tasks[job.name]
        before = self._spent.get(job.name)
        self._spent[job.name] = amount
        if before is None:
            # What a resumed job spent in an earlier process says nothing of the speed of this one.
            self._bars.reset(task, completed=round(amount), visible=True)
            if weight(job):
                self._bars.reset(self._whole, completed=round(self._bars.tasks[self._whole].completed + amount))
            return
        self._bars.update(task, completed=amount)
        if weight(job):
            self._bars.advance(self._whole, amount - before)

    def finished(self, job: Job) -> None:
        """See `Watcher`."""
        self.spent(job, job.budget)
        self._bars.update(self._tasks[job.name], visible=False)

    def failed(self, job: Job, reason: str) -> None:
        """See `Watcher`."""
        self._bars.update(self._tasks[job.name], visible=False)
        self._bars.console.print(f"{job.name} failed: {reason}", style="red", markup=False, highlight=False)

    def tick(self) -> None:
        """See `Watcher`: the bars redraw themselves."""


class PlainLines:
    """A line for every end of a job, and one every ten seconds."""

    def __init__(self, name: str, jobs: Sequence[Job]) -> None:
        self._name, self._jobs = name, jobs
        self._spent: dict[str, float] = {}
        self._running: dict[str, Job] = {}
        self._finished: set[str] = set()
        self._began: tuple[float, float] | None = None
        self._shown = time.monotonic()

    def started(self, job: Job) -> None:
        """See `Watcher`."""
        if self._began is None:
            self._began = (time.monotonic(), self._total())
        self._running[job.name] = job

    def spent(self, job: Job, amount: float) -> None:
        """See `Watcher`."""
        amount = job.spent_itself(amount)
        if job.name not in self._spent and self._began is not None and weight(job):
            # What a resumed job spent in an earlier process says nothing of the speed of this one.
            began, had = self._began
            self._began = (began, had + amount)
        self._spent[job.name] = amount

    def finished(self, job: Job) -> None:
        """See `Watcher`."""
        self._spent[job.name] = job.own_budget
        self._finished.add(job.name)
        if self._running.pop(job.name, None) is not None:
            self._say(f"{job.name} is done")

    def failed(self, job: Job, reason: str) -> None:
        """See `Watcher`."""
        self._running.pop(job.name, None)
        self._say(f"{job.name} failed: {reason}", warn)

    def tick(self) -> None:
        """See `Watcher`."""
        now = time.monotonic()
        if now - self._shown >= PLAIN_EVERY_S and self._running:
            shares = ", ".join(
                f"{name} {100 * self._spent.get(name, 0.0) / job.own_budget:.0f} %"
                for name, job in self._running.items()
            )
            self._say(shares)

    def _total(self) -> float:
        return sum(self._spent.get(job.name, 0.0) for job in self._jobs if weight(job))

    def _remaining_s(self) -> float | None:
        if self._began is None:
            return None
        began, had = self._began
        done, left = self._total() - had, sum(weight(job) for job in self._jobs) - self._total()
        return None if done <= 0 else left * (time.monotonic() - began) / done

    def _say(self, text: str, through: Callable[..., None] = say) -> None:
        self._shown = time.monotonic()
        left = "?" if (remaining := self._remaining_s()) is None else str(timedelta(seconds=round(remaining)))
        through(
            f"{self._name}: {len(self._finished)} of {len(self._jobs)} jobs, {left} left | {text}",
            comparison=self._name,
            done=len(self._finished),
            of=len(self._jobs),
            remaining_s=remaining,
        )
