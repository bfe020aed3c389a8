"""Runs the real controller under a schedule, from its beginning to its last cycle, over as many lives as that takes."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from advdmd_ray.controller.guard import Guard
from advdmd_ray.controller.loop import Controller
from advdmd_ray.controller.roster import LOSSES_IN_A_ROW
from advdmd_ray.controller.watch import Watch
from advdmd_ray.errors import FAILURES, WorkerLostError
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


class _Life:
    """One life of the driver, from the newest checkpoint on: as `runs/parts/controller.py` builds it."""

    def __init__(self, world: World, end: End | None) -> None:
        self.world, config = world, world.config
        world.trained[:] = world.disk.trained
        facts: Mapping[str, Any] = world.disk.facts
        version = world.disk.version
        world.clock.looks, world.clock.dies_at = 0, None
        self.shell = ScriptedShell(world, end.at if end is not None and end.kind == "learner" else None)
        self.frontier = Frontier.from_state(
            facts.get("frontier"), run_seed=config.run.seed, prompts=PROMPTS, lease_s=config.rollout.lease_s
        )
        self.buffer: BufferIndex[Any] = BufferIndex(
            max_bytes=config.buffer.max_bytes,
            max_policy_age=config.rollout.max_policy_age,
            start=self.frontier.first_unsettled,
            settled=self.frontier.settled_beyond(),
        )
        self.before = facts.get("counted", {})
        self.totals = Totals(self.before)
        began = world.clock.now
        self.stopping = lambda: end is not None and end.kind == "stop" and world.clock.now - began >= end.at
        self.controller = Controller(
            config,
            frontier=self.frontier,
            buffer=self.buffer,
            store=WeightStore({"student": version, "discriminator": version}),
            hub=self.totals,
            shell=self.shell,
            group_bytes=GROUP_BYTES,
            watch=Watch(config, Guard.from_state(facts.get("guard"), config.guard), ()),
            wishes=world,
            version=version,
            updates=facts.get("updates"),
            counted=self.before,
            clock=world.clock,
            sleep=world.clock.sleep,
            stopping=self.stopping,
        )
        self.laws = Laws(world, self.shell, self.controller, self.frontier, self.buffer)
        self.shell.in_turn = self._turn
        if end is not None and end.kind == "driver":
            world.clock.dies_at = world.clock.looks + 1 + end.at

    def _turn(self) -> None:
        assert self.world.clock.now <= LONGEST_S, "the run does not end"
        self.laws.hold()

    def lost_in_a_row(self) -> bool:
        """Whether a role has nobody left who ever gets any work done, or groups are gone whenever they are fetched."""
        for names in (self.shell.rollout_workers, self.shell.reward_workers):
            asked = [name for name in names if name not in self.controller._roster._leaving]
            if all(self.shell.rows[name] >= LOSSES_IN_A_ROW - 1 for name in asked):
                return True
        return self.shell.fetches_in_vain >= FETCHES_IN_A_ROW


def _one_life(world: World, end: End | None) -> bool:
    """Whether the run is done."""
    world.lives += 1
    life = _Life(world, end)
    version, failed = 0, None
    try:
        version = life.controller.run()
    except DriverDied:
        world.happens("driver dies")
        life.shell.driver_died()
        return False
    except FAILURES as error:
        failed = error
    life.laws.hold_at_the_end(life.totals)
    life.laws.hold_of_this_life(life.totals.since(life.before))
    if failed is not None:
        rightly = isinstance(failed, WorkerLostError) and (life.shell.learner_gone or life.lost_in_a_row())
        assert rightly, f"no reason to end: {failed}"
        world.happens("learner dies" if life.shell.learner_gone else "ends with one line, rightly")
        return False
    assert version == world.disk.version or (not version and life.stopping()), "the last thing is a checkpoint"
    if version < world.schedule.cycles:
        assert life.stopping(), "a run ends before its last cycle only if it is asked to"
        world.happens("stop")
        return False
    life.laws.hold_after_the_last(life.totals)
    return True
