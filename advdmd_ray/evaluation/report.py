"""report.html: one self-contained page about a finished run."""

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from advdmd_ray.evaluation.files import write_atomically
from advdmd_ray.evaluation.summary import Score, Summary


def write_report(
    folder: Path,
    summary: Summary,
    *,
    config_text: str,
    comparison: Path | None = None,
    curves: Path | None = None,
    grids: Sequence[tuple[int, Path]] = (),
) -> Path:
    """Writes `folder/report.html`: verdict, pictures, curves, timings, versions, configuration.

    The page needs no other file and no network: pictures are data URIs, the style is in the page.

    Args:
        folder: The run folder.
        summary: What the run achieved.
        config_text: The resolved configuration as YAML.
        comparison: PNG of the samplers side by side.
        curves: PNG of the run's curves.
        grids: Learner cycle and PNG of each sample grid, in the order to show.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: if a named picture is not there.
    """
    environment = Environment(
        loader=PackageLoader("advdmd_ray.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    environment.filters["duration"] = duration
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        verdict=verdict(summary),
        rows=score_rows(summary),
        config_text=config_text,
        comparison=None if comparison is None else data_uri(comparison),
        curves=None if curves is None else data_uri(curves),
        grids=[(cycle, data_uri(path)) for cycle, path in grids],
    )
    return write_atomically(Path(folder) / "report.html", page.encode("utf-8"))


def data_uri(path: Path) -> str:
    """A PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode('ascii')}"


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


def verdict(summary: Summary) -> str:
    """The headline: how far the student is from the data beside the teacher at as many steps."""
    steps = summary.judge.student.steps
    times = "step" if steps == 1 else "steps"
    ratio = summary.frechet_ratio
    accuracy = f"{summary.judge.student.accuracy:.1%} of its images are read as their prompt says"
    if ratio is None:
        return f"The student at {steps} {times}: {accuracy}."
    if ratio < 1:
        return (
            f"At {steps} {times} the student is {1 / ratio:.1f} times closer to the data than the teacher; {accuracy}."
        )
    return f"At {steps} {times} the student is {ratio:.1f} times farther from the data than the teacher; {accuracy}."


def score_rows(summary: Summary) -> list[tuple[str, str, Score, float]]:
    """Rows of the verdict table: sampler, steps, score, and the bar's length as a share of the largest distance."""
    judge = summary.judge
    rows: list[tuple[str, str, Score]] = [
        ("teacher", str(steps), judge.teacher[steps]) for steps in sorted(judge.teacher, reverse=True)
    ]
    rows.append(("student", str(judge.student.steps), judge.student))
    rows.append(("real, held out", "", judge.real))
    largest = max(score.frechet for _, _, score in rows) or 1.0
    return [(sampler, steps, score, score.frechet / largest) for sampler, steps, score in rows]
