"""What a run says last."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray import cli
from advdmd_ray.config import Config
from advdmd_ray.evaluation.summary import write_summary
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.summing_up import summed_up
from summaries import RAW, scored, summary_with


def ended(folder: Path, cycles: int = 300, *, local: bool = False, **changes: Any) -> tuple[list[str], dict[str, Any]]:
    """What a run says whose summary has these changes."""
    config = Config.model_validate({"run": {"name": "demo", "output": str(folder), "cycles": cycles}})
    write_summary(RunFolder(config.folder).summary, summary_with(**changes))
    return summed_up(config, 332.4, local=local)


def test_the_end_says_how_far_how_long_how_good_and_where(tmp_path: Path) -> None:
    lines, figures = ended(tmp_path)
    folder = tmp_path / "demo"
    assert lines == [
        "demo: 300 of 300 cycles in 5:32 (start 0:21, training 4:07, judge 0:33)",
        "Fréchet distance (lower is better): student 3.900 at 4 steps, teacher 2.100 at 40, 9.700 at 4",
        f"student: {folder}/student",
        f"to train on: advdmd run --config {folder}/config.yaml --resume auto run.cycles=600",
        f"look at {folder}/report.html",
    ]
    assert figures["headline"] == {
        "figure": "frechet",
        "better": "lower",
        "student": {"4": 3.9},
        "teacher": {"40": 2.1, "8": 4.4, "4": 9.7, "2": 21.5},
    }
    assert (figures["cycles"], figures["cycles_planned"], figures["seconds"]) == (300, 300, 332.4)
    assert figures["report"] == f"{folder}/report.html"
    assert lines[3] == f"to train on: {figures['resume']}"


def test_a_student_of_steps_that_the_teacher_was_not_judged_at_stands_beside_the_teacher_at_its_most(
    tmp_path: Path,
) -> None:
    judge = {**RAW["judge"], "student": {**scored(frechet=3.9, accuracy=0.981), "steps": 3}}
    lines, _ = ended(tmp_path, judge=judge)
    assert lines[1].endswith("student 3.900 at 3 steps, teacher 2.100 at 40")


def test_a_run_without_a_verdict_says_why(tmp_path: Path) -> None:
    lines, figures = ended(tmp_path, judge=None, not_judged="the judge failed: no room; `advdmd evaluate` judges it")
    assert lines[1] == "not judged: the judge failed: no room; `advdmd evaluate` judges it"
    assert figures["headline"] is None


@pytest.mark.parametrize(("cycles", "local", "last"), [(300, False, ["run.cycles=600"]), (400, True, [])])
def test_the_command_that_goes_on_is_one_and_asks_for_more_cycles_only_where_all_are_made(
    cycles: int, local: bool, last: list[str], tmp_path: Path
) -> None:
    _, figures = ended(tmp_path / "with space", cycles, local=local)
    args = cli.parse_arguments(shlex.split(figures["resume"])[1:])
    assert (args.command, args.resume, args.local, args.overrides) == ("run", "auto", local, last)
    assert args.config == str(tmp_path / "with space" / "demo" / "config.yaml")
