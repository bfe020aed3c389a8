"""The jobs of a comparison, and the settings that decide their results: those of two are never mixed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from advdmd_ray.comparison.job import JUDGE_SEED, NONE, SETTINGS, Job
from advdmd_ray.comparison.rivals import NoSettings, Trainer, trainer_class
from advdmd_ray.comparison.starts import check_start, cycles_of
from advdmd_ray.config import Config, Resume
from advdmd_ray.config.comparison import TEACHER, Comparison, Rival, rival_config
from advdmd_ray.config.layers import Layer, resolve
from advdmd_ray.data.pixel_source import PixelSource
from advdmd_ray.data.registry import source_of
from advdmd_ray.errors import UserError
from advdmd_ray.files import files_digest, write_atomically
from advdmd_ray.models.folder import PipelineInfo, inspect_pipeline
from advdmd_ray.runs.needs.compute import COST_VERSION, Network
from advdmd_ray.runs.preflight import check_fit

_NO_MATTER = ("buffer", "evaluation", "metrics", "ray", "scorers", "validation")
"""Sections of the configuration that no student's job reads; the teacher's guidance stands among its model's."""

_REAL_IMAGES = (
    *("path", "image_column", "caption_column", "cache", "most_skipped", "most_upscaling"),
    *("prompts", "teacher_samples", "teacher_steps"),
)
"""Settings of `data` that a judge of thumbnails hangs on: its prompts, and the real images that it compares with."""


def plan_jobs(comparison: Comparison, output: Path) -> tuple[Job, ...]:
    """All jobs: the teacher first, then seed by seed, so that an early table has every rival.

    Learning rates that fall along a run fall along the budget: `run.cycles` becomes the number of cycles in which a run
    with a healthy discriminator spends it.

    Args:
        comparison: What to compare.
        output: Folder of its results.

    Raises:
        UserError: for a rival whose settings are wrong, or whose teacher is another than the first rival's, or a
            headline that the judge does not have.
    """
    jobs = [job for seed in comparison.seeds for job in _jobs_of_seed(comparison, seed, output)]
    first = jobs[0].config
    judge = _judged_by(first)
    for job in jobs:
        other = next((name for name, value in _judged_by(job.config).items() if value != judge[name]), None)
        if other is not None:
            raise UserError(
                f"{comparison.name}: rival {job.rival} has another {other} than rival {jobs[0].rival}; one "
                "comparison has one teacher and one judge: give the other a file of its own"
            )
        if job.config.judged_guidance != first.judged_guidance:
            raise UserError(
                f"{comparison.name}: the teacher is judged once, and rival {job.rival} has guidance "
                f"{job.config.judged_guidance:g} for it, rival {jobs[0].rival} {first.judged_guidance:g}; set "
                "evaluation.teacher_guidance for all of them"
            )
    if comparison.headline is not None:
        _check_headline(comparison, first)
    return (_teacher_job(comparison, jobs[0], output), *jobs)


def _judged_by(config: Config) -> dict[str, Any]:
    """The settings that teacher and judge hang on, by name."""
    model, data = config.model, config.data
    found = {"model.path": model.path, "data.source": data.source, "model.height and model.width": model.pixels}
    if isinstance(source_of(config), PixelSource):  # whose judge is the same for all
        return found
    return found | {f"data.{name}": getattr(data, name) for name in _REAL_IMAGES}


def _check_headline(comparison: Comparison, config: Config) -> None:
    """Makes sure that the judge has the figure to compare by.

    Raises:
        UserError: with those that it has.
    """
    keys = [figure.key for figure in source_of(config).judge().figures]
    if comparison.headline not in keys:
        raise UserError(
            f"{comparison.name}: headline = {comparison.headline!r}: the judge of data.source={config.data.source} has "
            f"{', '.join(keys)}; name one of them"
        )


def _jobs_of_seed(comparison: Comparison, seed: int, output: Path) -> Iterable[Job]:
    """One job of each rival, in their order, so after the one that it starts from."""
    starts = {rival.start for rival in comparison.rivals}
    jobs = dict[str, Job]()
    for rival in comparison.rivals:
        start = None if rival.start is None else jobs[rival.start]
        job = _job(comparison, rival, seed, output, start)
        jobs[rival.name] = replace(job, is_start=rival.name in starts)
    return jobs.values()


def _job(comparison: Comparison, rival: Rival, seed: int, output: Path, start: Job | None) -> Job:
    config = rival_config(comparison, rival, seed, output)
    info = inspect_pipeline(config.model.path, config.model.pixels)
    source = f"{comparison.name}: rival {rival.name}"
    network, budget = Network.of(info), comparison.budget * rival.share
    try:
        trainer = _trainer_of(rival)
        _check_rival(config, info)
        _check_name(config, rival.title)
        check_start(config, start)
        cycles = cycles_of(config, budget, network, start)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    images = {"samples": comparison.judge_samples, "judge_samples": comparison.judge_samples}
    return Job(
        rival=rival.name,
        title=rival.title,
        trainer=rival.trainer,
        settings=resolve(trainer.settings, [Layer(f"{source}: settings", rival.settings)]),
        config=config.model_copy(
            update={
                "run": config.run.model_copy(update={"cycles": cycles}),
                "evaluation": config.evaluation.model_copy(update=images),
            }
        ),
        budget=budget,
        points=comparison.points,
        judge_samples=comparison.judge_samples,
        network=network,
        start=start,
    )


def _trainer_of(rival: Rival) -> type[Trainer]:
    """The rival's trainer.

    Raises:
        UserError: if there is none of that name, or it takes no settings and is given some.
    """
    trainer = trainer_class(rival.trainer)
    if rival.settings and not trainer.settings.model_fields:
        raise UserError(f"trainer {rival.trainer} has no settings of its own; use overrides")
    return trainer


def _check_name(config: Config, title: str) -> None:
    """Makes sure that a figure calls nothing AdvDMD that learns from a reward of the user's own.

    Raises:
        UserError: if it would.
    """
    if config.reward.extra is not None and title.strip().lower() == "advdmd":
        raise UserError(
            f"is called {title!r} and learns from reward.extra={config.reward.extra} too, which is no part of AdvDMD; "
            "give it a label that says so"
        )


def _check_rival(config: Config, info: PipelineInfo) -> None:
    """Refuses what the pipeline does not have or a comparison does not do.

    Raises:
        UserError: says which setting, and what to do.
    """
    check_fit(config, info)
    if config.lora.rank:
        raise UserError(f"lora.rank = {config.lora.rank}: a comparison trains whole networks; set it to 0")
    if config.data.buckets:
        raise UserError("data.buckets: a comparison is of images of one size; set it to []")
    if source_of(config).made_by_workers and config.data.cache is None:
        raise UserError(
            f"a comparison draws no data.source={config.data.source} itself; set data.cache to the folder where "
            "`advdmd run` has drawn them"
        )


def _teacher_job(comparison: Comparison, example: Job, output: Path) -> Job:
    config = example.config
    run = config.run.model_copy(update={"output": str(output), "name": TEACHER})
    return replace(
        example,
        rival=TEACHER,
        title="teacher",
        trainer=NONE,
        settings=NoSettings(),
        config=config.model_copy(update={"run": run}),
        budget=float(len(comparison.teacher_steps)),
        points=len(comparison.teacher_steps),
        teacher_steps=comparison.teacher_steps,
    )


def settings_of(job: Job) -> dict[str, Any]:
    """Everything that a job's results hang on, as JSON has it."""
    return {
        "trainer": job.trainer,
        "revision": 1 if job.trainer == NONE else trainer_class(job.trainer).revision,
        "budget": job.budget,
        "points": job.points,
        "judge_samples": job.judge_samples,
        "judge_seed": JUDGE_SEED,
        "judge_revision": source_of(job.config).judge_revision,
        "teacher_steps": list(job.teacher_steps),
        "teacher": files_digest(inspect_pipeline(job.config.model.path).component("transformer").weight_files),
        "pipeline": _rest_of(job.config.model.path),
        "cost": COST_VERSION,
        "settings": job.settings.model_dump(mode="json"),
        "config": _config_read(job.trainer, job.config),
        "start": None if job.start is None else settings_of(job.start),
    }


def _config_read(trainer: str, config: Config) -> dict[str, Any]:
    """What a job reads of its configuration. The judged teacher's reads little: rivals may change without it."""
    if trainer == NONE:
        read: dict[str, Any] = config.model_dump(mode="json", include={"model", "data"})
        read["model"]["guidance"] = config.judged_guidance
    else:
        read = config.model_dump(mode="json", exclude={*_NO_MATTER, "run"})
        read["run"] = {"seed": config.run.seed}  # its cycles follow from the budget
        if source_of(config).made_by_workers:  # with the teacher's guidance, so the student hangs on it
            read["data"]["guidance"] = config.judged_guidance
    for section, name in Config.settings(Resume.PLACE):
        read.get(section, {}).pop(name, None)
    return read


def claim_settings(jobs: Sequence[Job], wanted: Sequence[Job] | None = None) -> None:
    """Compares the settings of jobs with those that stand in their folders, and writes those that do not stand there.

    Args:
        jobs: All whose results come into the table.
        wanted: Those to do, whose settings are written; None: all.

    Raises:
        UserError: if a folder holds results of other settings; names the first that differs, and nothing is written.
    """
    settings = [(job, settings_of(job)) for job in jobs]
    for job, now in settings:
        _check_settings(job, now)
    folders = {job.folder for job in (jobs if wanted is None else wanted)}
    for job, now in settings:
        if job.folder in folders and not (path := job.folder / SETTINGS).exists():
            write_atomically(path, (json.dumps(now, indent=1) + "\n").encode())


def _check_settings(job: Job, settings: dict[str, Any]) -> None:
    path = job.folder / SETTINGS
    if not path.exists():
        return
    stood = json.loads(path.read_text(encoding="utf-8"))
    unread = {f"config.{section}" for section in (() if job.trainer == NONE else trainer_class(job.trainer).unread)}
    for key, (before, after) in _differences(_with_new_defaults(stood, settings), settings).items():
        if ".".join(_of_a_start(key).split(".")[:2]) in unread:
            continue
        raise UserError(
            f"{job.folder} holds results of other settings: {key} was {_told(key, before)} and is {_told(key, after)}; "
            f"set it back, move that folder away, or give the comparison another name by --name"
        )


def _told(key: str, value: Any) -> str:
    """A setting in a sentence; of a job that another starts from not every setting."""
    another = key.endswith("start") and isinstance(value, dict)
    return "that of another job" if another else repr(value)


def _of_a_start(key: str) -> str:
    """A dotted key without the `start.` of every job that it is behind; all of them have one trainer."""
    while key.startswith("start."):
        key = key.removeprefix("start.")
    return key


def _with_new_defaults(stood: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Stored settings with the defaults of keys that are younger than they.

    Nobody knows the rest of the pipeline where it was not stored: it counts as that of now.
    """
    stood = {"revision": 1, "judge_revision": 1, "pipeline": now["pipeline"], "start": None, **stood}
    if stood["start"] is not None and now["start"] is not None:
        stood["start"] = _with_new_defaults(stood["start"], now["start"])
    # No trainer reads a section that is gone.
    sections = {name: values for name, values in stood["config"].items() if name in Config.model_fields}
    settings = NoSettings if stood["trainer"] == NONE else trainer_class(stood["trainer"]).settings
    stood.setdefault("settings", {} if settings is NoSettings else None)
    try:
        own = stood["settings"] and settings.model_validate(stood["settings"]).model_dump(mode="json")
        return {
            **stood,
            "settings": own,
            "config": _config_read(stood["trainer"], Config.model_validate(sections)),
        }
    except ValidationError:
        return stood  # a key that is gone or a value that is refused now: the difference will be named


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value before, value after) where two trees differ; None stands for a key that is not there."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*before, *after}):
        one, other = before.get(key), after.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found[f"{prefix}{key}"] = (one, other)
    return found


def _rest_of(path: str) -> dict[str, Any]:
    """What a pipeline's scheduler does to levels, and a SHA-256 over the weights of each part but the transformer."""
    info = inspect_pipeline(path)
    others = [part for part in info.components if part.weight_files and part.name != "transformer"]
    levels = {"shift": info.scheduler_shift}
    if info.scheduler_terminal is not None:
        levels["terminal"] = info.scheduler_terminal
    return {**levels, **{part.name: files_digest(part.weight_files) for part in others}}
