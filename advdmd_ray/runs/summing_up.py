"""What a run says last: how far it came, how long it took, what the judge says, and where everything is."""

import shlex

from advdmd_ray.config import Config
from advdmd_ray.evaluation.summary import JudgeSummary, Summary
from advdmd_ray.evaluation.words import clock_text
from advdmd_ray.runs.folder import RunFolder


def summed_up(config: Config, total_s: float, *, local: bool) -> tuple[list[str], dict[str, object]]:
    """The end of a run from its summary.json: lines for a person, the last of which says where to look, and figures.

    Args:
        config: Of a run that is reported.
        total_s: Seconds since it was started.
        local: Whether it ran in one process, without Ray.
    """
    folder = RunFolder(config.folder)
    summary = Summary.model_validate_json(folder.summary.read_text(encoding="utf-8"))
    seconds, on = summary.seconds, resume_command(config, summary.cycles, local=local)
    figures: dict[str, object] = {
        "run": summary.run,
        "cycles": summary.cycles,
        "cycles_planned": config.run.cycles,
        "seconds": total_s,
        "headline": None if summary.judge is None else _headline(summary.judge),
        "report": str(folder.report),
        "student": str(folder.student),
        "resume": on,
    }
    parts = (
        f"start {clock_text(seconds.setup)}, training {clock_text(seconds.train)}, judge {clock_text(seconds.judge)}"
    )
    lines = [
        f"{summary.run}: {summary.cycles} of {config.run.cycles} cycles in {clock_text(total_s)} ({parts})",
        f"not judged: {summary.not_judged}" if summary.judge is None else _verdict(summary.judge),
        f"student: {folder.student}",
        f"to train on: {on}",  # in a line of its own, to be copied
        f"look at {folder.report}",
    ]
    return lines, figures


def resume_command(config: Config, cycles: int, *, local: bool) -> str:
    """The command that goes on with a run that made so many cycles: to its end, or to twice as many."""
    more = [f"run.cycles={2 * config.run.cycles}"] if cycles >= config.run.cycles else []
    where = ["--local"] if local else []
    folder = RunFolder(config.folder)
    return shlex.join(["advdmd", "run", "--config", str(folder.config), "--resume", "auto", *where, *more])


def _headline(judge: JudgeSummary) -> dict[str, object]:
    key = judge.headline
    return {
        "figure": key,
        "better": judge.headline_label.better,
        "student": {str(judge.student.steps): judge.student.figures[key]},
        "teacher": {str(steps): score.figures[key] for steps, score in judge.teacher.items()},
    }


def _verdict(judge: JudgeSummary) -> str:
    """The headline of the student, and of the teacher at its most steps and at the student's."""
    label, steps = judge.headline_label, judge.student.steps
    shown = [max(judge.teacher), *([steps] if steps in judge.teacher and steps != max(judge.teacher) else [])]
    teacher = ", ".join(f"{judge.teacher[each].figures[label.key]:.3f} at {each}" for each in shown)
    student = f"{judge.student.figures[label.key]:.3f} at {steps}"
    return f"{label.label} ({label.better} is better): student {student} steps, teacher {teacher}"
