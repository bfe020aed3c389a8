"""The rival TwinFlow: self-adversarial twin trajectories (arXiv 2512.05150), trained by `twin_trajectories.py`."""

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advdmd_ray.comparison.rivals import SKIPPED, Trainer
from advdmd_ray.comparison.twinflow_settings import TwinFlowSettings
from advdmd_ray.config import Config
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.needs.compute import Cost

if TYPE_CHECKING:
    from torch import Tensor

    from advdmd_ray.comparison.job import Job
    from advdmd_ray.learner.checkpoint import Checkpoint

STATE = "twinflow"
"""File stem of the trainer's state in its checkpoints."""


class TwinFlowTrainer(Trainer):
    """TwinFlow, which needs neither actors nor a discriminator."""

    settings = TwinFlowSettings
    revision = 3
    unread = frozenset({"rollout", "reward", "dmd", "fake_score", "discriminator", "policy_gradient", "cadence"})

    def __init__(self, job: "Job", checkpoint: "Checkpoint | None") -> None:
        from advdmd_ray.comparison.twin_trajectories import TwinTrajectories
        from advdmd_ray.data.registry import source_of
        from advdmd_ray.models.families import adapter
        from advdmd_ray.models.folder import inspect_pipeline
        from advdmd_ray.runs.parts.inputs import encode_table, geometry
        from advdmd_ray.runs.parts.micro_batch import a_part, settle
        from advdmd_ray.runs.parts.networks import build_denoiser, learning_copy

        settings = _settings_of(job)
        self._config = config = _scheduled(job, settings)
        table, shapes = encode_table(config), geometry(config)
        teacher = build_denoiser(config, config.learner)
        settle(config, "learner", teacher, a_part(config, teacher, table, shapes.largest.latent_shape))
        family = adapter(inspect_pipeline(config.model.path, config.model.pixels).family)
        self._training = TwinTrajectories(
            config,
            settings,
            family.guided(teacher, table.unconditional, config.model.guidance),
            job.network,
            learning_copy(config, teacher, "student"),
            table,
            source_of(config).real_images(table.texts),
            shapes.largest.sigmas,
            teacher.execution.micro_batch,
        )
        if checkpoint is not None:
            self._training.load_state_dict(checkpoint.load(STATE))
        self._notes: dict[str, Any] = {} if checkpoint is None else checkpoint.facts["controller"].get("notes", {})

    @property
    def spent(self) -> Cost:
        """See `Trainer`."""
        return Cost(rival=float(self._training.forward_equivalents))

    @property
    def version(self) -> int:
        """See `Trainer`: updates."""
        return self._training.updates

    def advance(self) -> None:
        """See `Trainer`: one update."""
        report = self._training.update()
        losses = {name: value if math.isfinite(value) else None for name, value in report.losses.items()}
        self._notes = {
            "losses": losses,
            "gap": report.gap if math.isfinite(report.gap) else None,
            SKIPPED: self._notes.get(SKIPPED, 0) + report.skipped,
        }

    def student(self) -> "Mapping[str, Tensor]":
        """See `Trainer`: the EMA."""
        return self._training.student_state()

    def notes(self) -> dict[str, Any]:
        """See `Trainer`: of the newest update, and how many were skipped so far."""
        return dict(self._notes)

    def save(self, facts: Mapping[str, Any]) -> None:
        """See `Trainer`."""
        from advdmd_ray.learner.checkpoint import save_checkpoint

        save_checkpoint(
            RunFolder(self._config.folder).checkpoints,
            self.version,
            {STATE: self._training.state_dict()},
            {"controller": {**facts, "notes": self._notes}},
            self._config.learner.keep_checkpoints,
        )


def _settings_of(job: "Job") -> TwinFlowSettings:
    if not isinstance(job.settings, TwinFlowSettings):
        raise TypeError(f"{job.name} has the settings of another trainer: {job.settings!r}")
    return job.settings


def _scheduled(job: "Job", settings: TwinFlowSettings) -> Config:
    """The job's configuration with `run.cycles` as the number of updates that spend the budget."""
    from advdmd_ray.comparison.twin_cost import update_cost

    config = job.config
    began = 0 if job.start is None else _scheduled(job.start, _settings_of(job.start)).run.cycles
    warm, later = (update_cost(config, settings, job.network, warm=early) for early in (True, False))
    costs = itertools.chain([warm] * settings.warm_updates, itertools.repeat(later))
    spent = itertools.accumulate(itertools.islice(costs, began, None))
    updates = began + next(count for count, total in enumerate(spent, start=1) if total >= job.own_budget)
    return config.model_copy(update={"run": config.run.model_copy(update={"cycles": updates})})
