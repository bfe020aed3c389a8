"""A shell in virtual time: every task takes the seconds that its role costs, and waiting jumps to the next end of one.

The controller over it is the real one, with its leases, caps and deadlines, so what it does here is what it would do
with workers of these costs. No tensor is made and nothing sleeps: an hour of a thousand workers passes in seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Reference, Task
from advdmd_ray.controller.staff import worker_names
from advdmd_ray.controller.telemetry import LEARNER
from advdmd_ray.evaluation.judges.contract import Judgement, JudgeScore
from advdmd_ray.evaluation.validation import Validated
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.outcome import CheckpointOutcome, CycleOutcome, CycleReport
from advdmd_ray.planning.timeline import Timeline
from advdmd_ray.runs.needs.sharing import Split
from advdmd_ray.stations.records import GroupInfo, Lease, LoadReport, WorkReport
from advdmd_ray.stations.rollout import sample_seeds
from advdmd_ray.stations.weights.snapshot import Manifest
from advdmd_ray.stations.weights.store import Published


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that each kind of work takes.

    Attributes:
        generate: One group, by the network of a rollout actor.
        hand_over: Bringing it out of the actor, whose network may have the next one meanwhile.
        score: One group, on a reward worker.
        load: The newest weights, on a worker that has others; added to its next work.
        fetch: Bringing the groups of a cycle to the learner.
        cycle: One learner cycle, publishing included.
        checkpoint: Writing one.
        grid: Drawing one.
        judge: One judgement while the student learns.
        spread: Half the relative width of the uniform distribution that each of these is the mean of, in [0, 1).
        alone: Whether generating and scoring are those of a worker that has its GPU to itself, so that workers that
            share one slow each other.

    Raises:
        ValueError: for a negative number, or a spread of 1 or more.
    """

    generate: float
    score: float
    cycle: float
    hand_over: float = 0.0
    load: float = 0.0
    fetch: float = 0.0
    checkpoint: float = 0.0
    grid: float = 0.0
    judge: float = 0.0
    spread: float = 0.0
    alone: bool = False

    def __post_init__(self) -> None:
        if min(self.seconds) < 0 or not 0 <= self.spread < 1:
            raise ValueError(f"costs are seconds, 0 or more, and spread lies in [0, 1), got {self}")

    @property
    def seconds(self) -> tuple[float, ...]:
        """All that are seconds, in their order."""
        return astuple(self)[:-2]


class VirtualClock:
    """Seconds that pass when the shell waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


class VirtualShell:
    """`Shell` whose workers take time and do nothing else.

    Args:
        config: The numbers of workers, the size of a group and the groups of a cycle.
        costs: What the work takes.
        clock: Moved by `wait`.
        group_bytes: Size of a scored group.
        seed: Of the draws within `costs.spread`.
        prompts: Prompts that rollouts draw from.
    """

    def __init__(
        self,
        config: Config,
        costs: Costs,
        clock: VirtualClock,
        *,
        group_bytes: int,
        seed: int = 0,
        prompts: int = 1000,
    ) -> None:
        self._config, self._costs, self._clock, self._group_bytes = config, costs, clock, group_bytes
        self._random = Random(seed)  # noqa: S311 - draws of durations keep no secret
        self.prompts = prompts
        self.rollout_workers = worker_names("rollout", config.rollout.actors)
        self.reward_workers = worker_names("reward", config.reward.workers)
        self._version = 0
        self._running: dict[str, int] = {}
        self._outcomes: dict[Task, Any] = {}
        self._timeline = Timeline[Task]()
        self._cards = Split.of(config).cards(self.rollout_workers, self.reward_workers) if costs.alone else {}

    def publication(self) -> tuple[tuple[Manifest, Manifest], Reference, Reference]:
        """See `Shell`."""
        return virtual_manifests(0), None, None

    def coming(self) -> tuple[Task, ...]:
        """See `Shell`; all are up."""
        return ()

    def bring(self, worker: str) -> Task:
        """See `Shell`; at once. What is planned has the workers that it began with."""
        return self._start(worker, 0.0, worker)

    def dismiss(self, worker: str) -> None:
        """See `Shell`.

        Raises:
            ValueError: always: what is planned keeps its workers.
        """
        raise ValueError(f"{worker} stays as long as the plan")

    def restart(self, checkpoint: Path | None) -> None:
        """See `Shell`.

        Raises:
            ValueError: always: what is planned loses no gang.
        """
        raise ValueError(f"no gang is lost in a plan, which has no {checkpoint}")

    def ping(self, worker: str) -> Task:
        """See `Shell`; nobody hangs."""
        return self._start(worker, 0.0, worker)

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:  # noqa: ARG002 - it takes time only
        """See `Shell`."""
        load = self._load(worker, student.manifest)
        seconds, before = self._draw(self._costs.generate), 0.0 if load is None else self._draw(self._costs.load)
        return self._start(worker, seconds, (WorkReport(worker, seconds + before, load, 0), None), None, before)

    def hand_over(self, generated: Task, lease: Lease) -> Task:
        """See `Shell`. It takes no turn on a card."""
        seconds = self._draw(self._costs.hand_over)
        return self._start(generated.worker, 0.0, WorkReport(generated.worker, seconds, None, 0), lease, seconds)

    def score(self, worker: str, group: Reference, discriminator: Published) -> Task:
        """See `Shell`."""
        load, version = self._load(worker, discriminator.manifest), discriminator.manifest.version
        seconds, before = self._draw(self._costs.score), 0.0 if load is None else self._draw(self._costs.load)
        lease: Lease = group
        info = GroupInfo(
            ordinal=lease.ordinal,
            prompt_id=lease.prompt_id,
            seed=sample_seeds(lease.seed, 1)[0],
            samples=self._config.group_size_of(lease.ordinal),
            policy_version=lease.policy_version,
            reward_version=version,
            size_bytes=self._group_bytes,
            reward_mean=(0.0,),
            reward_m2=(0.0,),
        )
        return self._start(worker, seconds, (WorkReport(worker, seconds + before, load, 0), info), lease, before)

    def batches(self, payload: Reference) -> tuple[pa.RecordBatch, ...]:  # noqa: ARG002 - there are no values
        """See `Shell`."""
        return ()

    def fetch(self, groups: Sequence[tuple[GroupInfo, Reference]]) -> Task:  # noqa: ARG002 - they take time only
        """See `Shell`; no bytes are ever gone."""
        return self._start(LEARNER, self._draw(self._costs.fetch), ())

    def cycle(self, infos: Sequence[GroupInfo]) -> Task:
        """See `Shell`."""
        seconds = self._draw(self._costs.cycle)
        self._version += 1
        return self._start(LEARNER, seconds, virtual_cycle(self._version, infos, seconds), (None, None))

    def checkpoint(self, facts: Mapping[str, Any]) -> Task:  # noqa: ARG002 - nothing is written
        """See `Shell`."""
        return self._start(LEARNER, self._draw(self._costs.checkpoint), CheckpointOutcome(f"version {self._version}"))

    def grid(self) -> Task:
        """See `Shell`."""
        return self._start(LEARNER, self._draw(self._costs.grid), f"version {self._version}")

    def judge(self) -> Task:
        """See `Shell`."""
        return self._start(LEARNER, self._draw(self._costs.judge), Judgement(JudgeScore({}, 0), 0.0))

    def validate(self) -> Task:
        """See `Shell`; it takes what a grid takes."""
        return self._start(LEARNER, self._draw(self._costs.grid), Validated())

    def wait(self, timeout_s: float) -> list[Task]:
        """See `Shell`: moves the clock to the next end of a task, and at most by `timeout_s`."""
        now = self._clock.now
        self._clock.now, done = self._timeline.ended(now, now + timeout_s)
        return done

    def outcome(self, task: Task) -> Any:
        """See `Shell`."""
        return self._outcomes.pop(task)

    def _start(self, worker: str, seconds: float, outcome: Any, payload: Reference = None, before: float = 0.0) -> Task:
        task = Task(worker, (), payload)
        self._outcomes[task] = outcome
        card = self._cards.get(worker) if seconds else None
        self._timeline.start(self._clock.now, seconds, task, before=before, card=card)
        return task

    def _load(self, worker: str, manifest: Manifest) -> LoadReport | None:
        if self._running.get(worker) == manifest.version:
            return None
        self._running[worker] = manifest.version
        return LoadReport(worker, manifest.stream, manifest.version, manifest.digest)

    def _draw(self, mean: float) -> float:
        return mean * self._random.uniform(1 - self._costs.spread, 1 + self._costs.spread)


def virtual_cycle(version: int, infos: Sequence[GroupInfo], seconds: float) -> CycleOutcome:
    """What a learner says that took so long and learned nothing."""
    report = CycleReport(
        version=version,
        plan=CyclePlan("full", 0, 0, 0, 0),
        updates={},
        auc=(0.5,),
        smoothed_auc=(0.5,),
        open_levels=(True,),
        reward_mean=(0.0,),
        reward_spread=(0.0,),
        policy=None,
        fresh_deviation=0.0,
        trajectories=sum(info.samples for info in infos),
        seconds=seconds,
    )
    return CycleOutcome(report, *virtual_manifests(version), resident_bytes=0)


def virtual_manifests(version: int) -> tuple[Manifest, Manifest]:
    """Those of a student and a discriminator without tensors."""
    return Manifest("student", version, None, ()), Manifest("discriminator", version, None, ())
