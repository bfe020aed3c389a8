"""A shell without workers: tasks finish, hang or die as a test says, on a clock that only waiting moves."""

import copy
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import torch

from advdmd_ray.config import Config
from advdmd_ray.config.scorers import scorer_word
from advdmd_ray.controller.frontier import PromptFrontier, lease_limit
from advdmd_ray.controller.loop import Controller
from advdmd_ray.controller.protocols import Reference, Status, Task
from advdmd_ray.controller.staff import Staff, role_of, worker_names
from advdmd_ray.errors import WorkerLostError
from advdmd_ray.evaluation.judges.contract import Judgement, JudgeScore
from advdmd_ray.evaluation.validation import Validated
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.outcome import CheckpointOutcome, CycleOutcome, CycleReport, UpdateReport
from advdmd_ray.metrics.series import Sample
from advdmd_ray.stations.buffer.index import BufferIndex
from advdmd_ray.stations.buffer.quarantined import Quarantined
from advdmd_ray.stations.records import GroupInfo, Lease, LoadReport, Stream, WorkReport
from advdmd_ray.stations.rollout import sample_seeds
from advdmd_ray.stations.weights.snapshot import Manifest, pack
from advdmd_ray.stations.weights.store import Published, WeightStore

GROUP_BYTES, RESIDENT = 2**14, 2**20
MOST_IN_A_ROW = 2
"""Losses of one worker by chance: nobody gives it up for bad luck."""


@lru_cache(maxsize=256)
def manifest(stream: Stream, version: int) -> Manifest:
    """That of a version; no two have the same digest."""
    return pack(stream, version, {"w": torch.tensor(float(version))}).manifest


def cycle_report(
    version: int,
    *,
    loss: float = 0.5,
    reward: float = 0.0,
    trajectories: int = 8,
    rl: bool = False,
    is_open: bool = True,
) -> CycleReport:
    """What a cycle with one DMD update says, and one of RL."""
    turns = {"rl": UpdateReport(1, 0, 0.1, 0.1, 1.0)} if rl else {}
    return CycleReport(
        version=version,
        plan=CyclePlan("warm", 1, 1, 1, 0),
        updates={**turns, "dmd": UpdateReport(1, 0, loss, 1.0, 1.0)},
        auc=(0.6,),
        smoothed_auc=(0.6,),
        open_levels=(is_open,),
        reward_mean=(reward,),
        reward_spread=(1.0,),
        policy=None,
        fresh_deviation=0.0,
        trajectories=trajectories,
        seconds=1.0,
    )


class Clock:
    """Seconds that pass when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class RecordingHub:
    """Keeps every sample."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        self.samples.extend(samples)

    def total(self, name: str, **labels: str) -> float:
        """Sum over the samples of a series that have these labels."""
        wanted = set(labels.items())
        return sum(sample.value for sample in self.samples if sample.name == name and wanted <= set(sample.labels))


class RecordingFolder:
    """A quarantine without a disk."""

    def __init__(self) -> None:
        self.files: list[Quarantined] = []

    def keep(self, kept: Quarantined) -> Path | None:
        self.files.append(kept)
        return Path(f"{kept.lease.ordinal}.arrow")


class PlannedWishes:
    """An owner who asks for numbers of workers at times that are planned, and checks what is said of them.

    Args:
        clock: Of the run.
        plan: When, and what.
    """

    def __init__(self, clock: Clock, plan: Sequence[tuple[float, Mapping[str, int]]] = ()) -> None:
        self._clock, self._plan = clock, tuple(plan)
        self.told: list[tuple[float, dict[str, Staff]]] = []

    def wanted(self) -> dict[str, int]:
        """See `Wishes`."""
        due = [wish for at, wish in self._plan if at <= self._clock.now]
        return {role: count for wish in due for role, count in wish.items()}

    def tell(self, staff: Mapping[str, Staff]) -> None:
        """See `Wishes`."""
        assert all(each.up + each.coming == each.asked >= 1 for each in staff.values())
        self.told.append((self._clock.now, dict(staff)))


class FakeShell:
    """Takes the controller's tasks, checks each against the laws, and ends them in an order drawn by the test.

    Args:
        config: The run.
        clock: Moved by waiting.
        random: Decides what ends when; None: the oldest task first, one by one.
        lose: Probability that a rollout or reward task ends with the loss of its worker.
        hang: Workers whose tasks never end, and that do not answer.
        stuck: Workers whose tasks never end, though they answer.
        bring_s: Seconds until a process is up.
        late: Workers that are not up when the loops begin, and the seconds until they are.
        dead: Workers whose every task ends with their loss.
        judge: What the judge says of a version: its headline.
        reward: Mean reward of the final level in the cycle that makes a version.
        rl_from: First version whose cycle has an RL turn; infinite: none has.
        open_from: First version whose cycle has its level open to RL.
        loss: Loss of that cycle.
        cycle_s: Seconds of a learner cycle.
        rollout_s: Seconds of a rollout.
        hand_over_s: Seconds in which its group is handed over; None: at once, by the same task.
        faulty: Whether the values of a lease's group are not finite, and the name of the worker that finds it.
        deadly: Whether the work of a lease ends its process: that of the rollout.
        refusals: Checkpoints that the disk refuses first.
        gone: Probability that the bytes of a group are gone when the learner first fetches them.
        stopped: A kind of worker, when its processes are stopped, and for how many seconds: their work goes on after.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        random: Random | None = None,
        lose: float = 0.0,
        hang: Sequence[str] = (),
        stuck: Sequence[str] = (),
        bring_s: float = 1.0,
        late: Mapping[str, float] | None = None,
        dead: Sequence[str] = (),
        judge: Callable[[int], float] = lambda _: 0.0,
        reward: Callable[[int], float] = lambda _: 0.0,
        rl_from: float = math.inf,
        open_from: float = 0,
        loss: Callable[[int], float] = lambda _: 0.5,
        cycle_s: float = 1.0,
        rollout_s: float = 1.0,
        hand_over_s: float | None = None,
        faulty: Callable[[Lease, str], bool] = lambda *_: False,
        deadly: Callable[[Lease], bool] = lambda _: False,
        refusals: int = 0,
        gone: float = 0.0,
        stopped: tuple[str, float, float] = ("", 0.0, 0.0),
    ) -> None:
        self._gone, self._stopped, self.refusals = gone, stopped, refusals
        self._stuck, self._bring_s, self._late = tuple(stuck), bring_s, dict(late or {})
        self.dismissed: list[tuple[float, str]] = []
        self._comings: set[Task] = set()
        self._pings: set[Task] = set()
        self.pinged: list[str] = []
        self.replaced: list[str] = []
        self._in_a_row: Counter[str] = Counter()
        self._fetched: tuple[int, ...] = ()
        self._faulty, self._deadly = faulty, deadly
        self._judge, self._reward, self._loss = judge, reward, loss
        self._rl_from, self._open_from = rl_from, open_from
        self.config, self.clock = config, clock
        self._random, self._lose, self._hang, self._dead, self._cycle_s = (
            random,
            lose,
            tuple(hang),
            tuple(dead),
            cycle_s,
        )
        self._named = {
            "rollout": worker_names("rollout", config.rollout.actors),
            "reward": worker_names("reward", config.reward.workers),
        }
        self._rollout_s, self._hand_over_s = rollout_s, hand_over_s
        self._ended: set[object] = set()
        self._processes = {worker: object() for worker in (*self.rollout_workers, *self.reward_workers)}
        self.at_hand: dict[str, set[Lease]] = {worker: set() for worker in self.rollout_workers}
        self._generates: dict[Task, Lease] = {}
        self._handing_over: dict[Task, Lease] = {}
        self.version = 0
        self._outcomes: dict[Task, Any] = {}
        self._ready_at: dict[Task, float] = {}
        self._running: dict[str, tuple[Stream, int]] = {}
        self.busy: set[str] = set()
        self.leases: list[Lease] = []
        self.given: list[tuple[float, str]] = []  # when, and to whom
        self.cycles: list[tuple[int, ...]] = []
        self.gone: list[int] = []
        self.ages: list[int] = []
        self.brought: list[Lease] = []
        self.checkpoints: list[int] = []
        self.facts: list[dict[str, Any]] = []
        self.grids: list[int] = []
        self.judged: list[int] = []
        self.validated: list[int] = []
        self.most_busy = self.deaths = 0
        self.scored = 0
        self.before_lease: Callable[[Lease], None] = lambda _: None

    def _start(self, worker: str, outcome: Any, payload: Reference = None, seconds: float = 1.0) -> Task:
        assert worker not in self.busy, f"{worker} has a task already"
        self.busy.add(worker)
        return self._watched(Task(worker, (), payload, process=self._processes.get(worker)), outcome, seconds)

    def _watched(self, task: Task, outcome: Any, seconds: float) -> Task:
        self._outcomes[task] = outcome
        self._ready_at[task] = self.clock.now + seconds + self._stands(task.worker, self.clock.now, seconds)
        return task

    def _stands(self, worker: str, began: float, seconds: float) -> float:
        """Seconds that work stands still because its process is stopped."""
        kind, at, lasts = self._stopped
        if worker in self.replaced:
            return 0.0  # the process that is stopped is the first
        if not worker.startswith(kind) or not began < at + lasts or began + seconds <= at:
            return 0.0
        return at + lasts - max(began, at)

    def _load(self, worker: str, snapshot: Published) -> LoadReport | None:
        running = (snapshot.manifest.stream, snapshot.manifest.version)
        if self._running.get(worker) == running:
            return None
        self._running[worker] = running
        return LoadReport(worker, *running, snapshot.manifest.digest)

    @property
    def prompts(self) -> int:
        return 10

    def publication(self) -> tuple[tuple[Manifest, Manifest], Reference, Reference]:
        return (manifest("student", 0), manifest("discriminator", 0)), b"student", b"discriminator"

    @property
    def rollout_workers(self) -> tuple[str, ...]:
        return self._named["rollout"]

    @property
    def reward_workers(self) -> tuple[str, ...]:
        return self._named["reward"]

    def coming(self) -> list[Task]:
        return [self._comes(worker, seconds) for worker, seconds in self._late.items()]

    def _comes(self, worker: str, seconds: float) -> Task:
        task = self._watched(Task(worker, (), process=self._processes[worker]), worker, seconds)
        self._comings.add(task)
        return task

    def bring(self, worker: str) -> Task:
        role = role_of(worker)
        if worker in self._named[role]:
            self.replaced.append(worker)
            self.ends(worker, self._processes[worker])
        else:
            self._named[role] += (worker,)
        self._processes[worker] = object()
        self.busy.discard(worker)
        if role == "rollout":
            self.at_hand[worker] = set()
        return self._comes(worker, self._bring_s)

    def dismiss(self, worker: str) -> None:
        role, process = role_of(worker), self._processes[worker]
        self._named[role] = tuple(name for name in self._named[role] if name != worker)
        self.dismissed.append((self.clock.now, worker))
        if worker in self.busy or self.at_hand.get(worker):
            self.ends(worker, process)  # it was given up
        self._ended.add(process)
        self.busy.discard(worker)
        self._running.pop(worker, None)
        self._in_a_row.pop(worker, None)
        self.at_hand.pop(worker, None)
        del self._processes[worker]
        for task in self._outcomes:
            if task.process is process:
                self._ready_at[task] = self.clock.now

    def ping(self, worker: str) -> Task:
        self.pinged.append(worker)
        task = self._watched(Task(worker, (), process=self._processes.get(worker)), worker, 0.0)
        self._pings.add(task)
        return task

    def _never(self, task: Task) -> bool:
        """Whether a task of a process that lives never ends."""
        if task.process is not self._processes.get(task.worker):
            return False
        return task not in self._comings and (
            task.worker in self._hang or (task.worker in self._stuck and task not in self._pings)
        )

    def restart(self, checkpoint: Path | None) -> None:
        raise AssertionError(f"the controller starts no gang, from {checkpoint} or otherwise: `Training` does")

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        assert not any(task.process is self._processes[worker] for task in self._comings), f"{worker} is not up yet"
        rollout = self.config.rollout
        assert student.manifest.version == lease.policy_version == self.version
        assert lease.ordinal < lease_limit(self.version, rollout.groups_per_cycle, rollout.max_policy_age)
        assert lease.ordinal < self.config.run.cycles * rollout.groups_per_cycle
        self.before_lease(lease)
        self.leases.append(lease)
        self.given.append((self.clock.now, worker))
        self.at_hand[worker].add(lease)
        assert len(self.at_hand[worker]) <= rollout.leases, f"{worker} has {self.at_hand[worker]} at hand"
        report = WorkReport(worker, 1.0, self._load(worker, student), RESIDENT)
        if self._hand_over_s is None:
            at_once = WorkReport(worker, 0.0, None, RESIDENT, self._fault(lease, worker))
            task = self._start(worker, (report, at_once), ("group", lease), self._rollout_s)
        else:
            task = self._start(worker, (report, None), seconds=self._rollout_s)
        self._generates[task] = lease
        self.most_busy = max(self.most_busy, len(self.busy & set(self.rollout_workers)))
        return task

    def hand_over(self, generated: Task, lease: Lease) -> Task:
        assert self._hand_over_s is not None, "a group that was handed over at once is not asked for again"
        assert lease in self.at_hand[generated.worker], "an actor can only hand over what it has"
        fault = self._fault(lease, generated.worker)
        report = WorkReport(generated.worker, self._hand_over_s, None, RESIDENT, fault)
        task = Task(generated.worker, (), ("group", lease), process=generated.process)
        self._handing_over[task] = lease
        return self._watched(task, report, self._hand_over_s)

    def score(self, worker: str, group: Reference, discriminator: Published) -> Task:
        kind, lease = group
        assert kind == "group"
        assert not self._fault(lease, "rollout"), "a group that is not finite is not scored"
        self.scored += 1
        info = GroupInfo(
            lease.ordinal,
            lease.prompt_id,
            sample_seeds(lease.seed, 1)[0],
            4,
            lease.policy_version,
            discriminator.manifest.version,
            GROUP_BYTES,
            (0.0,),
            (1.0,),
        )
        return self._start(
            worker,
            (
                WorkReport(worker, 1.0, self._load(worker, discriminator), RESIDENT, self._fault(lease, worker)),
                info,
            ),
            ("scored", lease),
        )

    def _fault(self, lease: Lease, worker: str) -> str:
        return "latents: contains NaN" if self._faulty(lease, worker) else ""

    def batches(self, payload: Reference) -> tuple[pa.RecordBatch, ...]:
        kind, lease = payload
        assert kind in {"group", "scored"}
        self.brought.append(lease)
        return ()

    def fetch(self, groups: Sequence[tuple[GroupInfo, Reference]]) -> Task:
        ordinals = tuple(info.ordinal for info, _ in groups)
        assert all(reference == ("scored", reference[1]) for _, reference in groups)
        lost = tuple(o for o in ordinals if o not in self.gone and self.draws_loss())
        self.gone.extend(lost)
        self._fetched = () if lost else ordinals
        return self._start("learner", lost, seconds=0.0)

    def draws_loss(self) -> bool:
        return self._random is not None and self._random.random() < self._gone

    def cycle(self, infos: Sequence[GroupInfo]) -> Task:
        assert self._fetched == tuple(info.ordinal for info in infos), "a cycle is of groups that were fetched"
        self._fetched = ()
        self.cycles.append(tuple(info.ordinal for info in infos))
        self.ages.extend(self.version - info.policy_version for info in infos)
        version = self.version + 1
        report = cycle_report(
            version,
            loss=self._loss(version),
            reward=self._reward(version),
            trajectories=4 * len(infos),
            rl=version >= self._rl_from,
            is_open=version >= self._open_from,
        )
        outcome = CycleOutcome(report, manifest("student", version), manifest("discriminator", version), RESIDENT)
        return self._start("learner", outcome, (b"student", b"discriminator"), self._cycle_s)

    def checkpoint(self, facts: Mapping[str, Any]) -> Task:
        if self.refusals:
            self.refusals -= 1
            return self._start(
                "learner", CheckpointOutcome(refused=f"step-{self.version} could not be saved: disk full")
            )
        self.checkpoints.append(self.version)
        self.facts.append(copy.deepcopy(dict(facts)))
        return self._start("learner", CheckpointOutcome(f"step-{self.version}"))

    def grid(self) -> Task:
        self.grids.append(self.version)
        return self._start("learner", f"version-{self.version}.png")

    def judge(self) -> Task:
        self.judged.append(self.version)
        headline = self._judge(self.version)
        return self._start("learner", Judgement(JudgeScore({"quality": 2 * headline}, 20), headline))

    def validate(self) -> Task:
        self.validated.append(self.version)
        scores = {scorer_word(name): self._judge(self.version) for name in self.config.scorers.names}
        return self._start("learner", Validated(scores))

    def wait(self, timeout_s: float) -> list[Task]:
        assert self._outcomes, "there is something to wait for"
        assert self.clock.now < 3e3, "the run never ends"
        ready = [task for task in self._outcomes if not self._never(task) and self._ready_at[task] <= self.clock.now]
        if self._random is None:
            ready = ready[:1]
        elif ready:
            ready = self._random.sample(ready, self._random.randint(0, len(ready)))
        if not ready:
            self.clock.now += timeout_s
        return ready

    def outcome(self, task: Task) -> Any:
        aside = task in self._pings or task in self._comings
        self._pings.discard(task)
        self._comings.discard(task)
        present = task.process is self._processes.get(task.worker)
        if present and task not in self._handing_over and not aside:
            self.busy.remove(task.worker)
        outcome = self._outcomes.pop(task)
        generated, handed_over = self._generates.pop(task, None), self._handing_over.pop(task, None)
        unlucky = (
            self._random is not None
            and task.worker != "learner"
            and self._in_a_row[task.worker] < MOST_IN_A_ROW
            and self._random.random() < self._lose
        )
        deadly = generated is not None and self._deadly(generated)
        died = (
            (task.worker in self._dead and not aside) or unlucky or deadly or not present or task.process in self._ended
        )
        at_hand = self.at_hand.get(task.worker, set())
        if (present and handed_over is not None) or (generated is not None and (died or self._hand_over_s is None)):
            at_hand -= {handed_over, generated}
        if not (died or aside):
            self._in_a_row[task.worker] = 0
        if died:
            self.ends(task.worker, task.process)
            raise WorkerLostError(f"{task.worker}: its process ended")
        if isinstance(outcome, CycleOutcome):
            self.version = outcome.report.version
        return outcome

    def ends(self, worker: str, process: object) -> None:
        """The process of a worker ends, if it is the last that it had; what else it was at is over, too."""
        if process is not self._processes.get(worker) or process in self._ended:
            return
        self.deaths += 1
        self._in_a_row[worker] += 1
        self._ended.add(process)
        self._running.pop(worker, None)
        for task in self._outcomes:
            if task.process is process:
                self._ready_at[task] = self.clock.now


class Stage:
    """A controller over a fake shell, with the real frontier, buffer and store; it may be asked to stop at a time."""

    def __init__(
        self,
        config: Config,
        *,
        stop_at: float = math.inf,
        wishes: Sequence[tuple[float, Mapping[str, int]]] = (),
        **shell: Any,
    ) -> None:
        self.config, self.clock, self.hub = config, Clock(), RecordingHub()
        self.shell = FakeShell(config, self.clock, **shell)
        self.frontier = PromptFrontier(config.run.seed, 10, config.rollout.lease_s)
        self.kept = RecordingFolder()
        self.buffer: BufferIndex[Reference] = BufferIndex(
            max_bytes=config.buffer.max_bytes, max_policy_age=config.rollout.max_policy_age
        )
        self.store: WeightStore[Reference] = WeightStore()
        self.statuses: deque[Status] = deque(maxlen=1000)
        self.wishes = PlannedWishes(self.clock, wishes)
        self.controller = Controller(
            config,
            frontier=self.frontier,
            buffer=self.buffer,
            store=self.store,
            hub=self.hub,
            shell=self.shell,
            group_bytes=GROUP_BYTES,
            quarantine=self.kept,
            wishes=self.wishes,
            display=self.statuses.append,
            clock=self.clock,
            sleep=self.clock.sleep,
            stopping=lambda: self.clock.now >= stop_at,
        )

    def over(self, shell: FakeShell) -> "Stage":
        """The same with another shell."""
        self.shell = shell
        owners = (
            self.controller,
            *(getattr(self.controller, f"_{name}") for name in ("rollout", "reward", "learner", "roster")),
        )
        for owner in owners:
            owner._shell = shell
        return self

    def run(self) -> int:
        """The whole run."""
        return self.controller.run()
