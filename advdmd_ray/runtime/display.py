"""The live progress display of a run: phase, updates, rewards, ages, speed and time left."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Status
from advdmd_ray.data.source import Encoded, EncodingTask
from advdmd_ray.learner.outcome import CycleReport

PLAIN_EVERY_S = 10.0
STANDING_EVERY_S = 60.0
MOMENT_S = 5.0
HACKING = "the reward rises while the judge's figures fall"


class Counted(Protocol):
    """Is given how many are done, of how many, and what else there is to say."""

    def __call__(self, done: int, of: int, more: str = "") -> None: ...  # noqa: D102


@contextmanager
def progress_display(config: Config) -> Iterator[Callable[[Status], None]]:
    """A live panel on a terminal; elsewhere (a job's log, a file) one line every ten seconds.

    Yields:
        The function to give each status to.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines(config)
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield lambda status: live.update(panel(config, status))


@contextmanager
def counted(what: str, quiet_s: float = 0.0, console: Console | None = None) -> Iterator[Counted]:
    """How many of some things are done: a bar on a terminal, elsewhere a line every ten seconds.

    Args:
        what: The things.
        quiet_s: Nothing is shown until so long after the first that is told: starting is no progress, and what is done
            in a moment needs none.
        console: Where; None: stderr.

    Yields:
        The function to give done and all to, and what else to say.
    """
    where = Console(stderr=True) if console is None else console
    with _bar(what, quiet_s, where) if where.is_terminal else _lines(what, quiet_s, where) as show:
        yield show


@contextmanager
def _bar(what: str, quiet_s: float, console: Console) -> Iterator[Counted]:
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(what, total=None)
    # What takes long may tell nothing in its midst, so the bar comes without being told.
    late = threading.Timer(quiet_s, bar.start)
    late.daemon = True

    def show(done: int, of: int, more: str = "") -> None:
        bar.update(task, completed=done, total=of, description=what + more)
        if not (late.ident or bar.live.is_started):
            late.start()

    if not quiet_s:
        bar.start()
    try:
        yield show
    finally:
        late.cancel()
        if late.ident:
            late.join()
        if bar.live.is_started:
            bar.stop()


@contextmanager
def _lines(what: str, quiet_s: float, console: Console) -> Iterator[Counted]:
    first: list[float] = []
    shown = [float("-inf")]

    def show(done: int, of: int, more: str = "") -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
        if now - first[0] >= quiet_s and (now - shown[0] >= PLAIN_EVERY_S or done == of):
            shown[0] = now
            console.file.write(f"{what}: {done} of {of}{more}\n")
            console.file.flush()

    yield show


@contextmanager
def encoding_progress(tasks: Sequence[EncodingTask]) -> Iterator[Callable[[Iterable[Encoded]], Iterator[Encoded]]]:
    """How many shards of images are encoded, how fast and how long it will take; nothing if there are none to encode.

    Yields:
        The function that the results go through.
    """
    began, shards = time.monotonic(), len(tasks)

    def followed(results: Iterable[Encoded]) -> Iterator[Encoded]:
        images = 0
        show(0, shards, "")
        for done, result in enumerate(results, start=1):
            images += result.images
            yield result
            elapsed = time.monotonic() - began
            left = clock_text(elapsed * (shards - done) / done)
            show(done, shards, f", {images} images, {images / max(elapsed, 1e-9):.1f}/s, {left} left")

    if not tasks:
        yield iter
        return
    with counted("shards of images encoded") as show:
        yield followed


def samples_progress() -> AbstractContextManager[Counted]:
    """How many of the teacher's samples are there."""
    return counted("images of the teacher")


def judge_progress() -> AbstractContextManager[Counted]:
    """How many of the judge's images are drawn, if that takes longer than a moment."""
    return counted("images for the judge", MOMENT_S)


def drawing_progress() -> AbstractContextManager[Counted]:
    """How many images are drawn, if that takes longer than a moment."""
    return counted("images drawn", MOMENT_S)


def texts_progress() -> AbstractContextManager[Counted]:
    """How many texts are encoded, if that takes longer than a moment."""
    return counted("encoded texts", MOMENT_S)


def _plain_lines(config: Config) -> Callable[[Status], None]:
    shown = [float("-inf"), -1]
    started = False

    def show(status: Status) -> None:
        nonlocal started
        if status.start and not started:
            started = True
            sys.stderr.write(status.start + "\n")
        now = time.monotonic()
        finished = status.version >= status.cycles
        stands = status.version == shown[1]
        every = STANDING_EVERY_S if stands else 0.0 if finished else PLAIN_EVERY_S
        if now - shown[0] < every:
            return
        shown[:] = [now, status.version]
        sys.stderr.write(line(config, status) + (f" | waiting for {status.waiting_for}" if stands else "") + "\n")
        sys.stderr.flush()

    return show


def line(config: Config, status: Status) -> str:
    """One status as one line of a log."""
    report = status.report
    phase = _phase(report)
    rewards = "" if report is None else " ".join(f"{reward:+.2f}" for reward in report.reward_mean)
    updates = " ".join(f"{name} {count}" for name, count in status.updates.items())
    return (
        f"{config.run.name}: cycle {status.version}/{status.cycles} {phase} | updates {updates or 'none'} | "
        f"reward per level {rewards or '-'} | policy age {status.policy_age} | "
        f"{status.trajectories_per_s:.0f} trajectories/s | {clock_text(status.remaining_s)} left"
        f"{f' | {HACKING}' if status.reward_hacking else ''}"
    )


def panel(config: Config, status: Status) -> Group:
    """The live panel."""
    report = status.report
    table = Table.grid(padding=(0, 2))
    table.add_row("phase", _phase(report))
    table.add_row("updates", "  ".join(f"{name} {count}" for name, count in status.updates.items()) or "none yet")
    if report is not None:
        levels = enumerate(zip(report.reward_mean, report.smoothed_auc, strict=True), start=1)
        table.add_row("reward (AUC) per level", "  ".join(f"{k}: {r:+.2f} ({a:.2f})" for k, (r, a) in levels))
    table.add_row("policy age", str(status.policy_age))
    table.add_row("trajectories/s", f"{status.trajectories_per_s:.0f}")
    table.add_row("time", f"{clock_text(status.elapsed_s)} gone, {clock_text(status.remaining_s)} left")
    table.add_row("waiting for", status.waiting_for)
    if status.start:
        table.add_row("start", status.start)
    if status.reward_hacking:
        table.add_row("warning", Text(HACKING, style="bold red"))
    title = Text(f"{config.run.name}  cycle {status.version} of {status.cycles}", style="bold")
    return Group(title, ProgressBar(total=max(status.cycles, 1), completed=status.version, width=60), table)


def _phase(report: CycleReport | None) -> str:
    if report is None:
        return "starting"
    plan = report.plan
    waits = "an open level" if plan.gated else "an advantage" if plan.silent else ""
    return f"{plan.phase}, RL waits for {waits}" if waits else plan.phase


def clock_text(seconds: float | None) -> str:
    """Seconds as minutes:seconds, or `?`."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
