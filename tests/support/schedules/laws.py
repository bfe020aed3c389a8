"""The laws of a run, whatever a schedule does to it: in each turn of its loop, and at the end of a life."""

from collections import Counter
from typing import Any

from advdmd_ray.controller.frontier import PromptFrontier, lease_limit
from advdmd_ray.controller.loop import Controller
from advdmd_ray.stations.buffer.index import BufferIndex
from schedules.made import size_of
from schedules.shell import ScriptedShell
from schedules.world import Totals, World

PATIENCE_S = 60.0
"""A lease that is longer than all work takes, unless a fault meets it."""
HARMLESS = {"late at the start", "worker added", "checkpoint refused", "checkpoint damaged"}


class Frontier(PromptFrontier):
    """The real one, which counts how often an ordinal was queued to be issued again."""

    queued_again = 0

    def reissue(self, ordinals: Any) -> None:
        before = len(self._queued)
        super().reissue(ordinals)
        self.queued_again += len(self._queued) - before


class Laws:
    """Looks at one controller, and at its shell."""

    def __init__(
        self,
        world: World,
        shell: ScriptedShell,
        controller: Controller,
        frontier: Frontier,
        buffer: BufferIndex[Any],
    ) -> None:
        self._world, self._shell, self._controller = world, shell, controller
        self._frontier, self._buffer, self._began = frontier, buffer, controller.version
        self._ended, ended = 0, controller._roster.ended

        def counted(worker: str) -> None:
            self._ended += 1
            ended(worker)

        controller._roster.ended = counted

    def hold_at_the_beginning(self) -> None:
        """What is true when a course begins."""
        alive = [group for each in self._shell.made_before if (group := each()) is not None]
        assert alive == [], "the bytes of an earlier course are let go"

    def hold(self) -> None:
        """What is true in each turn."""
        assert not self._shell.wrong, f"the run goes on with wrong {self._shell.wrong}"
        self._no_ordinal_is_lost()
        self._the_caps_hold()
        self._every_lease_has_its_holder()
        self._every_task_is_known()
        self._every_worker_is_accounted_for()

    def _no_ordinal_is_lost(self) -> None:
        """Each is settled, or held by the buffer, or wanted; and what is settled was trained, in order."""
        frontier, rows = self._frontier, self._buffer._rows
        trained = len(self._world.trained)
        settled = frontier.first_unsettled
        # A cycle that the controller has not been told of yet is trained and not settled.
        assert settled in (trained, trained - self._world.schedule.groups)
        assert frontier.settled_beyond() == ()
        assert set(rows) | set(frontier._held) | frontier._queued == set(range(settled, frontier.next_ordinal))
        assert len(rows) + frontier.reserved == frontier.next_ordinal - settled

    def _the_caps_hold(self) -> None:
        rollout, held = self._shell.config.rollout, self._buffer.stats().bytes
        assert held == sum(info.size_bytes for info, _ in self._buffer._rows.values())
        wanted = sum(
            size_of(self._shell.config, ordinal) for ordinal in (*self._frontier._held, *self._frontier._queued)
        )
        assert held + wanted <= self._shell.config.buffer.max_bytes, "the byte cap, with what is still to come"
        limit = lease_limit(self._shell.version, rollout.groups_per_cycle, rollout.max_policy_age)
        assert self._frontier.next_ordinal <= limit, "the age cap"

    def _every_lease_has_its_holder(self) -> None:
        """A lease is held by a process that is at it and is its worker's, or its group waits to be scored."""
        roster = self._controller._roster
        at_it = {
            (begun.lease, begun.task.worker)
            for begun in self._controller._under_way._begun.values()
            if roster.has(begun)
        }
        waiting = {lease for lease, _ in self._controller._reward._unscored}
        for held in self._frontier.outstanding():
            if held.worker is None:
                assert held.lease in waiting, f"nobody scores {held.lease}"
            else:
                assert (held.lease, held.worker) in at_it, f"nobody makes {held.lease}"

    def _every_task_is_known(self) -> None:
        under_way, overdue = self._controller._under_way, self._controller._lost_work._overdue
        begun = under_way._begun.values()
        assert {each.task for each in begun} == set(self._shell.processes.open)
        for late in overdue._begun.values():
            assert under_way._begun.get(under_way._numbers.get(late.task, -1)) is late
            assert self._controller._roster.has(late), "who was given up is not waited for"

    def _every_worker_is_accounted_for(self) -> None:
        """Each is up, comes or rests; one that is up has work, or can get it, once."""
        roster, rollout, reward = self._controller._roster, self._controller._rollout, self._controller._reward
        present, processes = roster._present, self._shell.processes
        assert set(processes.of) == present
        coming = {
            work.task.worker
            for work in processes.open.values()
            if work.what == "bring" and work.process is processes.of.get(work.task.worker)
        }
        assert coming == set(roster._coming)
        up, rests, leaving = (
            {n for n in present if roster._pulse.expects(n)},
            set(roster._resting),
            set(roster._leaving),
        )
        assert up | coming | rests == present
        assert len(up) + len(coming) + len(rests) == len(present)
        assert leaving <= up
        assert leaving == rollout._leaving | reward._leaving
        ready, idle = Counter(rollout._ready), Counter(reward._idle)
        assert set(ready) | set(idle) <= up
        for name in up:
            if roster.role(name) == "rollout":
                hands = len(rollout._handing_over.get(name, ()))
                free = name not in rollout._generating and hands < self._shell.config.rollout.leases
                assert ready[name] == (free and name not in leaving), f"{name} can get work: {free}"
            else:
                assert idle[name] == (name not in reward._scoring and name not in leaving), name

    def hold_at_the_end(self, totals: Totals) -> None:
        """What is true when a course is over, however it ended, and all telemetry was sent."""
        seen, of = self._shell.seen, totals.of
        assert of("advdmd_rollout_leases_issued_total") == seen["leases"]
        assert of("advdmd_rollout_groups_total") == seen["generated"]
        commits, duplicates = of("advdmd_buffer_commits_total"), of("advdmd_buffer_duplicates_total")
        assert of("advdmd_reward_groups_total") == commits + duplicates == seen["scored"]
        for what in ("loaded", "verified"):
            assert of(f"advdmd_weights_{what}_total") == seen["loads"]
        assert of("advdmd_weights_mismatched_total") == seen["mismatched"]
        assert of("advdmd_rollout_quarantined_total{reason=not_finite}") == seen["not_finite"]
        assert of("advdmd_learner_checkpoints_refused_total") == seen["refused"]
        dropped = of("advdmd_buffer_dropped_groups_total")
        assert dropped == of("advdmd_buffer_dropped_groups_total{reason=lost}") == seen["lost"], "none for age"

    def hold_of_this_course(self, since: Totals) -> None:
        """The same, of what was counted on this course alone."""
        of = since.of
        again = of("advdmd_rollout_leases_reissued_total") + of("advdmd_buffer_dropped_groups_total")
        assert again == self._frontier.queued_again
        assert of("advdmd_run_workers_lost_total") == self._ended
        assert self._shell.replaced <= self._ended, "nobody is replaced without a loss"
        settled = (self._controller.version - self._began) * self._world.schedule.groups
        kept = settled + self._buffer.stats().groups
        assert of("advdmd_buffer_commits_total") == kept + of("advdmd_buffer_dropped_groups_total")

    def hold_after_the_last(self, totals: Totals) -> None:
        """What is true when the run is done."""
        world, last = self._world, self._world.disks[-1]
        assert self._controller.version == last.version == world.schedule.cycles
        assert tuple(world.trained) == last.trained == tuple(range(world.schedule.ordinals)), "each once"
        assert last.facts["frontier"]["unsettled"] == []
        assert last.facts["frontier"]["next_ordinal"] == world.schedule.ordinals
        if world.lives == 1 and world.config.rollout.lease_s >= PATIENCE_S and not set(+world.met) - HARMLESS:
            assert self._shell.seen["leases"] == world.schedule.ordinals, "without a fault nothing is made twice"
            assert totals.of("advdmd_buffer_duplicates_total") == 0
