"""A shell whose workers do what a schedule says. It checks what it is given against the laws of the controller."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from advdmd_ray.controller.frontier import lease_limit
from advdmd_ray.controller.prompt_order import work_of
from advdmd_ray.controller.protocols import Reference, Task
from advdmd_ray.controller.staff import number_of, role_of, worker_names
from advdmd_ray.controller.telemetry import LEARNER
from advdmd_ray.errors import BytesLostError, WorkerLostError
from advdmd_ray.learner.outcome import CheckpointOutcome, CycleOutcome
from advdmd_ray.stations.records import GroupInfo, Lease, LoadReport, WorkReport
from advdmd_ray.stations.weights.snapshot import Manifest
from advdmd_ray.stations.weights.store import Published
from fake_shell import cycle_report, manifest
from schedules.drawn import PROMPTS, Fault
from schedules.made import Bytes, size_of
from schedules.processes import Node, Process, Processes, Work
from schedules.world import World

GENERATE, HAND_OVER, SCORE, BRING, LEARN = range(5)
HELD_BACK, HELD_BACK_S, LATEST_S = 7, 0.25, 1.0
MOST_SUBSTITUTES = 40


class ScriptedShell:
    """`Shell` for one life of the driver.

    Attributes:
        seen: What the shell has seen since the run's first beginning, as of the checkpoint that this life began with.
        before_lease: Is told of a lease of a new ordinal before the work begins.
        in_turn: Is called before each wait.
        rows: Losses of each worker without work done between.
    """

    def __init__(self, world: World, ends_learner: int | None) -> None:
        self._world, self.config, self._clock = world, world.config, world.clock
        self.prompts = PROMPTS
        self.version = world.disk.version
        self.seen: Counter[str] = Counter(world.disk.seen)
        self.processes = Processes(self._clock.now, world.faults, world.happens)
        self._nodes = [Node(), Node()]
        names = [name for role, count in world.config_counts.items() for name in worker_names(role, count)]
        for index, name in enumerate(names):
            late = index in world.schedule.late
            self.processes.of[name] = Process(name, self._nodes[index % 2], told=not late)
        self._ends_learner = ends_learner
        self.learner_busy = self.learner_gone = False
        self._fetched: tuple[int, ...] = ()
        self.fetches_in_vain = 0
        self.rows: Counter[str] = Counter()
        self._issued: dict[int, Lease] = {}
        self._substitute: Counter[int] = Counter()
        self.in_turn: Callable[[], None] = lambda: None
        self.replaced = 0
        self._held_back = False

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

    def publication(self) -> tuple[tuple[Manifest, Manifest], Reference, Reference]:
        return (manifest("student", self.version), manifest("discriminator", self.version)), b"student", b"judge"

    def coming(self) -> list[Task]:
        late = [process for process in self.processes.of.values() if not process.told]
        self._world.met["late at the start"] += len(late)
        return [self._comes(process) for process in late]

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
        task = Task(process.worker, (), process=process)
        return self._begin(task, "bring", self._world.seconds(BRING), partial(self._up, process), process)

    def dismiss(self, worker: str) -> None:
        self._world.happens("worker removed")
        self.rows.pop(worker, None)
        self.processes.kill(self.processes.of.pop(worker))

    def restart(self, checkpoint: Path | None) -> None:
        raise AssertionError(f"the controller starts no gang, from {checkpoint} or otherwise: `Training` does")

    def _up(self, process: Process) -> str:
        process.told = True
        return process.worker

    def ping(self, worker: str) -> Task:
        assert worker != LEARNER or not self.learner_busy, "a rank at work cannot answer"
        process = self.processes.of.get(worker)
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
        assert made.version == self.version, "work is begun with the newest weights"
        if process.running == made.version:
            return None
        process.running = made.version
        return LoadReport(process.worker, made.stream, made.version, made.digest)

    # Groups ---------------------------------------------------------------------------------------------------------

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        process, world = self._present(worker), self._world
        assert len(process.at_hand) < self.config.rollout.leases, f"{worker} has no hand free"
        self._check(lease)
        self.seen["leases"] += 1
        report = WorkReport(worker, 1.0, self._load(process, student), 1)
        process.at_hand.add(lease)
        group = Bytes(lease, (process.node,))
        at_once = WorkReport(worker, 0.0, None, 1, self._fault(lease, "rollout")) if world.schedule.at_once else None
        task = Task(worker, (), None if at_once is None else group, process=process)
        process.at = task
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
        self._told_of(process, report)
        self.seen["generated"] += 1
        if at_once is not None:
            self._handed_over(process, lease, at_once)
        return report, at_once

    def hand_over(self, generated: Task, lease: Lease) -> Task:
        process = generated.process
        assert process is self.processes.of.get(generated.worker), "who was given up is asked for nothing"
        assert lease in process.at_hand, "a group is handed over by the process that has it"
        report = WorkReport(process.worker, 1.0, None, 1, self._fault(lease, "rollout"))
        task = Task(process.worker, (), Bytes(lease, (process.node,)), process=process)
        outcome = partial(self._handed_over, process, lease, report)
        return self._begin(task, "hand_over", self._world.seconds(HAND_OVER), outcome, process)

    def _handed_over(self, process: Process, lease: Lease, report: WorkReport) -> WorkReport:
        self._told_of(process, report)
        process.at_hand.remove(lease)
        return report

    def score(self, worker: str, group: Reference, discriminator: Published) -> Task:
        process, world = self._present(worker), self._world
        assert not self._fault(group.lease, "rollout"), "a group that is not finite is not scored"
        lease, load = group.lease, self._load(process, discriminator)
        report = WorkReport(worker, 1.0, load, 1, self._fault(lease, "reward"))
        info = GroupInfo(
            ordinal=lease.ordinal,
            prompt_id=lease.prompt_id,
            samples=self.config.group_size_of(lease.ordinal),
            policy_version=lease.policy_version,
            reward_version=discriminator.manifest.version,
            size_bytes=size_of(self.config, lease.ordinal),
            reward_mean=(0.0,),
            reward_m2=(1.0,),
        )
        unread = group.gone or world.comes("bytes gone when scored", world.unread)
        scored = Bytes(lease, (*group.nodes, process.node), scored=True)
        task = process.at = Task(worker, (), scored, process=process)
        outcome = partial(self._scored, process, report, info, unread)
        return self._begin(task, "score", world.seconds(SCORE), outcome, process)

    def _scored(
        self, process: Process, report: WorkReport, info: GroupInfo, unread: bool
    ) -> tuple[WorkReport, GroupInfo]:
        if unread:
            process.running = None  # it may not have come to its weights
            raise BytesLostError(f"{process.worker}: bytes are gone")
        self._told_of(process, report)
        self.seen["scored"] += not report.fault
        return report, info

    def _fault(self, lease: Lease, finder: str) -> str:
        times, who = self._world.not_finite.get(lease.ordinal, (0, ""))
        return "latents: contains NaN" if who == finder and lease.attempt < times else ""

    def _told_of(self, process: Process, report: WorkReport) -> None:
        self.seen["loads"] += report.load is not None
        if report.fault:
            self.seen["not_finite"] += 1
            self._world.happens("values that are not finite")
        if process is self.processes.of.get(process.worker):
            self.rows[process.worker] = 0

    def batches(self, payload: Reference) -> tuple[pa.RecordBatch, ...]:
        if payload.gone:
            raise BytesLostError("the values of a group that is not finite: bytes are gone")
        return ()

    # The learner ----------------------------------------------------------------------------------------------------

    def _learns(self, what: str, outcome: Callable[[], Any], payload: Reference = None) -> Task:
        assert not self.learner_busy, "the learner has work"
        self.learner_busy = True
        seconds = self._world.seconds(LEARN) if what != "fetch" else 0.0
        task = self._begin(Task(LEARNER, (), payload), what, seconds, outcome)
        if self._ends_learner is not None:
            self._ends_learner -= 1
            if self._ends_learner < 0:
                self.learner_gone = self.processes.open[task].lost = True
        return task

    def fetch(self, groups: Sequence[tuple[GroupInfo, Reference]]) -> Task:
        world = self._world
        mask = world.gone.pop(world.counts["fetches"], 0)
        world.counts["fetches"] += 1
        for info, held in groups:
            lease = held.lease
            assert held.scored
            assert (info.ordinal, info.prompt_id) == (lease.ordinal, lease.prompt_id), "bytes are those of their group"
            assert info.policy_version == lease.policy_version
            assert 0 <= self.version - info.policy_version <= self.config.rollout.max_policy_age
        return self._learns("fetch", partial(self._lost_of, groups, mask))

    def _lost_of(self, groups: Sequence[tuple[GroupInfo, Reference]], mask: int) -> tuple[int, ...]:
        lost = tuple(info.ordinal for bit, (info, held) in enumerate(groups) if held.gone or (mask >> bit) & 1)
        self._fetched = () if lost else tuple(info.ordinal for info, _ in groups)
        self.fetches_in_vain = self.fetches_in_vain + 1 if lost else 0
        self.seen["lost"] += len(lost)
        self._world.met["bytes gone when fetched"] += len(lost)
        return lost

    def cycle(self, infos: Sequence[GroupInfo]) -> Task:
        ordinals, begin = tuple(info.ordinal for info in infos), len(self._world.trained)
        assert self._fetched == ordinals, "a cycle is of groups that were fetched"
        assert ordinals == tuple(range(begin, begin + self._world.schedule.groups)), "each once, in order"
        self._fetched = ()
        return self._learns("cycle", partial(self._cycled, ordinals), (b"student", b"judge"))

    def _cycled(self, ordinals: tuple[int, ...]) -> CycleOutcome:
        self._world.trained.extend(ordinals)
        self.version += 1
        report = cycle_report(self.version, trajectories=4 * len(ordinals))
        return CycleOutcome(report, manifest("student", self.version), manifest("discriminator", self.version), 1)

    def checkpoint(self, facts: Mapping[str, Any]) -> Task:
        world = self._world
        if world.comes("checkpoint refused", world.refused):
            return self._learns("refused", self._refused)
        return self._learns("checkpoint", partial(self._written, world.write(self.version, facts, self.seen)))

    def _written(self, disk: Any) -> CheckpointOutcome:
        self._world.disk = disk
        return CheckpointOutcome(f"step-{disk.version}")

    def _refused(self) -> CheckpointOutcome:
        self.seen["refused"] += 1
        return CheckpointOutcome(refused="disk full")

    def grid(self) -> Task:
        return self._learns("grid", lambda: f"version-{self.version}.png")

    def judge(self) -> Task:
        raise AssertionError("nobody asked for a judgement")

    def driver_died(self) -> None:
        """A checkpoint that the learner had written is there, though nobody was told."""
        for work in self.processes.open.values():
            if work.what == "checkpoint" and work.ends <= self._clock.now and not work.lost:
                work.outcome()

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
        self._held_back = bool(ready) and chosen == HELD_BACK and not self._held_back
        if self._held_back:  # what is over is heard of a little later
            processes.pass_to(processes.now + HELD_BACK_S)
            ready = []
        self._clock.now = processes.now
        if ready:
            first = chosen % len(ready)
            told = [*ready[first:], *ready[:first]][: 1 + chosen // 2]
            ready = [*told, *(work for work in ready if work not in told and work.ends <= processes.now - LATEST_S)]
        return [work.task for work in ready]

    def outcome(self, task: Task) -> Any:
        if task.worker == LEARNER and self.processes.open[task].what != "ping":
            self.learner_busy = False
        if task.worker == LEARNER and self.learner_gone:
            raise WorkerLostError("learner: its process ended")
        work: Work = self.processes.over(task)
        return work.outcome()
