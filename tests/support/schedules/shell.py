"""A shell whose workers do what a schedule says. It checks what it is given against the laws of the controller."""

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from advdmd_ray.controller.frontier import lease_limit
from advdmd_ray.controller.prompt_order import work_of
from advdmd_ray.controller.protocols import Reference, Task
from advdmd_ray.controller.staff import number_of, role_of, worker_names
from advdmd_ray.controller.telemetry import LEARNER
from advdmd_ray.errors import BytesLostError, WeightsMismatchError
from advdmd_ray.stations.records import GroupInfo, Lease, LoadReport, WorkReport
from advdmd_ray.stations.rollout import sample_seeds
from advdmd_ray.stations.weights.store import Published
from schedules.drawn import PROMPTS, Fault
from schedules.learner import LATE_S, ScriptedLearner
from schedules.made import Bytes, size_of
from schedules.processes import Node, Process, Work
from schedules.world import Disk, World

GENERATE, HAND_OVER, SCORE, BRING = range(4)
HELD_BACK, HELD_BACK_S = 7, 0.25
MOST_SUBSTITUTES = 40
WRONG_WEIGHTS = {"loads others": "refused", "says others": "others"}
"""What the digest of a load stands for."""
FACTS = ("ordinal", "prompt_id", "policy_version", "reward_version", "seed")


class ScriptedShell(ScriptedLearner):
    """`Shell` for one life of the driver.

    Attributes:
        in_turn: Is called before each wait.
        rows: Losses of each worker without work done between.
        replaced: Processes that others took the place of.
        wrong: What the controller was told that is wrong, and has to end the run; empty: nothing.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.prompts = PROMPTS
        self._nodes = [Node(), Node()]
        names = [name for role, count in world.config_counts.items() for name in worker_names(role, count)]
        for index, name in enumerate(names):
            late = index in world.schedule.late
            world.met["late at the start"] += late
            self.processes.of[name] = Process(name, self._nodes[index % 2], told=not late)
        self.rows: Counter[str] = Counter()
        self._issued: dict[int, Lease] = {}
        self._substitute: Counter[int] = Counter()
        self.in_turn: Callable[[], None] = lambda: None
        self.replaced, self.wrong = 0, ""
        self._held_back = False

    def _begin_course(self, newest: Disk) -> None:
        super()._begin_course(newest)
        self.rows.clear()
        self._issued.clear()
        self._substitute.clear()
        self.replaced = 0

    def names(self, role: str) -> tuple[str, ...]:
        """Of the workers that there are."""
        return tuple(name for name in self.processes.of if role_of(name) == role)

    @property
    def rollout_workers(self) -> tuple[str, ...]:
        return self.names("rollout")

    @property
    def reward_workers(self) -> tuple[str, ...]:
        return self.names("reward")

    # Workers --------------------------------------------------------------------------------------------------------

    def coming(self) -> list[Task]:
        return [self._comes(process) for process in self.processes.of.values() if not process.told]

    def bring(self, worker: str) -> Task:
        slot = number_of(worker) % len(self._nodes)
        if worker in self.processes.of:
            before = self.processes.of[worker]
            self.rows[worker] += before.told or before.ended is not None  # else it did not come in time
            self.replaced += before.told
            self.processes.kill(before)
        else:
            self._world.happens("worker added")
        if self._nodes[slot].gone:
            self._nodes[slot] = Node()
        process = self.processes.of[worker] = Process(worker, self._nodes[slot], told=False)
        return self._comes(process)

    def _comes(self, process: Process) -> Task:
        task, up_at = Task(process.worker, (), process=process), self.processes.up_at(process)
        seconds = self._world.seconds(BRING) if up_at is None else max(0.0, up_at - self._clock.now)
        return self._begin(task, "bring", seconds, partial(self._up, process), process)

    def dismiss(self, worker: str) -> None:
        self._world.happens("worker removed")
        self.rows.pop(worker, None)
        self.processes.kill(self.processes.of.pop(worker))

    def _up(self, process: Process) -> str:
        process.told = True
        return process.worker

    def ping(self, worker: str) -> Task:
        process = self.processes.gang if worker == LEARNER else self.processes.of[worker]
        return self._begin(Task(worker, (), process=process), "ping", 0.0, lambda: worker, process)

    def _present(self, worker: str) -> Process:
        process = self.processes.of[worker]
        assert process.told, f"{worker} gets work and is not up"
        assert process.at is None, f"{worker} has work"
        return process

    def _begin(
        self, task: Task, what: str, seconds: float, outcome: Callable[[], Any], process: Process | None = None
    ) -> Task:
        self.processes.now = self._clock.now
        return self.processes.begin(task, what, seconds, outcome, process)

    def _load(self, process: Process, snapshot: Published) -> LoadReport | None:
        made = snapshot.manifest
        assert made == self._world.manifest(made.stream, self.version), "work is begun with the newest weights"
        if process.running == made:
            return None
        wrong = [digest for what, digest in WRONG_WEIGHTS.items() if self._is_wrong(what)]
        process.running = None if wrong else made
        return LoadReport(process.worker, made.stream, made.version, wrong[0] if wrong else made.digest)

    def _is_wrong(self, what: str) -> bool:
        """Whether this work is the one that comes with this wrong."""
        return self._world.comes(f"wrong: {what}".replace("_", " "), self._world.wrong.get(what, set()))

    def _made(self, group: Bytes) -> Bytes:
        self.made.append(weakref.ref(group))
        return group

    # Groups ---------------------------------------------------------------------------------------------------------

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        process, world = self._present(worker), self._world
        assert len(process.at_hand) < self.config.rollout.leases, f"{worker} has no hand free"
        self._check(lease)
        self.seen["leases"] += 1
        report = WorkReport(worker, 1.0, self._load(process, student), 1)
        process.at_hand[lease] = student.manifest
        at_once = WorkReport(worker, 0.0, None, 1, self._fault(lease, "rollout")) if world.schedule.at_once else None
        group = None if at_once is None else self._made(Bytes(lease, (process.node,), student.manifest))
        task = process.at = Task(worker, (), group, process=process)
        seconds = world.seconds(GENERATE)
        self._begin(task, "generate", seconds, partial(self._generated, process, lease, report, at_once), process)
        if lease.prompt_id in world.schedule.deadly and world.deaths_left:
            world.deaths_left -= 1
            self.processes.plan(Fault("deadly", "generate", 0, 0, 0.5, 0.0), seconds, process, None)
        return task

    def _check(self, lease: Lease) -> None:
        """The lease is one that may be given now: by age, end of the run, order of attempts, prompt and seed."""
        rollout, before = self.config.rollout, self._issued.get(lease.ordinal)
        assert lease.policy_version == self.version
        assert lease.ordinal < lease_limit(self.version, rollout.groups_per_cycle, rollout.max_policy_age)
        assert len(self._world.trained) <= lease.ordinal < self._world.schedule.ordinals
        if before is not None:
            assert lease.attempt == before.attempt + 1, "attempts count up"
            self.seen["issued_again"] += 1
        works = (work_of(0, PROMPTS, lease.ordinal, count) for count in range(MOST_SUBSTITUTES))
        work = next(n for n, work in enumerate(works) if (work.prompt_id, work.seed) == (lease.prompt_id, lease.seed))
        assert work >= self._substitute[lease.ordinal], "a prompt that lost its place does not come back"
        self._substitute[lease.ordinal], self._issued[lease.ordinal] = work, lease

    def _generated(
        self, process: Process, lease: Lease, report: WorkReport, at_once: WorkReport | None
    ) -> tuple[WorkReport, WorkReport | None]:
        self.seen["generated"] += self._told_of(process, report)
        if at_once is not None and not self.wrong:
            self._handed_over(process, lease, at_once)
        return report, at_once

    def hand_over(self, generated: Task, lease: Lease) -> Task:
        process = generated.process
        assert process is self.processes.of.get(generated.worker), "who was given up is asked for nothing"
        assert lease in process.at_hand, "a group is handed over by the process that has it"
        report = WorkReport(process.worker, 1.0, None, 1, self._fault(lease, "rollout"))
        group = self._made(Bytes(lease, (process.node,), process.at_hand[lease]))
        task = Task(process.worker, (), group, process=process)
        outcome = partial(self._handed_over, process, lease, report)
        return self._begin(task, "hand_over", self._world.seconds(HAND_OVER), outcome, process)

    def _handed_over(self, process: Process, lease: Lease, report: WorkReport) -> WorkReport:
        self._told_of(process, report)
        del process.at_hand[lease]
        return report

    def score(self, worker: str, group: Reference, discriminator: Published) -> Task:
        process, world = self._present(worker), self._world
        assert not self._fault(group.lease, "rollout"), "a group that is not finite is not scored"
        lease, load = group.lease, self._load(process, discriminator)
        report = WorkReport(worker, 1.0, load, 1, self._fault(lease, "reward"))
        info = GroupInfo(
            ordinal=lease.ordinal,
            prompt_id=lease.prompt_id,
            seed=sample_seeds(lease.seed, 1)[0],
            samples=self.config.group_size_of(lease.ordinal),
            policy_version=lease.policy_version,
            reward_version=discriminator.manifest.version,
            size_bytes=size_of(self.config, lease.ordinal),
            reward_mean=(0.0,),
            reward_m2=(1.0,),
        )
        unread = group.gone or world.comes("bytes gone when scored", world.unread)
        scored = self._made(Bytes(lease, (*group.nodes, process.node), group.student, discriminator.manifest))
        wrong = [name for name in FACTS if self._is_wrong(name)]
        task = process.at = Task(worker, (), scored, process=process)
        outcome = partial(self._scored, process, report, info, wrong, unread)
        return self._begin(task, "score", world.seconds(SCORE), outcome, process)

    def _scored(
        self, process: Process, report: WorkReport, info: GroupInfo, wrong: list[str], unread: bool
    ) -> tuple[WorkReport, GroupInfo]:
        if unread:
            process.running = None  # it may not have come to its weights
            raise BytesLostError(f"{process.worker}: bytes are gone")
        well = self._told_of(process, report) and not report.fault
        if well and wrong:
            well, self.wrong = False, f"{wrong[0]} of ordinal {info.ordinal}"
            info = replace(info, **{wrong[0]: getattr(info, wrong[0]) + 1})
        self.seen["scored"] += well
        return report, info

    def _fault(self, lease: Lease, finder: str) -> str:
        times, who = self._world.not_finite.get(lease.ordinal, (0, ""))
        return "latents: contains NaN" if who == finder and lease.attempt < times else ""

    def _told_of(self, process: Process, report: WorkReport) -> bool:
        """Whether the controller goes on, as the worker runs the weights that it should."""
        if report.load is not None and report.load.digest in WRONG_WEIGHTS.values():
            self.wrong = f"weights of {report.worker}"
            self.seen["mismatched"] += 1
            if report.load.digest == WRONG_WEIGHTS["loads others"]:
                raise WeightsMismatchError(self.wrong)
            return False
        self.seen["loads"] += report.load is not None
        if report.fault:
            self.seen["not_finite"] += 1
            self._world.happens("values that are not finite")
        if process is self.processes.of.get(process.worker):
            self.rows[process.worker] = 0
        return True

    def batches(self, payload: Reference) -> tuple[pa.RecordBatch, ...]:
        if payload.gone:
            raise BytesLostError("the values of a group that is not finite: bytes are gone")
        return ()

    # What is over ---------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> list[Task]:
        self.in_turn()
        world, processes = self._world, self.processes
        processes.now = self._clock.now
        assert processes.open, "there is something to wait for"
        for number, seconds in world.schedule.still:
            if world.counts["waits"] == number:
                world.happens("driver stands still")
                processes.pass_to(processes.now + seconds)
        world.counts["waits"] += 1
        processes.until_next(processes.now + timeout_s)
        chosen = world.turn("order", world.schedule.order)
        ready = processes.ready()
        overdue = [work for work in ready if work.ends <= processes.now - LATE_S]
        self._held_back = bool(ready) and not overdue and chosen == HELD_BACK and not self._held_back
        if self._held_back:  # what is over is heard of a little later
            processes.pass_to(processes.now + HELD_BACK_S)
            ready = []
        self._clock.now = processes.now
        if ready:
            first = chosen % len(ready)
            told = [*ready[first:], *ready[:first]][: 1 + chosen // 2]
            ready = [*told, *(work for work in overdue if work not in told)]
        return [work.task for work in ready]

    def outcome(self, task: Task) -> Any:
        work: Work = self.processes.over(task)
        if task.worker == LEARNER and work.what != "ping":
            self.learner_busy = False
        return work.outcome()
