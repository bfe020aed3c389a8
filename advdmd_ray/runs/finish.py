"""The end of a run: exports the student, judges it, draws the curves and writes summary.json and report.html."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advdmd_ray.config import Config, dump_config
from advdmd_ray.evaluation.pictures.curves import auc_while_rl, plot_curves, read_series
from advdmd_ray.evaluation.pictures.grids import column_labels, comparison_grid
from advdmd_ray.evaluation.pictures.report import write_report
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
from advdmd_ray.metrics.hub import last_values, read_entries
from advdmd_ray.metrics.series import parse_key
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.export import export
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.verdict import Verdict, judge_samplers


@dataclass(frozen=True, slots=True)
class Phases:
    """Wall time of a run's parts, seconds.

    Attributes:
        setup: From the start to the first lease.
        train: The controller's loops.
    """

    setup: float
    train: float


def finish_run(
    config: Config, phases: Phases, clock: Callable[[], float], progress: Callable[[str], None] = lambda _: None
) -> Path:
    """Turns a finished run folder into its artifacts and returns the page to look at.

    Args:
        config: The run's configuration.
        phases: Timings so far.
        clock: Monotonic clock, for the time of the judge.
        progress: Told what is being done.
    """
    began, folder = clock(), RunFolder(config.folder)
    progress("exporting the student")
    verdict = judge_samplers(config, export(config), progress)
    progress("drawing")
    comparison = comparison_grid(folder.comparison, _rows(verdict), column_labels(verdict.prompts))
    gate = (config.discriminator.auc_low, config.discriminator.auc_high)
    curves = plot_curves(folder.metrics, folder.curves, gate=gate, title=config.run.name)
    seconds = Seconds(setup=phases.setup, train=phases.train, judge=clock() - began)
    summary = summarise(config, verdict, seconds)
    write_summary(folder.summary, summary)
    return write_report(
        folder.report,
        summary,
        config_text=dump_config(config),
        comparison=comparison,
        curves=curves,
        grids=folder.grids(),
    )


def _rows(verdict: Verdict) -> dict[str, Any]:
    """The samplers to show side by side: teacher at 40 and at K steps, then the student."""
    wanted = ["teacher, 40 steps", f"teacher, {verdict.steps} steps", f"student, {verdict.steps} steps"]
    return {label: verdict.images[label] for label in wanted if label in verdict.images}


def summarise(config: Config, verdict: Verdict, seconds: Seconds) -> Summary:
    """The summary of a run from the judge's verdict and the last values of metrics.jsonl."""
    jsonl = RunFolder(config.folder).metrics
    figures = _Figures(last_values(read_entries(jsonl)[0]))
    series = read_series(jsonl)
    if verdict.student is None:
        raise ValueError("a finished run has a student to summarise")
    updates = figures.by("advdmd_learner_updates_total", "objective")
    published = figures.by("advdmd_weights_published_total", "stream")
    verified = figures.by("advdmd_weights_verified_total", "stream")
    mismatched = figures.by("advdmd_weights_mismatched_total", "stream")
    dropped = figures.by("advdmd_buffer_dropped_groups_total", "reason")
    roles: dict[str, dict[str, float]] = {}
    for labels, value in figures.rows("advdmd_run_role_seconds_total"):
        roles.setdefault(labels["role"], {"busy": 0.0, "waiting": 0.0, "blocked": 0.0})[labels["state"]] = value
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
        judge=JudgeSummary(
            headline=verdict.headline,
            labels=tuple(FigureLabel(**asdict(figure)) for figure in verdict.figures),
            teacher={steps: Score(**asdict(score)) for steps, score in verdict.teacher.items()},
            student=StudentScore(**asdict(verdict.student), steps=verdict.steps),
            real=Score(**asdict(verdict.real)),
        ),
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
        seconds=seconds,
        roles={role: RoleSeconds(**states) for role, states in roles.items()},
        ratio_deviation=None if deviation is None else float(deviation.values.max()),
        **made_here(),
    )


def _per_stream(counts: Mapping[str, float]) -> PerStream:
    return PerStream(student=int(counts.get("student", 0)), discriminator=int(counts.get("discriminator", 0)))


class _Figures:
    """Last values of metrics.jsonl, looked up by series name; absent counters are 0."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._rows = [(*parse_key(key), value) for key, value in values.items() if isinstance(value, int | float)]

    def rows(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series of this name."""
        return [(dict(labels), float(value)) for found, labels, value in self._rows if found == name]

    def by(self, name: str, label: str) -> dict[str, float]:
        """Value by one label."""
        return {labels[label]: value for labels, value in self.rows(name)}

    def one(self, name: str) -> float:
        """The value of a series without labels."""
        return next((value for _, value in self.rows(name)), 0.0)
