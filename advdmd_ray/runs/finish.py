"""The end of a run: summary.json and report.html, with the judge's verdict or without."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.evaluation.pictures.curves import plot_curves
from advdmd_ray.evaluation.pictures.grids import column_labels, comparison_grid
from advdmd_ray.evaluation.pictures.series import auc_while_rl, read_series
from advdmd_ray.evaluation.summary import (
    AucRange,
    DiscriminatorSummary,
    FigureLabel,
    JudgeSummary,
    PerStream,
    RoleSeconds,
    Score,
    Seconds,
    StudentScore,
    Summary,
    Trajectories,
    Updates,
    WeightsSummary,
    write_summary,
)
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.card import tell_figures
from advdmd_ray.runs.figures import Figures
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.judgement import Drawn, Piece
from advdmd_ray.runs.page.page import write_page
from advdmd_ray.runs.page.record import read_record
from advdmd_ray.runs.verdict import Verdict, verdict_of


@dataclass(frozen=True, slots=True)
class Phases:
    """Wall time of a run's parts, seconds.

    Attributes:
        setup: From the start to the first lease.
        train: The controller's loops.
    """

    setup: float
    train: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of the judgement.

    Attributes:
        seconds: How long it took.
        verdict: What the judge says, without the images; None if there is no verdict.
        comparison: Picture of teacher and student side by side, for the page.
        missing: Why there is no verdict, one line.
    """

    seconds: float = 0.0
    verdict: Verdict | None = None
    comparison: Path | None = None
    missing: str = "the run has not come to its judge yet"


def judged_run(config: Config, drawn: Mapping[Piece, Drawn]) -> Judged:
    """Judges what was drawn and draws the comparison picture into the run folder."""
    verdict, comparison = verdict_of(config, drawn), None
    if verdict.images:
        labels = column_labels(verdict.prompts)
        comparison = comparison_grid(RunFolder(config.folder).comparison, verdict.images, labels)
    return Judged(verdict=replace(verdict, images={}), comparison=comparison)


def report_run(config: Config, phases: Phases, judged: Judged) -> Path:
    """Draws the curves and writes summary.json and the page to look at, whose path it returns.

    Args:
        config: Of a run whose student is exported.
        phases: Timings before the judge.
        judged: The verdict, or why there is none.
    """
    folder = RunFolder(config.folder)
    high, errors = config.discriminator.auc_high, config.discriminator.text_errors
    plot_curves(folder.metrics, folder.curves, auc_high=high, text_errors=errors, title=config.run.name)
    summary = summarise(config, phases, judged)
    write_summary(folder.summary, summary)
    if summary.judge is not None:
        tell_figures(folder.student, summary.judge)
    record = read_record(config.folder, config.run.name)
    return write_page(folder.report, [replace(record, config=config, trouble="", state="finished")])


def judge_command(config: Config) -> str:
    """The command that judges a run's student whenever there is room for it."""
    folder = RunFolder(config.folder)
    return f"advdmd evaluate --config {folder.config} --student {folder.student}"


def summarise(config: Config, phases: Phases, judged: Judged) -> Summary:
    """The summary of a run from the judge's verdict, if there is one, and the last values of metrics.jsonl."""
    figures, series = Figures.of(config), read_series(RunFolder(config.folder).metrics)
    updates = figures.by("advdmd_learner_updates_total", "objective")
    published = figures.by("advdmd_weights_published_total", "stream")
    verified = figures.by("advdmd_weights_verified_total", "stream")
    mismatched = figures.by("advdmd_weights_mismatched_total", "stream")
    dropped = figures.by("advdmd_buffer_dropped_groups_total", "reason")
    roles: dict[str, dict[str, float]] = {}
    for labels, value in figures.rows("advdmd_run_role_seconds_total"):
        states = roles.setdefault(labels["role"], {"busy": 0.0, "waiting": 0.0, "blocked": 0.0, "down": 0.0})
        states[labels["state"]] = value
    workers: dict[str, dict[str, int]] = {}
    for labels, value in figures.rows("advdmd_weights_worker_version"):
        workers.setdefault(labels["worker"], {})[labels["stream"]] = int(value)
    deviation = series.get("advdmd_learner_ratio_deviation")
    return Summary(
        run=config.run.name,
        seed=config.run.seed,
        cycles=int(figures.one("advdmd_run_cycle")),
        kernel=config.diffusion.kernel,
        sigmas=config.diffusion.sigmas,
        judge=None if judged.verdict is None else _judge_summary(judged.verdict),
        not_judged=None if judged.verdict is not None else f"{judged.missing}; `{judge_command(config)}` judges it",
        updates=Updates(**{name: int(updates.get(name, 0)) for name in Updates.model_fields}),
        discriminator=DiscriminatorSummary(
            auc={int(level): value for level, value in figures.by("advdmd_learner_discriminator_auc", "level").items()},
            auc_while_rl={level: AucRange(mean=mean, min=low) for level, (mean, low) in auc_while_rl(series).items()},
        ),
        trajectories=Trajectories(
            trained=int(figures.one("advdmd_learner_trajectories_trained_total")),
            dropped={
                "groups_too_old": int(dropped.get("age", 0)),
                "groups_lost": int(dropped.get("lost", 0)),
                "stale_actions": int(figures.one("advdmd_learner_rl_terms_dropped_total")),
            },
        ),
        weights=WeightsSummary(
            published=_per_stream(published),
            verified=_per_stream(verified),
            mismatched=_per_stream(mismatched),
            workers=workers,
        ),
        seconds=Seconds(setup=phases.setup, train=phases.train, judge=judged.seconds),
        roles={role: RoleSeconds(**states) for role, states in roles.items()},
        ratio_deviation=None if deviation is None else float(deviation.values.max()),
        **made_here(),
    )


def _judge_summary(verdict: Verdict) -> JudgeSummary:
    if verdict.student is None:
        raise ValueError("a finished run has a student to summarise")
    return JudgeSummary(
        headline=verdict.headline,
        labels=tuple(FigureLabel(**asdict(figure)) for figure in verdict.figures),
        teacher={steps: Score(**asdict(score)) for steps, score in verdict.teacher.items()},
        student=StudentScore(**asdict(verdict.student), steps=verdict.steps),
        real=Score(**asdict(verdict.real)),
    )


def _per_stream(counts: Mapping[str, float]) -> PerStream:
    return PerStream(student=int(counts.get("student", 0)), discriminator=int(counts.get("discriminator", 0)))
