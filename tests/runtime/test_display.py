"""What a user sees while a run goes on."""

import io
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Status
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.outcome import CycleReport, UpdateReport
from advdmd_ray.runtime import display
from advdmd_ray.runtime.display import Counted, clock_text, counted, line, panel, progress_display, texts_progress

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


def status(
    version: int = 4, report: CycleReport | None = REPORT, remaining: float | None = 90.0, *, hacking: bool = False
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
        waiting_for="ordinal 9 at rollout-0 for 3 s",
        reward_hacking=hacking,
    )


def _drawn(shown: Status) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(panel(CONFIG, shown))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_line_says_phase_updates_rewards_age_speed_and_time_left() -> None:
    text = line(CONFIG, status())
    for part in (
        "demo: cycle 4/10 ramp",
        "dmd 4 rl 1",
        "-0.25 +1.50",
        "policy age 2",
        "12 trajectories/s",
        "1:30 left",
    ):
        assert part in text
    assert "\n" not in text


def test_the_panel_says_the_same_and_what_it_waits_for() -> None:
    text = _drawn(status())
    for part in (
        "cycle 4 of 10",
        "ramp",
        "dmd 4",
        "-0.25 (0.61)",
        "+1.50 (0.72)",
        "ordinal 9 at rollout-0",
        "1:30 left",
    ):
        assert part in text


def test_the_alarm_for_reward_hacking_is_shown_while_it_fires() -> None:
    for draw in (lambda shown: line(CONFIG, shown), _drawn):
        assert "while the judge's figures fall" in draw(status(hacking=True))
        assert "judge" not in draw(status())


def test_before_the_first_cycle_there_is_a_panel_and_a_line_too() -> None:
    empty = status(version=0, report=None, remaining=None)
    assert "starting" in line(CONFIG, empty)
    assert "? left" in line(CONFIG, empty)
    assert "starting" in _drawn(empty)


@given(st.integers(0, 10**5), st.floats(-0.49, 0.49))
def test_times_read_as_minutes_and_seconds(seconds: int, rest: float) -> None:
    minutes, after = clock_text(max(0.0, seconds + rest)).split(":")
    assert len(after) == 2
    assert int(after) < 60
    assert 60 * int(minutes) + int(after) == seconds


def _plain_lines(
    versions: dict[float, int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What a log shows of a run that has these versions at these seconds."""
    seconds = iter(versions)
    monkeypatch.setattr(display.time, "monotonic", lambda: next(seconds))
    with progress_display(CONFIG) as show:
        for version in versions.values():
            show(status(version=version))
    return capsys.readouterr().err.splitlines()


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {0.0: 0, 1.0: 0, 2.0: 1, 11.0: 2, 12.0: 10, 13.0: 10}
    lines = _plain_lines(versions, capsys, monkeypatch)
    assert [text.split()[2] for text in lines] == ["0/10", "2/10", "10/10"]


def test_without_a_terminal_a_run_that_stands_says_every_minute_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = dict.fromkeys((0.0, 11.0, 59.0, 61.0, 90.0, 122.0), 3)
    lines = _plain_lines(versions, capsys, monkeypatch)
    assert ["waiting for ordinal 9 at rollout-0" in text for text in lines] == [False, True, True]


def test_the_start_is_said_once_and_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter((0.0, 1.0, 2.0, 11.0))
    monkeypatch.setattr(display.time, "monotonic", lambda: next(seconds))
    start = "first update after 9.8 s: Ray 9.8 s"
    with progress_display(CONFIG) as show:
        for version, text in ((0, ""), (1, start), (2, start), (3, start)):
            show(replace(status(version=version), start=text))
    said = capsys.readouterr().err.splitlines()
    assert [text.split()[2] for text in said] == ["0/10", "after", "3/10"]
    assert said[1] == start


def test_the_panel_says_where_the_time_of_the_start_went() -> None:
    assert "first update after 9.8 s" in _drawn(replace(status(), start="first update after 9.8 s: Ray 9.8 s"))
    assert "start" not in _drawn(status())


def _told(done: dict[float, int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a log shows of ten texts, so many of which are encoded at these seconds."""
    now = [-100.0]  # the encoders take their time to load
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    with texts_progress() as progress:
        for now[0], count in done.items():
            progress(count, 10)
    return capsys.readouterr().err.splitlines()


def test_what_is_done_in_a_moment_is_not_counted_aloud_however_long_it_took_to_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _told({0.0: 9, 4.0: 10}, capsys, monkeypatch) == []
    slow = _told({0.0: 2, 4.0: 3, 6.0: 4, 9.0: 5, 17.0: 6, 18.0: 10}, capsys, monkeypatch)
    assert slow == [f"encoded texts: {count} of 10" for count in (4, 6, 10)]


def _on_a_terminal(quiet_s: float, before_s: float, work_s: float) -> str:
    """What a terminal shows of work that starts for so long and takes so long, and tells nothing in its midst."""
    terminal = io.StringIO()
    with counted("images drawn", quiet_s, Console(file=terminal, force_terminal=True, width=100)) as show:
        time.sleep(before_s)
        show(0, 4)
        show(1, 4)
        time.sleep(work_s)
        show(4, 4)
    return terminal.getvalue()


def test_quick_work_shows_no_bar() -> None:
    assert _on_a_terminal(quiet_s=60.0, before_s=0.0, work_s=0.0) == ""


def test_a_start_alone_shows_no_bar_however_long_it_takes() -> None:
    assert _on_a_terminal(quiet_s=0.3, before_s=0.5, work_s=0.0) == ""


@pytest.mark.parametrize("quiet_s", [0.0, 0.01])
def test_slow_work_shows_what_is_done_and_how_many_without_being_told_again(quiet_s: float) -> None:
    text = _on_a_terminal(quiet_s, before_s=0.0, work_s=0.4)
    assert "images drawn" in text
    assert "1/4" in text


def _fails(show: Counted) -> None:
    show(0, 4)
    raise OSError("full")


@pytest.mark.parametrize("quiet_s", [0.0, 0.01, 60.0])
def test_an_error_inside_passes_through_and_ends_the_bar(quiet_s: float) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(OSError, match="full"), counted("images drawn", quiet_s, terminal) as show:
        _fails(show)
    assert not terminal._live_stack


def test_a_turn_that_waits_for_the_discriminator_is_said() -> None:
    waits = replace(REPORT, plan=replace(REPORT.plan, phase="warm", gated=True))
    said = "warm, RL waits for an open level"
    assert said in line(CONFIG, status(report=waits))
    assert said in _drawn(status(report=waits))
