"""What a user sees of things that are done one after the other."""

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from advdmd_ray.evaluation.words import clock_text
from advdmd_ray.runtime import counting
from advdmd_ray.runtime.counting import Counted, counted, texts_progress


@given(st.integers(0, 10**5), st.floats(-0.49, 0.49))
def test_times_read_as_minutes_and_seconds(seconds: int, rest: float) -> None:
    minutes, after = clock_text(max(0.0, seconds + rest)).split(":")
    assert len(after) == 2
    assert int(after) < 60
    assert 60 * int(minutes) + int(after) == seconds


def _told(done: dict[float, int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a log shows of ten texts, so many of which are encoded at these seconds."""
    now = [-100.0]  # the encoders take their time to load
    monkeypatch.setattr(counting.time, "monotonic", lambda: now[0])
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
    assert _on_a_terminal(quiet_s=2.0, before_s=2.5, work_s=0.0) == ""


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
