"""What a user sees while a run starts and goes on."""

import io
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Status
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.errors import UserError, WorkerLostError
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.outcome import CycleReport, UpdateReport
from advdmd_ray.runtime import display
from advdmd_ray.runtime.display import Panel, PhaseLines, cycle_lines, cycles_panel, figures, line, run_display

CONFIG = Config.model_validate({"run": {"name": "demo", "cycles": 10}})
REPORT = CycleReport(
    version=4,
    plan=CyclePlan("ramp", 4, 2, 1, 1),
    updates={"dmd": UpdateReport(1, 0, 0.5, 1.0, 1.0)},
    auc=(0.6, 0.7),
    smoothed_auc=(0.61, 0.72),
    open_levels=(True, True),
    reward_mean=(-0.25, 1.5),
    reward_spread=(1.0, 1.0),
    policy=None,
    fresh_deviation=0.0,
    trajectories=8,
    seconds=1.0,
)
WAITS = "ordinal 9 at rollout-0 for 3 s"
WIDTHS = pytest.mark.parametrize("width", [100, 60, 30])


def status(
    version: int = 4,
    report: CycleReport | None = REPORT,
    remaining: float | None = 90.0,
    *,
    hacking: bool = False,
    over: bool = False,
) -> Status:
    return Status(
        version=version,
        cycles=10,
        elapsed_s=61.0,
        remaining_s=remaining,
        report=report,
        policy_age=2,
        trajectories_per_s=12.4,
        updates={"dmd": 4, "rl": 1},
        waiting_for="" if over else WAITS,
        reward_hacking=hacking,
        over=over,
    )


EMPTY = status(version=0, report=None, remaining=None)


def rows(shown: RenderableType, width: int = 100) -> list[str]:
    """What a terminal of this width shows."""
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(shown)
    return [row.rstrip() for row in console.export_text().splitlines()]


def _drawn(shown: Status) -> str:
    return "\n".join(rows(cycles_panel(CONFIG, shown, over=shown.over)))


class Clock:
    """Stands still between the calls of a test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def started(clock: Clock, phases: Iterable[tuple[str, float]]) -> StartClock:
    """The start of a run that began 2 s ago and is in each of these phases for so long."""
    lines = PhaseLines(CONFIG)
    start = StartClock(clock, age_s=2.0, told=lines)
    for phase, seconds in phases:
        start.begins(phase)
        clock.now += seconds
    lines.taken()
    return start


# The cycles ----------------------------------------------------------------------------------------------------------


def test_the_line_says_phase_updates_rewards_age_speed_and_time_left() -> None:
    text = line(CONFIG, status())
    for part in (
        "demo: cycle 4/10 ramp",
        "dmd 4 rl 1",
        "-0.25 +1.50",
        "policy age 2",
        "12 trajectories/s",
        "1:01 gone, 1:30 left",
    ):
        assert part in text
    assert "\n" not in text


def test_the_figures_of_a_line_are_there_by_name() -> None:
    found = figures(CONFIG, status())
    assert (found["cycle"], found["cycles"], found["phase"], found["policy_age"]) == (4, 10, "ramp", 2)
    assert (found["elapsed_s"], found["remaining_s"], found["updates"]) == (61.0, 90.0, {"dmd": 4, "rl": 1})
    assert (found["reward"], found["auc"]) == ([-0.25, 1.5], [0.61, 0.72])
    assert figures(CONFIG, EMPTY)["remaining_s"] is None


@WIDTHS
def test_the_panel_says_the_same_and_what_it_waits_for(width: int) -> None:
    text = "".join("".join(rows(cycles_panel(CONFIG, status()), width)).split())
    for part in ("cycle4of10", "ramp", "dmd4", "-0.25(0.61)", "+1.50(0.72)", "ordinal9at", "1:01gone,1:30left"):
        assert part in text


@WIDTHS
def test_the_bar_has_a_row_of_its_own_and_no_row_is_wider_than_the_terminal(width: int) -> None:
    done = replace(status(version=10), start="first update after 9.8 s: Ray 9.8 s")
    shown = rows(cycles_panel(CONFIG, done), width)
    assert set(shown[1]) == {"━"}
    assert len(shown[1]) == min(60, width)
    assert shown[2].split() == ["phase", "ramp"]
    assert max(map(len, shown)) <= width


def test_the_alarm_for_reward_hacking_is_shown_while_it_fires() -> None:
    for draw in (lambda shown: line(CONFIG, shown), _drawn):
        assert "a reward rises while what the alarm watches falls" in draw(status(hacking=True))
        assert "judge" not in draw(status())


def test_before_a_cycle_has_ended_no_time_left_is_told() -> None:
    for text in (line(CONFIG, EMPTY), _drawn(EMPTY)):
        assert "starting" in text
        assert "1:01 gone, estimating the time left" in text
        assert ":" not in text.split("gone, ")[1].split("\n")[0]


def test_a_run_that_is_over_waits_for_nothing_and_has_no_time_left() -> None:
    over = status(version=7, remaining=30.0, over=True)
    for text in (line(CONFIG, over), _drawn(over)):
        assert "1:01 gone" in text
        assert not any(word in text for word in ("left", "waiting", "rollout-0"))
    assert (figures(CONFIG, over)["remaining_s"], figures(CONFIG, over)["waiting_for"]) == (None, None)


def test_slow_work_has_a_speed_too() -> None:
    assert "0.3 trajectories/s" in line(CONFIG, replace(status(), trajectories_per_s=0.31))
    assert "0 trajectories/s" in line(CONFIG, replace(status(), trajectories_per_s=0.0))


def test_a_turn_that_waits_for_the_discriminator_is_said() -> None:
    waits = replace(REPORT, plan=replace(REPORT.plan, phase="warm", gated=True))
    said = "warm, RL waits for an open level"
    assert said in line(CONFIG, status(report=waits))
    assert said in _drawn(status(report=waits))


def test_the_panel_says_where_the_time_of_the_start_went() -> None:
    assert "first update after 9.8 s" in _drawn(replace(status(), start="first update after 9.8 s: Ray 9.8 s"))
    assert "start" not in _drawn(status())


# The start, and the end ----------------------------------------------------------------------------------------------


def test_the_panel_of_a_start_shows_each_phase_with_its_seconds_and_that_of_now_grows() -> None:
    clock = Clock()
    start = started(clock, [("starting Ray", 3.9), ("encoding prompts", 1.0)])
    panel = Panel(CONFIG, start)
    for more in (0.0, 59.0):
        clock.now += more
        assert [row.split("  ")[0] for row in rows(panel)] == [
            "demo",
            "reading and checking",
            "starting Ray",
            "encoding prompts",
        ]
        assert [row.split("  ")[-1].strip() for row in rows(panel)[1:]] == ["2.0 s", "3.9 s", f"{1.0 + more:.1f} s"]
        assert rows(panel)[0] == f"demo  starting  {'0:07' if not more else '1:06'}"


def test_the_panel_goes_from_the_start_to_the_cycles_to_what_follows_them() -> None:
    clock = Clock()
    start = started(clock, [("first weights", 1.0)])
    panel = Panel(CONFIG, start)
    start.loops_begin()
    assert "first weights" in "".join(rows(panel))
    panel.show(status())
    assert WAITS in "".join(rows(panel))
    assert "first weights" not in "".join(rows(panel))
    panel.show(status(over=True))
    start.begins("exporting the student")
    clock.now += 3.0
    start.begins("judging teacher and student")
    clock.now += 12.0
    assert "then            exporting the student 3.0 s, judging teacher and student 12.0 s" in rows(panel)


def shown_at_the_end(error: Exception | None, *, cycles: bool) -> str:
    """What is left on a terminal by a run that ends so, as text."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    start = started(Clock(), [("starting Ray", 1.0)])
    with suppress(UserError, WorkerLostError), run_display(CONFIG, start, terminal) as show:
        if cycles:
            show(status())
        if error is not None:
            raise error
    assert not terminal._live_stack
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_a_start_that_the_user_must_mend_leaves_no_panel_and_any_other_end_leaves_one_that_waits_for_nothing() -> None:
    erased = "\x1b[2K"
    assert shown_at_the_end(UserError("no"), cycles=False).count(erased) > shown_at_the_end(
        WorkerLostError("gone"), cycles=False
    ).count(erased)
    assert "not started" in shown_at_the_end(WorkerLostError("gone"), cycles=False)
    for error in (None, WorkerLostError("gone")):
        last = shown_at_the_end(error, cycles=True).rpartition("cycle 4 of 10")[2]
        assert "1:01 gone" in last
        assert "waiting for" not in last


# Without a terminal --------------------------------------------------------------------------------------------------


def _lines(
    statuses: dict[float, Status], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What a log shows of a run that has these statuses at these seconds."""
    seconds = iter(statuses)
    monkeypatch.setattr(display.time, "monotonic", lambda: next(seconds))
    show = cycle_lines(CONFIG)
    for each in statuses.values():
        show(each)
    return capsys.readouterr().err.splitlines()


def test_without_a_terminal_each_phase_of_the_start_is_a_line_with_its_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = started(Clock(), [("starting Ray", 63.0), ("first weights", 1.0)])
    start.loops_begin()
    assert capsys.readouterr().err.splitlines() == [
        "demo: 0:02 starting Ray",  # though it was said later, when no cluster could refuse the run
        "demo: 1:05 first weights",
        "demo: 1:06 ready",
    ]


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {0.0: 0, 1.0: 0, 2.0: 1, 11.0: 2, 12.0: 10, 13.0: 10}
    statuses = {at: status(version=version, over=at == 13.0) for at, version in versions.items()}
    said = _lines(statuses, capsys, monkeypatch)
    assert [text.split()[2] for text in said] == ["0/10", "2/10", "10/10"]


def test_a_run_that_its_time_limit_ends_has_a_last_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = _lines({0.0: status(version=2), 1.0: status(version=3, over=True)}, capsys, monkeypatch)
    assert [text.split()[2] for text in said] == ["2/10", "3/10"]


def test_without_a_terminal_a_run_that_stands_says_every_minute_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = {at: status(version=3) for at in (0.0, 11.0, 59.0, 61.0, 90.0, 122.0)}
    said = _lines(statuses, capsys, monkeypatch)
    assert [f"waiting for {WAITS}" in text for text in said] == [False, True, True]


def test_the_start_is_said_once_and_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = "first update after 9.8 s: Ray 9.8 s"
    texts = {0.0: (0, ""), 1.0: (1, start), 2.0: (2, start), 11.0: (3, start)}
    statuses = {at: replace(status(version=version), start=text) for at, (version, text) in texts.items()}
    said = _lines(statuses, capsys, monkeypatch)
    assert [text.split()[2] for text in said] == ["0/10", "after", "3/10"]
    assert said[1] == start
