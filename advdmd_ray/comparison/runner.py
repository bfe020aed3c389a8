"""Runs jobs, each in a process of its own, so many at a time; one that fails does not stop the others."""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from typing import Protocol

from advdmd_ray.comparison.job import LOG, Job

STOP_S = 60.0
"""Jobs that were asked to stop have this long to finish their step and save; then they are killed."""
TICK_S = 0.5
CARDS = "CUDA_VISIBLE_DEVICES"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Watcher(Protocol):
    """Whoever shows how the jobs go on."""

    def spent(self, job: Job, amount: float) -> None:
        """A job has spent so much of its budget."""
        ...

    def started(self, job: Job) -> None:
        """A job's process was started."""
        ...

    def finished(self, job: Job) -> None:
        """A job is done."""
        ...

    def failed(self, job: Job, reason: str) -> None:
        """A job failed."""
        ...

    def tick(self) -> None:
        """Some time went by."""
        ...


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    process: ForkServerProcess | SpawnProcess
    reports: Connection
    card: str | None
    said: list[str] = field(default_factory=list)
    """Why it ends, of a job that knows."""


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    watcher: Watcher,
    finished: Callable[[], None],
    cards: Sequence[str] = (),
) -> dict[str, str]:
    """Does all jobs.

    Args:
        jobs: In the order to start them; finished ones are left alone. One that begins with another's end waits for it.
        at_once: Processes at a time, at least 1.
        watcher: Shows how they go on.
        finished: Called after each job that is done.
        cards: The GPUs, as CUDA_VISIBLE_DEVICES names them; a job that needs one sees the one with the fewest jobs.

    Returns:
        Why, in one line, by the name of each job that failed.

    Raises:
        KeyboardInterrupt: of whatever raises it here, a signal say, after every job was asked to save its state and has
            stopped.
    """
    waiting, running, reasons = [job for job in jobs if not job.done], list[_Running](), dict[str, str]()
    for job in jobs:
        if job.done:
            watcher.finished(job)
    context = _context(waiting) if waiting else None
    try:
        while context is not None and (waiting or running):
            while len(running) < at_once and (job := next(filter(_may_start, waiting), None)) is not None:
                waiting.remove(job)
                running.append(_start(context, job, _freest(cards, running) if job.on_gpu and cards else None))
                watcher.started(running[-1].job)
            if not running:  # or it would wait for ever
                _tell([(job, "the result of the job that it starts from is gone") for job in waiting], reasons, watcher)
                break
            wait([*(entry.process.sentinel for entry in running), *(_open(running))], TICK_S)
            for entry in list(running):
                _drain(entry, watcher)
                if entry.process.is_alive():
                    continue
                running.remove(entry)
                if entry.job.done:
                    watcher.finished(entry.job)
                    finished()
                else:
                    after = [job for job in waiting if entry.job in job.starts]
                    waiting = [job for job in waiting if job not in after]
                    why = f"it starts from {entry.job.name}, which failed"
                    _tell([(entry.job, _reason(entry)), *((job, why) for job in after)], reasons, watcher)
            watcher.tick()
    finally:
        _stop(running)
    return reasons


def _tell(failed: Sequence[tuple[Job, str]], reasons: dict[str, str], watcher: Watcher) -> None:
    """Notes and shows why jobs failed."""
    for job, reason in failed:
        reasons[job.name] = reason
        watcher.failed(job, reason)


def _may_start(job: Job) -> bool:
    """Whether all is there that it begins with."""
    return job.start is None or job.start.done


def _context(jobs: Sequence[Job]) -> ForkServerContext | SpawnContext:
    """Processes that start as copies of one that has imported everything and computed nothing, so has no threads yet.

    Such a process starts at once, where a new interpreter would import for many seconds; like one, it shares no state
    with this process. It is deaf to Ctrl-C, which this process turns into a request to save and stop.

    Jobs on a GPU have a new interpreter each: some import asks CUDA for its devices, and then no copy can use them.
    """
    if any(job.on_gpu for job in jobs):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The second brings diffusers with the classes of the built-in pipelines, which a job imports when it loads one.
    context.set_forkserver_preload(["advdmd_ray.comparison.worker", "advdmd_ray.models.tiny"])
    return context


def _freest(cards: Sequence[str], running: Sequence[_Running]) -> str:
    """The first of the cards that the fewest jobs have."""
    taken = Counter(entry.card for entry in running)
    return min(cards, key=lambda card: taken[card])


def _start(context: ForkServerContext | SpawnContext, job: Job, card: str | None) -> _Running:
    reports, child = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, child), name=job.name, daemon=True)
    with _inherited(card):  # the first start also starts the process that the others are copies of
        process.start()
    child.close()
    return _Running(job, process, reports, card)


@contextmanager
def _inherited(card: str | None) -> Iterator[None]:
    """What the processes must have from the first instruction on: libraries read it when they load."""
    given = dict.fromkeys(_THREADS, "1") | ({} if card is None else {CARDS: card})
    before = {name: os.environ.get(name) for name in given}
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        signal.signal(signal.SIGINT, handler)


def _work(job: Job, reports: Connection) -> None:
    """What a job's process runs; only there are the networks' libraries imported."""
    from advdmd_ray.comparison.worker import work  # noqa: PLC0415

    work(job, reports)


def _open(running: Sequence[_Running]) -> list[Connection]:
    return [entry.reports for entry in running if not entry.reports.closed]


def _drain(entry: _Running, watcher: Watcher) -> None:
    """Reads what a job has reported; its end of the pipe closes when it ends."""
    try:
        while not entry.reports.closed and entry.reports.poll():
            report = entry.reports.recv()
            if isinstance(report, str):
                entry.said.append(report)
            else:
                watcher.spent(entry.job, report)
    except EOFError:
        entry.reports.close()


def _reason(entry: _Running) -> str:
    """Why a process ended without a result: what it says itself, the signal that killed it, or its log's last line."""
    if entry.said:
        return entry.said[-1]
    code, path = entry.process.exitcode, entry.job.folder / LOG
    said = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}; its log is {path}"
    return f"{last}; its log is {path}"


def _stop(running: Sequence[_Running]) -> None:
    """Asks every process to save and stop, and kills those that do not, or all that are left at a second signal."""
    try:
        for entry in running:
            entry.process.terminate()
        for entry in running:
            entry.process.join(STOP_S)
    finally:
        for entry in running:
            if entry.process.is_alive():
                entry.process.kill()
                entry.process.join()
