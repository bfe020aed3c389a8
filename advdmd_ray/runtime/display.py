"""What is seen of a run: its start, phase by phase, then its cycles, on a live panel or as lines."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from advdmd_ray import console as stderr
from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import READY, Phase, StartClock
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.words import clock_text
from advdmd_ray.runtime.counting import EVERY_S

if TYPE_CHECKING:  # torch, which takes seconds, and the panel is to be there at once
    from advdmd_ray.controller.protocols import Status
    from advdmd_ray.learner.outcome import CycleReport

STANDING_EVERY_S = 60.0
BAR_WIDTH = 60
DECIMAL_BELOW = 10.0
"""Trajectories a second below which a decimal says something."""
HACKING = "a reward rises while what the alarm watches falls"

Show = Callable[["Status"], None]


class Panel:
    """The live panel; it is drawn several times a second, from a thread of its own.

    Args:
        config: The run's.
        start: Says what the run is at.
    """

    def __init__(self, config: Config, start: StartClock) -> None:
        self._config, self._start = config, start
        self._status: Status | None = None
        self._over = False

    def show(self, status: "Status") -> None:
        """Has this drawn from now on."""
        self._status = status

    def end(self) -> None:
        """The run is over, be it well or not: nothing is waited for any more."""
        self._over = True

    def __rich__(self) -> RenderableType:
        phases, status = self._start.phases(), self._status
        if status is None:
            return start_panel(self._config, phases, over=self._over)
        return cycles_panel(self._config, status, _after(phases), over=self._over or status.over)


@contextmanager
def run_display(config: Config, start: StartClock, console: Console | None = None) -> Iterator[Show]:
    """A live panel on a terminal; elsewhere (a job's log, a file) lines, one every ten seconds.

    A start that the user's error ends takes the panel with it: there is one line then, and nothing above it.

    Args:
        config: The run's.
        start: Says what the run is at; where there is no panel, `PhaseLines` tell it.
        console: The terminal; None: that of stderr, if it is one.

    Yields:
        The function to give each status to.
    """
    console = stderr.drawing() if console is None else console
    if console is None:
        yield cycle_lines(config)
        return
    panel = Panel(config, start)
    with Live(panel, console=console, refresh_per_second=4) as live:
        try:
            yield panel.show
        except UserError:
            live.transient = True
            raise
        finally:
            panel.end()


class PhaseLines:
    """A line for each phase as it begins, where no panel shows it.

    Those that begin before the run is taken are held until then: one that is refused is one line.

    Args:
        config: The run's.
    """

    def __init__(self, config: Config) -> None:
        self._name, self._held, self._taken = config.run.name, list[Phase](), False

    def __call__(self, phase: Phase) -> None:
        """Says that a phase has begun, and when."""
        if not self._taken:
            self._held.append(phase)
        elif stderr.drawing() is None:
            line = f"{self._name}: {clock_text(phase.at_s)} {phase.name}"
            stderr.say(line, run=self._name, phase=phase.name, at_s=phase.at_s)

    def taken(self) -> None:
        """Nothing refuses the run any more."""
        self._taken = True
        for phase in self._held:
            self(phase)


def cycle_lines(config: Config) -> Show:
    """A line every ten seconds; every minute if the run stands; one when it is over."""
    shown = [float("-inf"), -1]
    started = False

    def show(status: "Status") -> None:
        nonlocal started
        if status.start and not started:
            started = True
            stderr.say(status.start)
        now, stands = time.monotonic(), status.version == shown[1]
        if stands and status.over:
            return
        last = status.over or status.version >= status.cycles
        if now - shown[0] < (STANDING_EVERY_S if stands else 0.0 if last else EVERY_S):
            return
        shown[:] = [now, status.version]
        waits = f" | waiting for {status.waiting_for}" if stands else ""
        stderr.say(line(config, status) + waits, **figures(config, status))

    return show


def line(config: Config, status: "Status") -> str:
    """One status as one line of a log."""
    report = status.report
    rewards = "" if report is None else " ".join(f"{reward:+.2f}" for reward in report.reward_mean)
    updates = " ".join(f"{name} {count}" for name, count in status.updates.items())
    return (
        f"{config.run.name}: cycle {status.version}/{status.cycles} {_phase(report)} | updates {updates or 'none'} | "
        f"reward per level {rewards or '-'} | policy age {status.policy_age} | "
        f"{_speed(status)} trajectories/s | {_time(status, over=status.over)}"
        f"{f' | {HACKING}' if status.reward_hacking else ''}"
    )


def figures(config: Config, status: "Status") -> Mapping[str, object]:
    """One status as figures by name, for a log that machines read."""
    report = status.report
    return {
        "run": config.run.name,
        "cycle": status.version,
        "cycles": status.cycles,
        "phase": _phase(report),
        "updates": dict(status.updates),
        "reward": [] if report is None else list(report.reward_mean),
        "auc": [] if report is None else list(report.smoothed_auc),
        "policy_age": status.policy_age,
        "trajectories_per_s": status.trajectories_per_s,
        "elapsed_s": status.elapsed_s,
        "remaining_s": None if status.over else status.remaining_s,
        "waiting_for": status.waiting_for or None,
        "reward_hacking": status.reward_hacking,
    }


def start_panel(config: Config, phases: list[tuple[str, float]], *, over: bool = False) -> Group:
    """The panel before the first status: each phase of the start, and its seconds.

    Args:
        config: The run's.
        phases: Name and seconds, in order.
        over: Whether the start has ended without a run.
    """
    table = _grid()
    for name, seconds in phases:
        table.add_row(name, f"{seconds:.1f} s")
    whole = clock_text(sum(seconds for _, seconds in phases))
    return Group(Text(f"{config.run.name}  {'not started' if over else 'starting'}  {whole}", style="bold"), table)


def cycles_panel(
    config: Config, status: "Status", after: list[tuple[str, float]] | None = None, *, over: bool = False
) -> Group:
    """The panel from the first status on.

    Args:
        config: The run's.
        status: What the loops say.
        after: What the run was at after them, and for how many seconds.
        over: Whether nothing is waited for any more.
    """
    report = status.report
    table = _grid()
    table.add_row("phase", _phase(report))
    table.add_row("updates", "  ".join(f"{name} {count}" for name, count in status.updates.items()) or "none yet")
    if report is not None:
        levels = enumerate(zip(report.reward_mean, report.smoothed_auc, strict=True), start=1)
        table.add_row("reward (AUC)", "  ".join(f"{k}: {r:+.2f} ({a:.2f})" for k, (r, a) in levels))
    table.add_row("policy age", str(status.policy_age))
    table.add_row("trajectories/s", _speed(status))
    table.add_row("time", _time(status, over=over))
    if not over:
        table.add_row("waiting for", status.waiting_for)
    if status.start:
        table.add_row("start", status.start)
    if after:
        table.add_row("then", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in after))
    if status.reward_hacking:
        table.add_row("warning", Text(HACKING, style="bold red"))
    title = Text(f"{config.run.name}  cycle {status.version} of {status.cycles}", style="bold")
    # In a row of its own: the bar does not end its line.
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(status.cycles, 1), completed=status.version, width=BAR_WIDTH))
    return Group(title, bar, table)


def _grid() -> Table:
    """Names, which are not broken, and what there is to say of them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _after(phases: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The phases that follow the loops."""
    names = [name for name, _ in phases]
    return phases[names.index(READY) + 1 :] if READY in names else []


def _phase(report: "CycleReport | None") -> str:
    if report is None:
        return "starting"
    plan = report.plan
    heard = "an action that is not stale or clipped" if plan.policy_gradient else "an advantage"
    waits = "an open level" if plan.gated else heard if plan.silent else ""
    return f"{plan.phase}, RL waits for {waits}" if waits else plan.phase


def _speed(status: "Status") -> str:
    speed = status.trajectories_per_s
    return f"{speed:.1f}" if 0 < speed < DECIMAL_BELOW else f"{speed:.0f}"


def _time(status: "Status", *, over: bool) -> str:
    gone = f"{clock_text(status.elapsed_s)} gone"
    if over:
        return gone
    left = "estimating the time left" if status.remaining_s is None else f"{clock_text(status.remaining_s)} left"
    return f"{gone}, {left}"
