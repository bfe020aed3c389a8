"""The learners of a comparison behind one protocol: what is spent, the next step of work, the student, the way back."""

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Protocol

from torch import Tensor

from advdmd_ray.comparison.plan import Job
from advdmd_ray.comparison.serial import SerialRun
from advdmd_ray.comparison.signals import Signals
from advdmd_ray.comparison.twinflow import TwinFlowTrainer, update_cost
from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.checkpoint import Checkpoint, save_checkpoint
from advdmd_ray.learner.outcome import CycleReport
from advdmd_ray.models.families import adapter
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.needs.compute import Cost, cycle_cost
from advdmd_ray.runs.parts.inputs import encode_table, geometry
from advdmd_ray.runs.parts.networks import build_denoiser

TWINFLOW = "twinflow"
"""File stem of the rival trainer's state in its checkpoints."""


class Trainer(Protocol):
    """One learner at work on one job."""

    @property
    def spent(self) -> Cost:
        """Forward-equivalents since the job's beginning."""
        ...

    @property
    def version(self) -> int:
        """Steps of work made."""
        ...

    def advance(self) -> None:
        """Makes the next step of work, the smallest that leaves a whole state."""
        ...

    def student(self) -> Mapping[str, Tensor]:
        """The weights to judge, by the names of a `TransformerDenoiser`."""
        ...

    def notes(self) -> dict[str, Any]:
        """Figures of the work since the judgement before that explain the next one, as JSON has them.

        A resumed job has those of the job that was left.
        """
        ...

    def save(self, facts: Mapping[str, Any]) -> None:
        """Writes a checkpoint that also holds the runner's facts."""
        ...


class AdvDmdTrainer:
    """AdvDMD and all rivals that are settings of it."""

    def __init__(self, job: Job, checkpoint: Checkpoint | None) -> None:
        self._job = job
        self._run = SerialRun(job.config, checkpoint)
        facts = {} if checkpoint is None else checkpoint.facts["controller"]
        self._spent = Cost(**facts.get("spent", {}))
        self._checked = bool(facts.get("ratio_checked", False))
        self._updates: dict[str, int] = dict(facts.get("updates", {}))
        self._signals = Signals.of(facts["signals"]) if "signals" in facts else Signals()

    @property
    def spent(self) -> Cost:
        """See `Trainer`."""
        return self._spent

    @property
    def version(self) -> int:
        """See `Trainer`: cycles."""
        return self._run.version

    def advance(self) -> None:
        """See `Trainer`: one cycle."""
        since, size = self._job.points_due(self._spent.learner), self._job.config.group_size_at(self.version)
        report = self._run.cycle()
        for name, update in report.updates.items():
            self._updates[name] = self._updates.get(name, 0) + update.updates
        # A resumed learner checks its first ratio again; that is the interruption's cost and not the method's.
        check = not report.plan.policy_gradient and math.isfinite(report.fresh_deviation) and not self._checked
        self._checked = self._checked or math.isfinite(report.fresh_deviation)
        made = made_plan(report)
        self._spent += cycle_cost(self._job.config, made, self._job.network, group_size=size, ratio_check=check)
        turned = report if made.policy_gradient else replace(report, policy=None)
        self._signals = self._signals.then(turned, since, rewarded_by=self._job.config.rewarded_by)

    def student(self) -> Mapping[str, Tensor]:
        """See `Trainer`: the EMA."""
        return self._run.learner.ema()

    def notes(self) -> dict[str, Any]:
        """See `Trainer`: means over cycles, the newest AUC, and all updates since the job's beginning."""
        return {"updates": dict(self._updates), **self._signals.notes()}

    def save(self, facts: Mapping[str, Any]) -> None:
        """See `Trainer`."""
        own = {"spent": asdict(self._spent), "ratio_checked": self._checked, "updates": self._updates}
        self._run.worker.checkpoint({**facts, **own, "signals": asdict(self._signals)})


def made_plan(report: CycleReport) -> CyclePlan:
    """The cycle's plan as it was carried out: an RL turn without any advantage makes no update and runs no network."""
    turn = report.updates.get("rl")
    blind = turn is not None and turn.updates + turn.skipped == 0
    return replace(report.plan, policy_gradient=0) if blind else report.plan


class TwinFlowRival:
    """TwinFlow, which needs neither actors nor a discriminator."""

    def __init__(self, job: Job, checkpoint: Checkpoint | None) -> None:
        self._config = config = _scheduled(job)
        table, teacher = encode_table(config), build_denoiser(config, config.learner)
        student = copy.deepcopy(teacher).requires_grad_(requires_grad=True)
        teacher.requires_grad_(requires_grad=False)
        family = adapter(inspect_pipeline(config.model.path, config.model.pixels).family)
        self._trainer = TwinFlowTrainer(
            config,
            family.guided(teacher, table.unconditional, config.model.guidance),
            job.network,
            student,
            table,
            source_of(config).real_images(table.texts),
            geometry(config).sigmas,
        )
        if checkpoint is not None:
            self._trainer.load_state_dict(checkpoint.load(TWINFLOW))
        self._notes: dict[str, Any] = {} if checkpoint is None else checkpoint.facts["controller"].get("notes", {})

    @property
    def spent(self) -> Cost:
        """See `Trainer`."""
        return Cost(twinflow=float(self._trainer.forward_equivalents))

    @property
    def version(self) -> int:
        """See `Trainer`: updates."""
        return self._trainer.updates

    def advance(self) -> None:
        """See `Trainer`: one update."""
        report = self._trainer.update()
        losses = {name: value if math.isfinite(value) else None for name, value in report.losses.items()}
        self._notes = {"losses": losses, "gap": report.gap if math.isfinite(report.gap) else None}

    def student(self) -> Mapping[str, Tensor]:
        """See `Trainer`: the EMA."""
        return self._trainer.student_state()

    def notes(self) -> dict[str, Any]:
        """See `Trainer`: of the newest update alone."""
        return dict(self._notes)

    def save(self, facts: Mapping[str, Any]) -> None:
        """See `Trainer`."""
        save_checkpoint(
            RunFolder(self._config.folder).checkpoints,
            self.version,
            {TWINFLOW: self._trainer.state_dict()},
            {"controller": {**facts, "notes": self._notes}},
            self._config.learner.keep_checkpoints,
        )


def _scheduled(job: Job) -> Config:
    """The job's configuration with `run.cycles` as the number of updates that spend the budget."""
    config = job.config
    warm, later = (update_cost(config, job.network, warm=early) for early in (True, False))
    spent = itertools.accumulate(itertools.chain([warm] * config.twinflow.warm_updates, itertools.repeat(later)))
    updates = next(count for count, total in enumerate(spent, start=1) if total >= job.budget)
    return config.model_copy(update={"run": config.run.model_copy(update={"cycles": updates})})


def build_trainer(job: Job, checkpoint: Checkpoint | None) -> Trainer:
    """The learner that the job names."""
    return TwinFlowRival(job, checkpoint) if job.trainer == "twinflow" else AdvDmdTrainer(job, checkpoint)
