"""The report: one self-contained page about a finished run, a few megabytes large whatever the model's images are."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from advdmd_ray.evaluation.pictures.page_pictures import evenly_spaced, page_picture
from advdmd_ray.evaluation.summary import FigureLabel, JudgeSummary, Score, Summary
from advdmd_ray.files import write_atomically

SHOWN_GRIDS = 24
"""Most sample grids in the page."""
GRID_BYTES, WIDE_BYTES = 2**18, 2**20
"""Most bytes of a grid in the page, and of a picture as wide as the page; of a larger file there is a thumbnail."""
GRID_WIDTH, WIDE_WIDTH = 800, 2000
"""Most pixels of a thumbnail's width: twice what the page gives it."""


def write_report(
    path: Path,
    summary: Summary,
    *,
    config_text: str,
    comparison: Path | None = None,
    curves: Path | None = None,
    grids: Sequence[tuple[int, Path]] = (),
) -> Path:
    """Writes the page of a run: verdict, pictures, curves, timings, versions, configuration.

    The page needs no other file and no network: pictures, of large ones thumbnails, are data URIs, and the style is in
    the page. Each picture is a link to its file.

    Args:
        path: Where it goes.
        summary: What the run achieved.
        config_text: The resolved configuration as YAML.
        comparison: Picture of the samplers side by side.
        curves: Picture of the run's curves.
        grids: Learner cycle and picture of each sample grid, in the order to show; of many the first, the last and some
            between are shown.

    Returns:
        The path.

    Raises:
        FileNotFoundError: if a named picture is not there.
    """
    environment = Environment(
        loader=PackageLoader("advdmd_ray.evaluation.pictures", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    wide = partial(page_picture, page=path, most_bytes=WIDE_BYTES, width=WIDE_WIDTH)
    environment.filters["figure"] = figure
    environment.filters["duration"] = duration
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        verdict=verdict(summary),
        rows=score_rows(summary),
        config_text=config_text,
        comparison=None if comparison is None else wide(comparison),
        curves=None if curves is None else wide(curves),
        grids=[
            (cycle, page_picture(grid, path, most_bytes=GRID_BYTES, width=GRID_WIDTH))
            for cycle, grid in evenly_spaced(grids, SHOWN_GRIDS)
        ],
        drawn_grids=len(grids),
    )
    return write_atomically(path, page.encode("utf-8"))


def figure(value: float) -> str:
    """A number to three significant digits, without an exponent where it can be read: 0.0123, 4.57, 1,234."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):  # noqa: PLR2004 - where fixed point stops being readable
        return f"{value:.2e}"
    if abs(value) >= 100:  # noqa: PLR2004 - three digits stand before the point
        return f"{value:,.0f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `8.2 s`, `4 min 07 s`, `1 h 02 min`."""
    if seconds < 59.95:  # noqa: PLR2004 - 60.0 s would read badly
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - minutes of an hour
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def figure_text(value: float, *, share: bool) -> str:
    """One of the judge's figures: a share as a percentage, anything else to three digits."""
    return f"{value:.1%}".replace("%", " %") if share else figure(value)


def verdict(summary: Summary) -> str:
    """The headline: the student beside the teacher, by the figure that the judge compares by."""
    judge = summary.judge
    if judge is None:
        return "The student is trained and exported, and not judged."
    return _distances(judge) if judge.headline_label.better == "lower" else _shares(judge)


def _distances(judge: JudgeSummary) -> str:
    """How far the student is from the data beside the teacher at as many steps, and its accuracy."""
    student, teacher = judge.student, judge.teacher.get(judge.student.steps)
    accuracy = (
        f"{student.figures['accuracy']:.1%} of its images are read as their prompt says"
        if "accuracy" in student.figures
        else f"its diversity is {figure(student.figures['diversity'])}"
    )
    if teacher is None or teacher.figures[judge.headline] == 0:
        return f"The student at {_steps(student.steps)}: {accuracy}."
    ratio = student.figures[judge.headline] / teacher.figures[judge.headline]
    words = f"{1 / ratio:.1f} times closer to" if 0 < ratio < 1 else f"{ratio:.1f} times farther from"
    return f"At {_steps(student.steps)} the student is {words} the data than the teacher; {accuracy}."


def _shares(judge: JudgeSummary) -> str:
    """The share of prompts that the student follows, and the teacher at most and at as many steps."""
    student, label = judge.student, judge.headline_label
    counts = [max(judge.teacher), *([student.steps] if student.steps in judge.teacher else [])]
    parts = [f"{_text(judge.teacher[count], label)} at {count}" for count in dict.fromkeys(counts)]
    times = "step" if counts[-1] == 1 else "steps"
    return (
        f"At {_steps(student.steps)} the student follows {_text(student, label)} of prompts; the teacher "
        f"{' and '.join(parts)} {times}."
    )


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _text(score: Score, label: FigureLabel) -> str:
    return figure_text(score.figures[label.key], share=label.share)


def score_rows(summary: Summary) -> list[tuple[str, str, list[str], float]]:
    """Rows of the verdict table: sampler, steps, figures as text, and the headline as a share of its largest value."""
    judge = summary.judge
    if judge is None:
        return []
    rows: list[tuple[str, str, Score]] = [
        ("teacher", str(steps), judge.teacher[steps]) for steps in sorted(judge.teacher, reverse=True)
    ]
    rows.append(("student", str(judge.student.steps), judge.student))
    rows.append(("real, held out", "", judge.real))
    largest = max(score.figures[judge.headline] for _, _, score in rows) or 1.0
    return [
        (sampler, steps, [_text(score, label) for label in judge.labels], score.figures[judge.headline] / largest)
        for sampler, steps, score in rows
    ]
