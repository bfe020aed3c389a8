"""Runs the real controller under a schedule, from its beginning to its last cycle, over as many lives as that takes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advdmd_ray.controller.guard import Guard
from advdmd_ray.controller.loop import Controller
from advdmd_ray.controller.roster import LOSSES_IN_A_ROW
from advdmd_ray.controller.watch import Saved, Watch
from advdmd_ray.errors import (
    FAILURES,
    CheckpointError,
    GangLostError,
    GroupMismatchError,
    WeightsMismatchError,
    WorkerLostError,
)
from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.runtime.training import Training
from advdmd_ray.stations.buffer.index import BufferIndex
from advdmd_ray.stations.weights.store import WeightStore
from schedules.drawn import GROUP_BYTES, PROMPTS, End, Schedule
from schedules.laws import Frontier, Laws
from schedules.shell import ScriptedShell
from schedules.world import DriverDied, Totals, World

MOST_LIVES = 20
LONGEST_S = 3000.0
"""Virtual seconds after which a run stands still: five losses in a row cost a rest of 300, stuck devices twice that."""
FETCHES_IN_A_ROW = 5


def lived(schedule: Schedule, met: Counter[str] | None = None) -> World:
    """The world after the whole run.

    Args:
        schedule: What happens.
        met: Counts what did.

    Raises:
        AssertionError: if a law does not hold.
    """
    world = World(schedule, Counter() if met is None else met)
    ends = list(schedule.ends)
    for _ in range(MOST_LIVES):
        if _one_life(world, ends.pop(0) if ends else None):
            return world
    raise AssertionError(f"the run is not done after {MOST_LIVES} lives")


class _Course:
    """A controller from a checkpoint on, as `runs/parts/controller.py` builds it: `Loops` that are looked at."""

    def __init__(self, life: "_Life", checkpoint: Checkpoint | None) -> None:
        world, config = life.world, life.world.config
        facts: Mapping[str, Any] = {} if checkpoint is None else checkpoint.facts["controller"]
        version = 0 if checkpoint is None else checkpoint.facts["learner"]["version"]
        self.shell, self._totals, self._clock = life.shell, life.totals, world.clock
        self._before = facts.get("counted", {})
        frontier = Frontier.from_state(
            facts.get("frontier"), run_seed=config.run.seed, prompts=PROMPTS, lease_s=config.rollout.lease_s
        )
        buffer: BufferIndex[Any] = BufferIndex(
            max_bytes=config.buffer.max_bytes,
            max_policy_age=config.rollout.max_policy_age,
            start=frontier.first_unsettled,
            settled=frontier.settled_beyond(),
        )
        saved = [Saved(disk.version, disk.path) for disk in world.disks if disk.version <= version]
        self._controller = Controller(
            config,
            frontier=frontier,
            buffer=buffer,
            store=WeightStore({"student": version, "discriminator": version}),
            hub=life.totals,
            shell=life.shell,
            group_bytes=GROUP_BYTES,
            watch=Watch(config, Guard.from_state(facts.get("guard"), config.guard), saved),
            wishes=world,
            version=version,
            updates=facts.get("updates"),
            counted=self._before,
            clock=world.clock,
            sleep=world.clock.sleep,
            stopping=life.stopping,
        )
        self.laws = Laws(world, life.shell, self._controller, frontier, buffer)
        self.shell.in_turn = self._turn

    @property
    def version(self) -> int:
        """See `Loops`."""
        return self._controller.version

    @property
    def saved(self) -> Sequence[Path]:
        """See `Loops`."""
        return self._controller.saved

    def run(self) -> int:
        """See `Loops`."""
        self.laws.hold_at_the_beginning()
        try:
            version = self._controller.run()
        except FAILURES:
            self._over()
            raise
        self._over()
        return version

    def _turn(self) -> None:
        assert self._clock.now <= LONGEST_S, "the run does not end"
        self.laws.hold()

    def _over(self) -> None:
        self.laws.hold_at_the_end(self._totals)
        self.laws.hold_of_this_course(self._totals.since(self._before))

    def lost_in_a_row(self) -> bool:
        """Whether a role has nobody left who ever gets any work done, or groups are gone whenever they are fetched."""
        for names in (self.shell.rollout_workers, self.shell.reward_workers):
            asked = [name for name in names if name not in self._controller._roster._leaving]
            if all(self.shell.rows[name] >= LOSSES_IN_A_ROW - 1 for name in asked):
                return True
        return self.shell.fetches_in_vain >= FETCHES_IN_A_ROW


class _Life:
    """One life of the driver, from the newest checkpoint on, with all gangs that it has placed."""

    def __init__(self, world: World, end: End | None) -> None:
        self.world, self._end, self._began = world, end, world.clock.now
        if world.disks and not world.disk.version:
            world.disks.clear()  # none can be read: the owner begins with a new folder
        world.go_on_from(world.disk)
        world.clock.looks, world.clock.dies_at = 0, None
        self.shell, self.totals = ScriptedShell(world), Totals({})
        checkpoint = world.opened(Path(world.disk.path)) if world.disks else None
        self._rewind(checkpoint)
        self.training = Training(
            world.config,
            self.shell,
            self.totals,
            checkpoint,
            loops=self._loops,
            rewind=self._rewind,
            stopping=self.stopping,
            opened=world.opened,
        )
        if end is not None and end.kind == "driver":
            world.clock.dies_at = world.clock.looks + 1 + end.at

    def stopping(self) -> bool:
        """Whether the run is asked to stop."""
        end = self._end
        return end is not None and end.kind == "stop" and self.world.clock.now - self._began >= end.at

    def _loops(self, checkpoint: Checkpoint | None) -> _Course:
        self.course = _Course(self, checkpoint)
        return self.course

    def _rewind(self, checkpoint: Checkpoint | None) -> None:
        self.totals.go_back({} if checkpoint is None else checkpoint.facts["controller"]["counted"])

    def may_end_with(self, error: BaseException) -> bool:
        """Whether this is a reason to end."""
        shell, restarts = self.shell, self.world.config.learner.restarts
        match error:
            case GangLostError():
                newer = self.world.disk.version > shell.began_at
                return shell.gang_is_lost and (self.stopping() or (0 if newer else shell.in_vain) >= restarts)
            case WorkerLostError():
                return self.course.lost_in_a_row()
            case WeightsMismatchError() | GroupMismatchError():
                return bool(shell.wrong)
            case CheckpointError():
                return shell.gang_is_lost and all(disk.damaged for disk in self.world.disks)
            case _:
                return False


def _one_life(world: World, end: End | None) -> bool:
    """Whether the run is done."""
    world.lives += 1
    life = _Life(world, end)
    version, failed = 0, None
    try:
        version = life.training.run()
    except DriverDied:
        world.happens("driver dies")
        life.shell.driver_died()
        return False
    except FAILURES as error:
        failed = error
    if failed is not None:
        assert life.may_end_with(failed), f"no reason to end: {failed}"
        world.happens(f"ends with {type(failed).__name__}")
        return False
    saved = world.disks[-1].version if world.disks else 0
    # Asked to stop before its first cycle, it is where it began; behind that there may be a checkpoint that is damaged.
    assert version == saved or (version == life.shell.began_at and life.stopping()), "the last thing is a checkpoint"
    if version < world.schedule.cycles:
        assert life.stopping(), "a run ends before its last cycle only if it is asked to"
        world.happens("stop")
        return False
    life.course.laws.hold_after_the_last(life.totals)
    return True
