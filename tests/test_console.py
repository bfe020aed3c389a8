"""What a command says on stderr: for a person, for a machine, or next to nothing."""

import io
import json
import logging
import sys
import threading
import warnings
from typing import Any

import pytest

from advdmd_ray import console
from advdmd_ray.console import END, PROGRESS, drawing, logging_to_stderr, say, sum_up, warn

OTHER = logging.getLogger("advdmd_ray.controller.loop")


def say_all() -> None:
    """One line of each kind."""
    say("cycle 4", cycle=4)
    warn("stopping")
    OTHER.warning("rollout-0 is lost")
    OTHER.debug("a detail")
    sum_up(["done", "look there"], cycles=9)
    END.error("error: no")


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_person_reads_lines_of_which_those_of_a_developer_name_their_logger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with logging_to_stderr():
        say_all()
    assert capsys.readouterr().err.splitlines() == [
        "cycle 4",
        "stopping",
        "WARNING advdmd_ray.controller.loop: rollout-0 is lost",
        "done",
        "look there",
        "advdmd: error: no",
    ]


def test_quiet_leaves_warnings_errors_and_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(quiet=True):
        say_all()
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [
        *("stopping", "WARNING", "done", "look", "advdmd:")
    ]


def test_details_are_shown_where_they_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(verbose=True):
        say_all()
    assert "DEBUG advdmd_ray.controller.loop: a detail" in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [False, True])
def test_a_machine_reads_an_object_a_line_with_the_figures_as_fields(
    quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to_stderr(form="json", quiet=quiet):
        say_all()
    told = read(capsys.readouterr().err)
    assert [(each["level"], each["logger"], each["message"]) for each in told] == [
        *([] if quiet else [("INFO", "advdmd_ray.progress", "cycle 4")]),
        ("WARNING", "advdmd_ray.progress", "stopping"),
        ("WARNING", "advdmd_ray.controller.loop", "rollout-0 is lost"),
        ("INFO", "advdmd_ray.summary", "done\nlook there"),
        ("ERROR", "advdmd", "error: no"),
    ]
    assert told[-2]["cycles"] == 9
    assert quiet or told[0]["cycle"] == 4
    assert all(each["time"].endswith("+00:00") for each in told)


def test_what_json_cannot_say_of_numbers_is_null_and_a_traceback_is_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(form="json"):
        say("odd", auc=[0.5, float("nan")], left=float("inf"), by={4: 1.0})
        try:
            int("no\nroom")
        except ValueError:
            OTHER.exception("it fell")
    odd, fell = read(capsys.readouterr().err)
    assert (odd["auc"], odd["left"], odd["by"]) == ([0.5, None], None, {"4": 1.0})
    assert "ValueError: invalid literal" in fell["traceback"]


def test_what_others_write_to_stderr_is_json_too_and_a_line_of_each_thread_stays_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def elsewhere() -> None:
        sys.stderr.write("(raylet) a worker died\n")

    with logging_to_stderr(form="json", quiet=True):
        sys.stderr.write("half of ")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        sys.stderr.write("a line\n\nrest")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    told = read(capsys.readouterr().err)
    lines = [each["message"] for each in told if each["logger"] == "stderr"]
    assert lines == ["(raylet) a worker died", "half of a line", "rest"]
    assert {each["level"] for each in told} == {"WARNING"}
    assert any("DeprecationWarning: old" in each["message"] for each in told if each["logger"] == "py.warnings")


def test_afterwards_all_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr, PROGRESS.level, logging.root.handlers[:], logging.getLogger("advdmd_ray").level
    with logging_to_stderr(form="json", quiet=True):
        pass
    with logging_to_stderr(verbose=True):
        pass
    assert before == (sys.stderr, PROGRESS.level, logging.root.handlers[:], logging.getLogger("advdmd_ray").level)
    say("a line")
    assert capsys.readouterr().err == "a line\n"


class Terminal(io.StringIO):
    """Shows what is written."""

    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


def test_panels_are_drawn_on_a_terminal_unless_quiet_or_json_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawing() is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    console._console.cache_clear()
    try:
        shared = drawing()
        assert shared is not None
        assert drawing() is shared
        for lines in (logging_to_stderr(quiet=True), logging_to_stderr(form="json")):
            with lines:
                assert drawing() is None
    finally:
        console._console.cache_clear()


def test_a_log_that_nobody_can_write_any_more_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Broken())
    for form in ("text", "json"):
        with logging_to_stderr(form=form):
            say_all()
