"""A progress bar that shows itself only where work takes a while."""

import io
import time

import pytest
from rich.console import Console

from advdmd_ray.cli.late_bar import LateBar


def shown(after_s: float, work_s: float) -> str:
    """What a terminal shows of work that takes so long."""
    terminal = io.StringIO()
    with LateBar("drawing images", after_s, Console(file=terminal, force_terminal=True)) as bar:
        bar.update(1, 4)
        time.sleep(work_s)
        bar.update(4, 4)
    return terminal.getvalue()


def test_quick_work_shows_no_bar() -> None:
    assert shown(after_s=60.0, work_s=0.0) == ""


def test_slow_work_says_what_is_done_and_how_many() -> None:
    text = shown(after_s=0.01, work_s=0.4)
    assert "drawing images" in text
    assert "1/4" in text


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(OSError, match="full"), LateBar("drawing images", 0.01, Console(file=io.StringIO())):
        raise OSError("full")
