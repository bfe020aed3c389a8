"""What the controller says of a run: every event as samples of the catalogue, and the status that a display shows."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from advdmd_ray.config import Config
from advdmd_ray.config.scorers import scorer_word
from advdmd_ray.controller.alarm import HackWatch, hears_final
from advdmd_ray.controller.footprint import Footprint
from advdmd_ray.controller.guard import Guard
from advdmd_ray.controller.protocols import Hub, Status
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.controller.station_clock import StationClock
from advdmd_ray.evaluation.judges.contract import Judgement
from advdmd_ray.evaluation.validation import Validated
from advdmd_ray.learner.outcome import CycleOutcome, CycleReport
from advdmd_ray.metrics.batch import Batch
from advdmd_ray.metrics.catalogue import CATALOGUE, Kind
from advdmd_ray.metrics.series import Sample
from advdmd_ray.stations.buffer.index import BufferStats, CommitResult
from advdmd_ray.stations.records import GpuUse, GroupInfo, LoadReport, WorkReport
from advdmd_ray.stations.weights.snapshot import Manifest

LEARNER = "learner"
SEND_S = 0.5
"""Seconds that samples are gathered before the hub hears of them."""


class Telemetry:
    """Turns the controller's events into metrics and keeps the few figures that a status needs.

    Samples are gathered here. The hub gets them with each cycle and twice a second, if `tick` is called that often.

    Args:
        config: The run's configuration.
        hub: Where samples go.
        workers: Names of the workers of each role.
        version: Version the run starts from.
        updates: Updates made before, by objective, when the run resumes.
        counted: Totals of all counters before, by series key, when it resumes; None: its checkpoint does not say.
        clock: Monotonic clock, seconds.
        start: Has counted the start so far.
    """

    def __init__(
        self,
        config: Config,
        hub: Hub,
        workers: Mapping[str, Sequence[str]],
        *,
        version: int,
        updates: Mapping[str, int],
        counted: Mapping[str, float] | None = None,
        clock: Callable[[], float],
        start: StartClock,
    ) -> None:
        self._config, self._hub, self._clock, self._start = config, hub, clock, start
        self.stations = StationClock(workers, clock)
        self._roles = {worker: role for role, names in workers.items() for worker in names}
        self._told_up: dict[str, int] = {}
        self._footprint = Footprint()
        self._batch = Batch()
        self._sent = clock()
        self._first = self._version = version
        self.updates = Counter(updates)
        self._counted = None if counted is None else dict(counted)
        self._report: CycleReport | None = None
        self._policy_age, self._throughput = 0, 0.0
        self._alarm, self._watched = HackWatch(config.evaluation.alarm_window), scorer_word(config.scorers.alarm or "")
        self._began = self._cycle_ended = clock()

    def begin(self) -> None:
        """The loops start now."""
        self._start.loops_begin()
        self._began = self._cycle_ended = self._clock()

    def joined(self, role: str, worker: str) -> None:
        """Another worker is to come."""
        self._roles[worker] = role
        self.stations.add(worker, role)

    def left(self, worker: str) -> None:
        """A worker was dismissed; what its process is late to say of its memory does not count."""
        self.stations.remove(worker)
        self._footprint.left(worker)

    def _tell_who_is_up(self) -> None:
        """Records how many workers are up where that has changed."""
        up = self.stations.up()
        self._record(
            Sample.of("advdmd_run_workers", count, role=role)
            for role, count in up.items()
            if self._told_up.get(role) != count
        )
        self._told_up = up

    @property
    def elapsed_s(self) -> float:
        """Seconds since the loops of the run began, be it with another gang."""
        return self._start.elapsed_s

    def leased(self) -> None:
        """A lease was given."""
        self._record([Sample.of("advdmd_rollout_leases_issued_total", 1)])

    def generated(self, report: WorkReport, trajectories: int) -> None:
        """A group of so many trajectories was generated; it is still with its actor."""
        self._resides(report.worker, report.resident_bytes, report.gpu)
        self._record(
            [
                Sample.of("advdmd_rollout_trajectories_total", trajectories),
                Sample.of("advdmd_rollout_groups_total", 1),
                Sample.of("advdmd_rollout_seconds", report.seconds),
            ]
        )

    def handed_over(self, report: WorkReport, seconds: float) -> None:
        """A group was handed over by its actor, in so many seconds."""
        self._resides(report.worker, report.resident_bytes, report.gpu)
        self._record([Sample.of("advdmd_rollout_hand_over_seconds", seconds)])

    def scored(self, report: WorkReport, result: CommitResult) -> None:
        """A group was scored and offered to the buffer."""
        self._resides(report.worker, report.resident_bytes, report.gpu)
        self._record(
            [
                Sample.of("advdmd_reward_groups_total", 1),
                Sample.of("advdmd_reward_seconds", report.seconds),
                Sample.of("advdmd_buffer_commits_total", result is CommitResult.ACCEPTED),
                Sample.of("advdmd_buffer_duplicates_total", result is CommitResult.DUPLICATE),
            ]
        )

    def lost(self, role: str, reissued: int, *, died: bool) -> None:
        """A worker died, or what it was to read is gone; so many of its ordinals are issued again."""
        self._record(
            [
                Sample.of("advdmd_run_workers_lost_total", died, role=role),
                Sample.of("advdmd_rollout_leases_reissued_total", reissued, reason="lost"),
            ]
        )

    def expired(self, count: int) -> None:
        """So many overdue leases are issued again."""
        self._record([Sample.of("advdmd_rollout_leases_reissued_total", count, reason="expired")])

    def quarantined(self, reason: Literal["not_finite", "process_ended"], reissued: int) -> None:
        """An attempt at an ordinal came to nothing; so many ordinals are issued again for it."""
        self._record(
            [
                Sample.of("advdmd_rollout_quarantined_total", 1, reason=reason),
                Sample.of("advdmd_rollout_leases_reissued_total", reissued, reason="not_finite"),
            ]
        )

    def substituted(self) -> None:
        """Another prompt took the place of an ordinal's."""
        self._record([Sample.of("advdmd_rollout_prompts_substituted_total", 1)])

    def dropped(self, count: int, reason: Literal["age", "lost"]) -> None:
        """So many groups were dropped when the learner took them: too old, or their bytes gone."""
        self._record([Sample.of("advdmd_buffer_dropped_groups_total", count, reason=reason)])

    def taken(self, infos: Sequence[GroupInfo]) -> None:
        """The learner trains on these groups."""
        self._start.ended("first_groups")
        ages = [self._version - info.policy_version for info in infos]
        reward_ages = [self._version - info.reward_version for info in infos]
        self._policy_age = max(ages)
        self._record(
            [
                *(Sample.of("advdmd_buffer_policy_age", age) for age in ages),
                *(Sample.of("advdmd_buffer_reward_age", age) for age in reward_ages),
                Sample.of("advdmd_buffer_policy_age_last", max(ages)),
                Sample.of("advdmd_buffer_reward_age_last", max(reward_ages)),
            ]
        )

    def published(self, manifest: Manifest) -> None:
        """A snapshot was published."""
        stream = manifest.stream
        self._record(
            [
                Sample.of("advdmd_weights_published_total", 1, stream=stream),
                Sample.of("advdmd_weights_published_version", manifest.version, stream=stream),
                Sample.of("advdmd_weights_snapshot_bytes", manifest.tensor_bytes, stream=stream),
            ]
        )

    def verified(self, load: LoadReport) -> None:
        """A worker loaded a snapshot and its digest was the published one."""
        self._record(
            [
                Sample.of("advdmd_weights_loaded_total", 1, stream=load.stream),
                Sample.of("advdmd_weights_verified_total", 1, stream=load.stream),
                Sample.of("advdmd_weights_worker_version", load.version, stream=load.stream, worker=load.worker),
            ]
        )

    def mismatched(self, stream: str) -> None:
        """A worker loaded other bytes than were published."""
        self._record([Sample.of("advdmd_weights_mismatched_total", 1, stream=stream)])

    def cycled(self, outcome: CycleOutcome) -> None:
        """A learner cycle is over."""
        report = outcome.report
        self.send()  # what was gathered belongs to the cycle before
        self._report, self._version = report, report.version
        self._resides(LEARNER, outcome.resident_bytes, outcome.gpu)
        self.updates.update({objective: update.updates for objective, update in report.updates.items()})
        if self.updates["rl"]:  # before, nothing follows a reward
            if report.open_levels[-1] and hears_final(self._config):
                self._alarm.rewarded("the reward", report.reward_mean[-1])
            if report.own is not None:
                self._alarm.rewarded("the user's own reward", report.own[0])
        now = self._clock()
        self._throughput = report.trajectories / max(now - self._cycle_ended, 1e-9)
        self._cycle_ended = now
        self._record(report.samples())
        if not self._start.over:
            self._start.ended("first_cycle")
            self._record(self._start.samples())

    def watched(self, guard: Guard) -> None:
        """The guard looked at a cycle."""
        self._record([Sample.of("advdmd_run_series_out", len(guard.doubtful))])

    def checkpointed(self, cycle: int, at: float | None = None) -> None:
        """The newest checkpoint is of this cycle.

        Args:
            cycle: The cycle.
            at: Unix time at which it was written; None: by an earlier start of the run.
        """
        self._record([Sample.of("advdmd_learner_checkpoint_cycle", cycle)])
        if at is not None:
            self._record([Sample.of("advdmd_learner_checkpoint_timestamp_seconds", at)])

    def checkpoint_refused(self) -> None:
        """The disk did not take a checkpoint."""
        self._record([Sample.of("advdmd_learner_checkpoints_refused_total", 1)])

    def judged(self, judgement: Judgement) -> str:
        """The judge looked at the student; what the alarm for reward hacking says if it watches that and fires."""
        figures = judgement.score.figures
        self._record(Sample.of("advdmd_run_judge", value, figure=key) for key, value in figures.items())
        return "" if self._config.alarm_hears_validation else self._hacking(judgement.headline)

    def validated(self, came: Validated) -> str:
        """The validation prompts were drawn and scored; the same of an alarm that watches one of the scorers."""
        self._record(Sample.of("advdmd_run_validation_score", mean, scorer=word) for word, mean in came.scores.items())
        return self._hacking(came.scores[self._watched]) if self._config.alarm_hears_validation else ""

    def _hacking(self, headline: float) -> str:
        self._alarm.judged(headline)
        self._record([Sample.of("advdmd_run_reward_hack_alarm", bool(self._alarm.rising))])
        falls = f"{self._watched} falls" if self._watched else "the judge's figures fall"
        return f"{self._alarm.rising} rises while {falls}" if self._alarm.rising else ""

    def gauges(self, held: BufferStats, outstanding: int) -> None:
        """The state of the run between two cycles."""
        remaining = self._remaining_s()
        self._record(
            [
                Sample.of("advdmd_run_cycle", self._version),
                Sample.of("advdmd_run_cycles_planned", self._config.run.cycles),
                Sample.of("advdmd_run_elapsed_seconds", self.elapsed_s),
                *([] if remaining is None else [Sample.of("advdmd_run_remaining_seconds", remaining)]),
                Sample.of("advdmd_rollout_trajectories_per_second", self._throughput),
                *_buffer_gauges(held, outstanding),
                Sample.of("advdmd_buffer_capacity_bytes", self._config.buffer.max_bytes),
                *self._footprint.samples(),
                *(
                    Sample.of("advdmd_run_role_seconds_total", seconds, role=role, state=state)
                    for (role, state), seconds in self.stations.drain().items()
                ),
            ]
        )
        self.send()

    def status(self, waiting_for: str, *, over: bool = False) -> Status:
        """What a display shows now, when the loops are over too."""
        return Status(
            version=self._version,
            cycles=self._config.run.cycles,
            elapsed_s=self.elapsed_s,
            remaining_s=self._remaining_s(),
            report=self._report,
            policy_age=self._policy_age,
            trajectories_per_s=self._throughput,
            updates=dict(self.updates),
            waiting_for=waiting_for,
            reward_hacking=bool(self._alarm.rising),
            start=self._start.text(),
            over=over,
        )

    def _remaining_s(self) -> float | None:
        """Time to the last cycle at the mean pace so far, or to the time limit if that comes first.

        None before a cycle has ended: the limit alone would be a promise that most runs do not need.
        """
        done, total = self._version - self._first, self._config.run.cycles - self._first
        if not done:
            return None
        by_pace = (self._clock() - self._began) / done * (total - done)
        limit = self._config.run.time_limit_s
        return by_pace if limit is None else min(by_pace, max(0.0, limit - self.elapsed_s))

    def tick(self, held: Callable[[], BufferStats], outstanding: Callable[[], int]) -> None:
        """Sends what was gathered if that is due, with the buffer's state: no cycle may come that would tell it."""
        if self._clock() - self._sent < SEND_S:
            return
        if self._batch:
            self._record(_buffer_gauges(held(), outstanding()))
        self.send()

    def send(self) -> None:
        """Gives the hub all that was gathered."""
        self._sent = self._clock()
        self._tell_who_is_up()
        samples = self._batch.drain()
        if self._counted is not None:
            for sample in samples:
                if CATALOGUE[sample.name].kind is Kind.COUNTER:
                    self._counted[sample.key] = self._counted.get(sample.key, 0.0) + sample.value
        if samples:
            self._hub.record(samples, self._version)

    def counted(self) -> dict[str, float] | None:
        """Totals of all counters by series key, as the hub has them now: what a checkpoint remembers."""
        self.send()
        return None if self._counted is None else dict(self._counted)

    def _record(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self._batch.add(sample)

    def _resides(self, worker: str, resident_bytes: int, gpu: GpuUse | None) -> None:
        if self.stations.knows(worker):
            self._footprint.told(worker, self._roles[worker], resident_bytes, gpu)


def _buffer_gauges(held: BufferStats, outstanding: int) -> tuple[Sample, ...]:
    return (
        Sample.of("advdmd_rollout_leases_outstanding", outstanding),
        Sample.of("advdmd_buffer_bytes", held.bytes),
        Sample.of("advdmd_buffer_groups", held.groups),
    )
