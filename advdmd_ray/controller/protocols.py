"""Where the controller's work runs, as protocols: a `Shell` starts tasks, and a hub takes the figures.

`runtime/local.py` implements them in one process, the rest of `runtime/` on Ray.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from advdmd_ray.learner.outcome import CycleReport
from advdmd_ray.metrics.series import Sample
from advdmd_ray.stations.records import GroupInfo, Lease
from advdmd_ray.stations.weights.snapshot import Manifest
from advdmd_ray.stations.weights.store import Published

Reference = Any


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Work under way. `eq=False`: a task is itself, whatever it carries.

    Attributes:
        worker: Name of the worker that does it.
        tickets: What the shell waits for.
        payload: Reference of the bytes the task will have made, if any.
        join: Makes the outcome from the values of all tickets, in their order.
        process: What stands for the process that does it; the name of a worker outlives its process.
    """

    worker: str
    tickets: tuple[Any, ...]
    payload: Reference = None
    join: Callable[[Sequence[Any]], Any] = itemgetter(0)
    process: Any = None


class Shell(Protocol):
    """Where the work runs. Starting a task never blocks; `outcome` raises WorkerLostError for a dead worker.

    The workers that it names are those that there are now: `bring` and `dismiss` add and remove them.
    """

    @property
    def rollout_workers(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def reward_workers(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def prompts(self) -> int:
        """Prompts that rollouts draw from."""
        ...

    def publication(self) -> tuple[tuple[Manifest, Manifest], Reference, Reference]:
        """The learner's present weights: manifests and payloads of student and discriminator. Waits for them."""
        ...

    def coming(self) -> Sequence[Task]:
        """For each worker that it names and that is not up: outcome the name, once it is."""
        ...

    def bring(self, worker: str) -> Task:
        """Ends the process that a name has, if any, and starts another; outcome the name, once it is up."""
        ...

    def dismiss(self, worker: str) -> None:
        """Ends the process that a name has, be it up or not, and forgets the name."""
        ...

    def restart(self, checkpoint: Path | None) -> None:
        """Ends what is left of the learner's gang, and starts another. Waits until it is up.

        All tasks under way are forgotten, and workers let go of the groups that they have at hand.

        Args:
            checkpoint: Where it goes on from; None: from the teacher.

        Raises:
            WorkerLostError: if a rank dies on the way.
            DeadlineError: if it does not come up in time.
        """
        ...

    def ping(self, worker: str) -> Task:
        """Asks a worker whether it lives, beside its work, and the learner when it has none; outcome its name."""
        ...

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        """Starts a rollout; outcome (WorkReport, None): its group stays with the worker until it is handed over.

        Where nothing can go on meanwhile it is handed over at once: outcome (WorkReport, that of handing over), payload
        the group.
        """
        ...

    def hand_over(self, generated: Task, lease: Lease) -> Task:
        """Starts bringing the group of a done rollout to the others; outcome WorkReport, payload the group."""
        ...

    def score(self, worker: str, group: Reference, discriminator: Published) -> Task:
        """Starts scoring; outcome (WorkReport, GroupInfo), payload the group and its scores."""
        ...

    def batches(self, payload: Reference) -> tuple[pa.RecordBatch, ...]:
        """The record batches of a payload of `hand_over` or `score`, in this process: for the quarantine. Waits.

        Raises:
            WorkerLostError: if they are gone.
            DeadlineError: if they do not come in time.
        """
        ...

    def fetch(self, groups: Sequence[tuple[GroupInfo, Reference]]) -> Task:
        """Starts bringing the bytes of a cycle to the learner; outcome the ordinals whose bytes are gone, ascending."""
        ...

    def cycle(self, infos: Sequence[GroupInfo]) -> Task:
        """Starts a cycle on the groups fetched last; outcome CycleOutcome, payload (student, discriminator) bytes."""
        ...

    def checkpoint(self, facts: Mapping[str, Any]) -> Task:
        """Starts writing a checkpoint; outcome CheckpointOutcome."""
        ...

    def grid(self) -> Task:
        """Starts a sample grid of the EMA student; outcome its path as text."""
        ...

    def judge(self) -> Task:
        """Starts a judgement of the EMA student; outcome Judgement."""
        ...

    def validate(self) -> Task:
        """Starts drawing and scoring the validation prompts with the EMA student; outcome Validated."""
        ...

    def wait(self, timeout_s: float) -> list[Task]:
        """The tasks that were done since the last call, each once, waiting at most `timeout_s` for the first."""
        ...

    def outcome(self, task: Task) -> Any:
        """The result of a done task."""
        ...


class Hub(Protocol):
    """`MetricsHub`, here or behind an actor."""

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Status:
    """What a progress display shows; refreshed several times a second.

    Attributes:
        remaining_s: None before the first cycle of this process has ended: nothing says how long one takes.
        waiting_for: What the run waits for; empty when the loops are over.
        over: Whether the loops are.
    """

    version: int
    cycles: int
    elapsed_s: float
    remaining_s: float | None
    report: CycleReport | None
    policy_age: int
    trajectories_per_s: float
    updates: Mapping[str, int]
    waiting_for: str
    reward_hacking: bool = False
    start: str = ""
    over: bool = False
