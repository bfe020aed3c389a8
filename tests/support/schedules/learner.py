"""The learner of a scripted shell: its gang is lost and placed again as a schedule says. It checks what it is given."""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from advdmd_ray.controller.protocols import Reference, Task
from advdmd_ray.controller.telemetry import LEARNER
from advdmd_ray.errors import DeadlineError, WorkerLostError
from advdmd_ray.learner.outcome import CheckpointOutcome, CycleOutcome
from advdmd_ray.stations.records import GroupInfo
from advdmd_ray.stations.weights.snapshot import Manifest
from fake_shell import cycle_report
from schedules.drawn import START_S
from schedules.made import Bytes
from schedules.processes import Node, Process, Processes, Work
from schedules.world import Disk, World

JOIN, LEARN = 3, 4
ANSWER_S = 120.0
"""Seconds that the learner's first weights are waited for."""
LATE_S = 1.0
"""Seconds after which what is over has been told."""


class ScriptedLearner:
    """The part of `Shell` that is the learner's, for one life of the driver.

    Attributes:
        version: Of the learner's weights.
        began_at: Version of the checkpoint that the gang was last placed again from.
        seen: What the shell has seen since the run's first beginning, as of the checkpoint that the course began with.
        made: What was made of groups on the present course, so that somebody sees when it is let go.
        made_before: The same of the courses before.
        fetches_in_vain: That found bytes gone, in a row.
        in_vain: Gangs that were placed again since the newest checkpoint.
    """

    def __init__(self, world: World) -> None:
        self._world, self.config, self._clock = world, world.config, world.clock
        self.version = self.began_at = world.disk.version
        self.seen: Counter[str] = Counter(world.disk.seen)
        self.processes = Processes(self._clock.now, world.faults, world.happens)
        self.made: list[weakref.ref[Bytes]] = []
        self.made_before: list[weakref.ref[Bytes]] = []
        self.learner_busy = self._refuses = False
        self._at: Work | None = None
        self._writing: Task | None = None
        self._busy_since = 0.0
        self._fetched: tuple[int, ...] = ()
        self.fetches_in_vain = self.in_vain = 0

    @property
    def gang_is_lost(self) -> bool:
        """Whether a rank is dead, has not come up or answered in time, hangs, or is at something for too long."""
        now, limit, gang = self._clock.now, self.config.learner.cycle_timeout_s, self.processes.gang
        hangs = (
            gang.silent > now - LATE_S and now - gang.hushed >= self.config.learner.hang_s - self.config.ray.hang_s / 2
        )
        at_it = self.learner_busy and self._at is not None and self._at.ends > now - LATE_S
        return gang.ended is not None or self._refuses or hangs or (at_it and now - self._busy_since > limit)

    def _passes(self, seconds: float) -> None:
        """The driver waits."""
        self.processes.pass_to(self._clock.now + seconds)
        self._clock.now = self.processes.now

    def publication(self) -> tuple[tuple[Manifest, Manifest], Reference, Reference]:
        gang = self.processes.gang
        for fault in self.processes.meets(LEARNER, "publish"):
            self.processes.happens(fault, gang)
            if fault.kind == "dies":
                self.processes.end(gang, fault.lasts)
            else:
                gang.hangs(self._clock.now, fault.lasts)
        silent_s = max(0.0, gang.silent - self._clock.now)
        self._passes(min(silent_s, ANSWER_S))
        self._refuses = silent_s > ANSWER_S
        if gang.ended is not None:
            raise WorkerLostError("learner: its process ended")
        if self._refuses:
            raise DeadlineError("waited 120 s for the learner's first weights")
        manifests = (self._world.manifest("student", self.version), self._world.manifest("discriminator", self.version))
        return manifests, b"student", b"judge"

    def restart(self, checkpoint: Path | None) -> None:
        world, newest = self._world, self._world.disk
        assert self.gang_is_lost, "a gang is given up for no reason"
        assert (None if checkpoint is None else checkpoint.name) == (newest.path if world.disks else None)
        self.in_vain = 0 if newest.version > self.began_at else self.in_vain
        self.began_at = newest.version
        assert self.in_vain < self.config.learner.restarts, "a gang is placed again too often"
        self.in_vain += 1
        self.processes.forget()
        for fault in self.processes.meets(LEARNER, "join"):
            self.processes.happens(fault, self.processes.gang)
            self._refuses = fault.kind == "dies" or fault.lasts > START_S
            self._passes(min(fault.lasts, START_S))
            if fault.kind == "dies":
                raise WorkerLostError("learner-1: its process ended")
            if self._refuses:
                raise DeadlineError("learner-1 not up after 60 s")
        self._passes(world.seconds(JOIN))
        self._begin_course(newest)
        world.happens("learner goes on from a checkpoint" if world.disks else "learner goes on from the teacher")

    def _begin_course(self, newest: Disk) -> None:
        self._world.go_on_from(newest)
        self.version, self.seen = newest.version, Counter(newest.seen)
        self.processes.gang = Process(LEARNER, Node())
        self.learner_busy = self._refuses = False
        self._at, self._writing, self._fetched, self.fetches_in_vain = None, None, (), 0
        self.made_before, self.made = [*self.made_before, *self.made], []

    # Work -----------------------------------------------------------------------------------------------------------

    def _learns(self, outcome: Callable[[], Any], payload: Reference = None, *, seconds: float | None = None) -> Task:
        assert not self.learner_busy, "the learner has work"
        gang, seconds = self.processes.gang, self._world.seconds(LEARN) if seconds is None else seconds
        self.learner_busy, self._busy_since, self.processes.now = True, self._clock.now, self._clock.now
        task = self.processes.begin(Task(LEARNER, (), payload, process=gang), "learn", seconds, outcome, gang)
        self._at = self.processes.open[task]
        return task

    def fetch(self, groups: Sequence[tuple[GroupInfo, Reference]]) -> Task:
        world = self._world
        mask = world.gone.pop(world.counts["fetches"], 0)
        world.counts["fetches"] += 1
        for info, held in groups:
            lease = held.lease
            assert (info.ordinal, info.prompt_id) == (lease.ordinal, lease.prompt_id), "bytes are those of their group"
            assert info.policy_version == lease.policy_version
            assert 0 <= self.version - info.policy_version <= self.config.rollout.max_policy_age
            assert held.student == world.manifest("student", info.policy_version), "made by weights of this course"
            assert held.discriminator == world.manifest("discriminator", info.reward_version)
        return self._learns(partial(self._lost_of, groups, mask), seconds=0.0)

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
        return self._learns(partial(self._cycled, ordinals), (b"student", b"judge"))

    def _cycled(self, ordinals: tuple[int, ...]) -> CycleOutcome:
        world, version = self._world, self._world.learn(ordinals)
        self.version = version
        report = cycle_report(version, trajectories=4 * len(ordinals))
        return CycleOutcome(report, world.manifest("student", version), world.manifest("discriminator", version), 1)

    def checkpoint(self, facts: Mapping[str, Any]) -> Task:
        world = self._world
        if world.comes("checkpoint refused", world.refused):
            return self._learns(self._refused)
        self._writing = self._learns(partial(self._written, world.snapshot(facts, self.seen)))
        return self._writing

    def _written(self, disk: Disk) -> CheckpointOutcome:
        self._world.keep(disk)
        return CheckpointOutcome(disk.path)

    def _refused(self) -> CheckpointOutcome:
        self.seen["refused"] += 1
        return CheckpointOutcome(refused="disk full")

    def grid(self) -> Task:
        return self._learns(lambda: f"version-{self.version}.png")

    def judge(self) -> Task:
        raise AssertionError("nobody asked for a judgement")

    def validate(self) -> Task:
        raise AssertionError("nobody asked for a validation")

    def driver_died(self) -> None:
        """A checkpoint that the learner had written is there, though nobody was told."""
        work = self.processes.open.get(self._writing) if self._writing is not None else None
        if work is not None and work.ends <= self._clock.now and not work.lost:
            work.outcome()
