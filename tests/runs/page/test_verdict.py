"""The verdict: never more flattering than the figures, and each figure with its number of images."""

from pathlib import Path
from typing import Any

import pytest

from advdmd_ray.config import Config
from advdmd_ray.runs.page.record import Record, read_record
from advdmd_ray.runs.page.verdict import headline, judged_on, notes, rows
from page_runs import SHARES, line_of, write_lines, write_run
from summaries import RAW, scored, summary_with


def record_with(folder: Path, **changes: Any) -> Record:
    return read_record(write_run(folder / "demo", cycles=10, **changes).path, "demo")


def judged(**student: Any) -> dict[str, Any]:
    return {**RAW["judge"], "student": student}


@pytest.mark.parametrize(("distance", "words"), [(4.85, "2.0 times closer to"), (19.4, "2.0 times farther from")])
def test_the_headline_says_with_which_teacher_it_compares(distance: float, words: str, tmp_path: Path) -> None:
    record = record_with(tmp_path, judge=judged(**scored(accuracy=0.9, frechet=distance), steps=4))
    said = headline(record)
    assert said.text == f"At 4 steps the student is {words} real images than the teacher at the same 4 steps."
    assert said.more == (
        f"Fréchet distance {distance:.3g} against 9.70; the teacher at its full 40 steps: 2.10, from 1,000 images "
        "each. 90.0 % of the student's images are read as prompted."
    )


def test_without_a_teacher_at_as_many_steps_the_headline_makes_no_comparison(tmp_path: Path) -> None:
    said = headline(record_with(tmp_path, judge=judged(**scored(accuracy=0.9, frechet=1.0), steps=3)))
    assert said.text == "The student at 3 steps: Fréchet distance 1.00."
    assert said.more.startswith("The teacher at its full 40 steps: 2.10, from 1,000 images each.")
    assert "times" not in said.text + said.more


def test_other_numbers_of_images_are_told_apart(tmp_path: Path) -> None:
    student = {"figures": {"accuracy": 0.9, "frechet": 1.0}, "images": 60, "steps": 4}
    more = headline(record_with(tmp_path, judge=judged(**student))).more
    assert "2.10, from 60 images of the student and of the teacher 1,000 at 40 steps, 1,000 at 4 steps." in more


def test_where_higher_is_better_the_headline_gives_the_shares_of_prompts(tmp_path: Path) -> None:
    said = headline(record_with(tmp_path, judge=SHARES))
    assert said.text == "At 4 steps the student follows 71.2 % of prompts."
    assert said.more == "The teacher follows 20.1 % at 4 steps and 63.0 % at 40 steps, from 1,000 images each."


@pytest.mark.parametrize(
    ("outcome", "words"),
    [("stopped", "as it was told to"), ("diverged", "guard against divergence"), ("failed", "by an error")],
)
def test_a_run_that_was_stopped_says_by_what_until_it_goes_on(tmp_path: Path, outcome: str, words: str) -> None:
    end = {"time": 1.0, "cycle": 2, "record": 3, "values": {f"advdmd_run_finished{{outcome={outcome}}}": 1.0}}
    resumed = {"time": 2.0, "cycle": 2, "values": {}}
    for more, expected in (([end], words), ([end, resumed], "without a word"), ([end, resumed, end], words)):
        run = write_lines(tmp_path, [line_of(1), line_of(2), *more])
        text = headline(read_record(run.path, "x")).text
        assert text.startswith("Stopped at cycle 2 of 40")
        assert expected in text


def test_a_run_without_a_verdict_says_how_far_it_is(tmp_path: Path) -> None:
    reason = "the judge failed: <no room>; `advdmd evaluate --config c --student s` judges it"
    said = headline(record_with(tmp_path, judge=None, not_judged=reason))
    assert (said.text, said.more) == ("The student is trained and exported, and not judged.", f"{reason}.")
    stopped = write_lines(tmp_path / "stopped", [line_of(cycle) for cycle in range(1, 12)])
    assert headline(read_record(stopped.path, "x")).text.startswith("Stopped at cycle 11 of 40 without a word:")
    stopped.config.write_text("run: {name: x}\n")
    few = Config().evaluation.judge_samples
    assert f"Judged at cycle 10 on {few} images: Fréchet distance 40" in headline(read_record(stopped.path, "x")).more
    assert "Nothing is saved that it could go on from." in headline(read_record(stopped.path, "x")).more
    (stopped.checkpoints / "step-10").mkdir(parents=True)
    command = f"`advdmd run --config {stopped.config} --resume auto` goes on from its newest checkpoint."
    assert command in headline(read_record(stopped.path, "x")).more
    assert headline(read_record(tmp_path / "none", "x")).text == "Nothing is recorded of this run yet."


def test_every_row_has_its_number_of_images_and_bars_are_as_long_as_the_distances() -> None:
    judge = summary_with(
        judge={**RAW["judge"], "real": {"figures": {"frechet": 1.2, "accuracy": 0.989}, "images": 360}}
    )
    assert judge.judge is not None
    table = rows(judge.judge)
    assert [(row.sampler, row.steps, row.images) for row in table] == [
        *(("teacher", steps, "1,000") for steps in ("40", "8", "4", "2")),
        ("student", "4", "1,000"),
        ("real images, held out", "", "360"),
    ]
    assert [row.share for row in table] == pytest.approx([value / 21.5 for value in (2.1, 4.4, 9.7, 21.5, 3.9, 1.2)])
    assert [row.figures for row in table if row.student] == [("3.90", "98.1 %")]
    assert any("no bound: there are 360 of them" in note for note in notes(judge.judge))


def test_real_images_as_many_as_the_students_need_no_excuse_and_are_no_ceiling() -> None:
    judge = summary_with().judge
    assert judge is not None
    assert not any("no bound" in note or "ceiling" in note for note in notes(judge))


def test_two_distances_of_one_student_are_told_apart_by_their_numbers_of_images(tmp_path: Path) -> None:
    record = record_with(tmp_path)
    config = Config().evaluation
    assert config.judge_samples != config.samples
    said = judged_on(record)
    assert f"from {config.judge_samples:,} images each, this table from {config.samples:,}" in said
    assert judged_on(read_record(write_lines(tmp_path / "unjudged", [line_of(1)]).path, "x")) == ""
