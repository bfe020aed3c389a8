"""AdvDMD as a trainer of comparisons."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from advdmd_ray.comparison.rivals import SKIPPED, Trainer
from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner.cadence import measures
from advdmd_ray.runs.needs.compute import Cost, cycle_cost

if TYPE_CHECKING:
    from torch import Tensor

    from advdmd_ray.comparison.job import Job
    from advdmd_ray.learner.checkpoint import Checkpoint


class AdvDmdTrainer(Trainer):
    """AdvDMD and all rivals that are settings of it."""

    revision = 2

    def __init__(self, job: "Job", checkpoint: "Checkpoint | None") -> None:
        from advdmd_ray.comparison.serial import SerialRun
        from advdmd_ray.comparison.signals import Signals

        self._job = job
        self._run = SerialRun(job.config, checkpoint)
        facts = {} if checkpoint is None else checkpoint.facts["controller"]
        self._spent = Cost(**facts.get("spent", {}))
        self._checked = bool(facts.get("ratio_checked", False))
        self._updates: dict[str, int] = dict(facts.get("updates", {}))
        self._skipped = int(facts.get(SKIPPED, 0))
        own = checkpoint is not None and checkpoint.path.is_relative_to(job.folder)  # else of the job it starts from
        self._signals = Signals.of(facts["signals"]) if own and "signals" in facts else Signals()

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
        config, since = self._job.config, self._job.points_due(self._spent.learner)
        size, measured = config.group_size_at(self.version), measures(config, self.version)
        report = self._run.cycle()
        for name, update in report.updates.items():
            self._updates[name] = self._updates.get(name, 0) + update.updates
            self._skipped += update.skipped
        # A resumed learner checks its first ratio again; that is the interruption's cost and not the method's.
        check = not report.plan.policy_gradient and math.isfinite(report.fresh_deviation) and not self._checked
        self._checked = self._checked or math.isfinite(report.fresh_deviation)
        network = self._job.network
        self._spent += cycle_cost(config, report.plan, network, group_size=size, measured=measured, ratio_check=check)
        self._signals = self._signals.then(report, since, rewarded_by=config.rewarded_by)

    def student(self) -> "Mapping[str, Tensor]":
        """See `Trainer`: the EMA."""
        return self._run.learner.ema()

    def notes(self) -> dict[str, Any]:
        """See `Trainer`: means over cycles, the newest AUC, and all updates since the job's beginning."""
        return {"updates": dict(self._updates), SKIPPED: self._skipped, **self._signals.notes()}

    def save(self, facts: Mapping[str, Any]) -> None:
        """See `Trainer`.

        Raises:
            CheckpointError: if the disk refuses.
        """
        own = {"spent": asdict(self._spent), "ratio_checked": self._checked, "signals": asdict(self._signals)}
        outcome = self._run.worker.checkpoint({**facts, **own, "updates": self._updates, SKIPPED: self._skipped})
        if outcome.refused:
            raise CheckpointError(outcome.refused)
