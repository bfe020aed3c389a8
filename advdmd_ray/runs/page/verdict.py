"""What the judge said, in words and as a table: each figure with its number of images."""

import shlex
from dataclasses import dataclass

from advdmd_ray.evaluation.pictures.series import by_label
from advdmd_ray.evaluation.summary import FigureLabel, JudgeSummary, Score
from advdmd_ray.evaluation.words import duration, figure, figure_text
from advdmd_ray.runs.page.names import counted, figure_name
from advdmd_ray.runs.page.record import Record


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict in two sentences.

    Attributes:
        text: The first, large.
        more: What it compares, in figures.
    """

    text: str
    more: str


@dataclass(frozen=True, slots=True)
class Row:
    """A sampler in the table.

    Attributes:
        sampler: Whose images.
        steps: Its steps, or nothing.
        images: How many were judged.
        figures: In the order of the judge's labels.
        share: The headline figure as a share of the largest, in [0, 1].
        student: Whether it is the student.
    """

    sampler: str
    steps: str
    images: str
    figures: tuple[str, ...]
    share: float
    student: bool = False


_ENDS = {
    "stopped": ", as it was told to",
    "diverged": " by its guard against divergence",
    "failed": " by an error, which the end of its log names",
}
_KILLED = " without a word: its process was killed"


def headline(record: Record) -> Headline:
    """What a reader should know first of a run."""
    summary = record.summary
    if summary is not None and summary.judge is not None:
        judge = summary.judge
        return _distances(judge) if judge.headline_label.better == "lower" else _shares(judge)
    if record.state == "running":
        where = f"cycle {record.cycle:,} of {record.planned:,}" if record.cycle else "before its first cycle"
        left = record.figures.rows("advdmd_run_remaining_seconds")
        more = f"About {duration(left[0][1])} to come. " if left else ""
        return Headline(f"Training, {where}.", f"{more}{_so_far(record)}")
    if summary is not None:
        return Headline("The student is trained and exported, and not judged.", f"{summary.not_judged}.")
    if record.cycle:
        outcome = next((labels["outcome"] for labels, _ in record.figures.rows("advdmd_run_finished")), "")
        why = _ENDS.get(outcome, _KILLED)
        text = f"Stopped at cycle {record.cycle:,} of {record.planned:,}{why}."
        return Headline(text, f"{_goes_on(record)} {_so_far(record)}")
    return Headline("Nothing is recorded of this run yet.", "")


def _goes_on(record: Record) -> str:
    """How a run that was stopped goes on."""
    if not any(record.folder.checkpoints.glob("step-*")):
        return "Nothing is saved that it could go on from."
    command = shlex.join(["advdmd", "run", "--config", str(record.folder.config), "--resume", "auto"])
    return f"`{command}` goes on from its newest checkpoint."


def _so_far(record: Record) -> str:
    """What the judge said last while it learned."""
    found = by_label(record.series, "advdmd_run_judge", "figure")
    if not found or record.config is None:
        return "Its student is judged when the training is done."
    cycle = max(int(curve.cycles[-1]) for curve in found.values())
    figures = ", ".join(f"{figure_name(key)} {figure(float(curve.values[-1]))}" for key, curve in found.items())
    images = counted(record.config.evaluation.judge_samples, "image")
    return f"Judged at cycle {cycle:,} on {images}: {figures}."


def _distances(judge: JudgeSummary) -> Headline:
    """How far the student is from the data beside the teacher at as many steps and at its most."""
    student, teacher, label = judge.student, judge.teacher.get(judge.student.steps), judge.headline_label
    most = max(judge.teacher)
    accuracy = (
        f" {figure_text(student.figures['accuracy'], share=True)} of the student's images are read as prompted."
        if "accuracy" in student.figures
        else ""
    )
    own = f"{label.label} {_share(student, label)}"
    if teacher is None or teacher.figures[label.key] == 0:
        more = f"The teacher at its full {_steps(most)}: {_share(judge.teacher[most], label)}{_images(judge, most)}."
        return Headline(f"The student at {_steps(student.steps)}: {own}.", f"{more}{accuracy}")
    ratio = student.figures[label.key] / teacher.figures[label.key]
    words = f"{1 / ratio:.1f} times closer to" if 0 < ratio < 1 else f"{ratio:.1f} times farther from"
    return Headline(
        f"At {_steps(student.steps)} the student is {words} real images than the teacher at the same "
        f"{_steps(student.steps)}.",
        f"{own} against {_share(teacher, label)}; the teacher at its full {_steps(most)}: "
        f"{_share(judge.teacher[most], label)}{_images(judge, most, student.steps)}.{accuracy}",
    )


def _shares(judge: JudgeSummary) -> Headline:
    """The share of prompts that the student follows, and the teacher at as many steps and at its most."""
    student, label = judge.student, judge.headline_label
    most = max(judge.teacher)
    counts = sorted({most, student.steps} & judge.teacher.keys())
    parts = [f"{_share(judge.teacher[count], label)} at {_steps(count)}" for count in counts]
    return Headline(
        f"At {_steps(student.steps)} the student follows {_share(student, label)} of prompts.",
        f"The teacher follows {' and '.join(parts)}{_images(judge, *counts)}.",
    )


def _images(judge: JudgeSummary, *steps: int) -> str:
    """How many images the figures of the student, and of the teacher at these steps, are of."""
    counts = {judge.student.images, *(judge.teacher[count].images for count in steps)}
    if len(counts) == 1:
        return f", from {counted(judge.student.images, 'image')} each"
    teachers = ", ".join(f"{judge.teacher[count].images:,} at {_steps(count)}" for count in steps)
    return f", from {judge.student.images:,} images of the student and of the teacher {teachers}"


def _steps(count: int) -> str:
    return counted(count, "step")


def _share(score: Score, label: FigureLabel) -> str:
    return figure_text(score.figures[label.key], share=label.share)


def rows(judge: JudgeSummary) -> list[Row]:
    """The table: the teacher from most to fewest steps, the student, real images."""
    samplers: list[tuple[str, str, Score]] = [
        ("teacher", f"{steps}", judge.teacher[steps]) for steps in sorted(judge.teacher, reverse=True)
    ]
    samplers.append(("student", f"{judge.student.steps}", judge.student))
    samplers.append(("real images, held out", "", judge.real))
    key = judge.headline
    largest = max(score.figures[key] for _, _, score in samplers) or 1.0
    return [
        Row(
            sampler,
            steps,
            f"{score.images:,}",
            tuple(_share(score, label) if label.key in score.figures else "" for label in judge.labels),
            max(0.0, score.figures[key] / largest),
            student=sampler == "student",
        )
        for sampler, steps, score in samplers
    ]


def notes(judge: JudgeSummary) -> list[str]:
    """What the figures are, a sentence or two each."""
    keys = {label.key for label in judge.labels}
    found = list[str]()
    if "frechet" in keys:
        found.append(
            "Fréchet distance: between Gaussians fitted to these and to real images; smaller is better. Fewer images "
            "give a larger one, so compare only figures of equally many."
        )
        others = {score.images for score in (*judge.teacher.values(), judge.student)}
        if others != {judge.real.images}:
            found.append(
                f"Held-out real images are a reference and no bound: there are {judge.real.images:,} of them, so their "
                "distance reads higher than that of more images would, and a student can lie below it."
            )
    if "accuracy" in keys:
        found.append("Accuracy: share of images that a classifier trained on real images reads as their prompt says.")
    if judge.headline_label.better == "higher":
        found.append(
            "Each skill: share of images that an exact checker finds to be what the prompt says, for dense prompts the "
            "mean share of their facts. Seen and held-out prompts: means over the skills, the latter over combinations "
            "that training never showed."
        )
    if "diversity" in keys:
        found.append("Diversity: mean distance between images of one prompt over that of real images; 1 is as varied.")
    if keys - judge.real.figures.keys():
        found.append("Figures that real images have not: means of scorers (scorers.names); higher is better.")
    if "coverage" in keys:
        found.append(
            "Coverage: share of real images that have a generated one as near as their fifth nearest real neighbour."
        )
    return found


def judged_on(record: Record) -> str:
    """How many images the judgements while training looked at, beside those of the end; empty if there were none."""
    if record.config is None or not any(key.startswith("advdmd_run_judge{") for key in record.series):
        return ""
    few, many = record.config.evaluation.judge_samples, record.config.evaluation.samples
    if few == many:
        return ""
    return (
        f"The curves of the judge come from {counted(few, 'image')} each, this table from {many:,}: a distance of "
        "fewer images reads higher, so the last point of a curve is not the figure in the table."
    )
