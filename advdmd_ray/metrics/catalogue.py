"""The catalogue: every series that can exist, with its kind, labels, unit, help and buckets.

Names follow Prometheus: base units, `_total` on counters, the unit as a suffix. The prefix names the station that
the value describes, not the process that measured it. A series that is not listed here cannot be recorded.

`advdmd_rollout_seconds`, `advdmd_rollout_hand_over_seconds` and `advdmd_reward_seconds` are per group; `level` counts
the states of a trajectory from 1 to K, K being the final image; `objective` is the loss that moved a network (dmd and
rl both move the student).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from advdmd_ray.metrics.series import Sample


class Kind(StrEnum):
    """What a series is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Station(StrEnum):
    """The station a series belongs to; its metric prefix is `advdmd_<station>_`."""

    ROLLOUT = "rollout"
    REWARD = "reward"
    BUFFER = "buffer"
    LEARNER = "learner"
    WEIGHTS = "weights"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Series:
    """One entry of the catalogue.

    Attributes:
        name: Full name, `advdmd_<station>_...`; counters end in `_total`.
        kind: Counter, gauge or histogram.
        help: One sentence for /metrics and for readers of the dashboard.
        unit: Unit of the value; empty for plain numbers.
        labels: Names of the labels, in order.
        buckets: Upper bounds of a histogram; empty for the other kinds.
        reasons: Values of the label `reason`.
    """

    name: str
    kind: Kind
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def station(self) -> Station:
        """The station in the name."""
        return Station(self.name.split("_")[1])

    def values_of(self, label: str) -> tuple[str, ...] | None:
        """The values that a label can have; None: any plain word."""
        return self.reasons if label == "reason" else LABEL_VALUES.get(label)


PHASES = ("warm", "ramp", "full")
"""The phases of the cadence, in their order: their number is the value of `advdmd_run_phase`."""

STAGES = ("imports", "ray", "images", "texts", "workers", "first_groups", "first_cycle")
"""The stages of a run's start, in their order; a run passes through those that it has."""

OUTCOMES = ("completed", "stopped", "diverged", "failed")
"""How a run ends: its cycles or its time are done; it was asked to stop; its guard stopped it; anything else."""

PARTS = ("measure", "fake_score", "discriminator", "rl", "dmd", "average", "publish")
"""The parts of a learner cycle, in their order; see `Learner.cycle`."""

# Labels with a closed set of values, beside `reason`, whose values hang on the series. The others (worker, level,
# figure) are open, but must be one plain word. No counter has one of them, so all its series are there from the start.
LABEL_VALUES: dict[str, tuple[str, ...]] = {
    "objective": ("dmd", "rl", "fake_score", "discriminator"),
    "stream": ("student", "discriminator"),
    "role": ("rollout", "reward", "learner"),
    "state": ("busy", "waiting", "blocked", "down"),
    "phase": PHASES,
    "stage": STAGES,
    "side": ("real", "student"),
    "outcome": OUTCOMES,
    "part": PARTS,
}

_WORK_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_AGES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


def _counter(name: str, text: str, *labels: str, unit: str = "", reasons: tuple[str, ...] = ()) -> Series:
    labels = (*labels, "reason") if reasons else labels
    return Series(f"advdmd_{name}_total", Kind.COUNTER, text, unit, labels, reasons=reasons)


def _gauge(name: str, text: str, *labels: str, unit: str = "") -> Series:
    return Series(f"advdmd_{name}", Kind.GAUGE, text, unit, labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], unit: str) -> Series:
    return Series(f"advdmd_{name}", Kind.HISTOGRAM, text, unit, (), buckets)


_ROLLOUT = (
    _counter("rollout_trajectories", "Trajectories generated.", unit="trajectories"),
    _counter("rollout_groups", "Groups generated.", unit="groups"),
    _gauge("rollout_trajectories_per_second", "Trajectories generated per second over the last cycle.", unit="1/s"),
    _histogram("rollout_seconds", "Time to generate one group.", _WORK_SECONDS, "s"),
    _histogram("rollout_hand_over_seconds", "Time from the actor of a group to the object store.", _WORK_SECONDS, "s"),
    _counter("rollout_leases_issued", "Leases issued, first issues and re-issues.", unit="leases"),
    _counter(
        "rollout_leases_reissued",
        "Leases issued again, by reason.",
        unit="leases",
        reasons=("expired", "lost", "not_finite"),
    ),
    _counter(
        "rollout_quarantined",
        "Attempts that came to nothing, by reason.",
        unit="groups",
        reasons=("not_finite", "process_ended"),
    ),
    _counter("rollout_prompts_substituted", "Ordinals whose prompt was replaced by another.", unit="ordinals"),
    _gauge("rollout_leases_outstanding", "Leases issued and not yet committed.", unit="leases"),
)
_REWARD = (
    _gauge("reward_mean", "Mean reward of the last cycle's groups, logit or oracle's score.", "level", unit="logits"),
    _gauge("reward_spread", "Within-group standard deviation of the reward.", "level", unit="logits"),
    _gauge("reward_agreement", "Share of pairs that discriminator and oracle order alike; 0.5 is chance.", "level"),
    _gauge("reward_extra_mean", "Mean of the user's own reward (reward.extra) of the last cycle's groups."),
    _gauge("reward_extra_spread", "Within-group standard deviation of the user's own reward (reward.extra)."),
    _counter("reward_groups", "Groups scored.", unit="groups"),
    _histogram("reward_seconds", "Time to score one group.", _WORK_SECONDS, "s"),
)
_BUFFER = (
    _gauge("buffer_bytes", "Serialised bytes held.", unit="bytes"),
    _gauge("buffer_capacity_bytes", "Bytes above which rollouts are paced (buffer.max_bytes).", unit="bytes"),
    _gauge("buffer_groups", "Groups held.", unit="groups"),
    _counter("buffer_commits", "Groups committed.", unit="groups"),
    _counter("buffer_duplicates", "Commits refused because the ordinal was there before.", unit="groups"),
    _counter(
        "buffer_dropped_groups",
        "Groups dropped unused and issued again, by reason.",
        unit="groups",
        reasons=("age", "lost"),
    ),
    _histogram("buffer_policy_age", "Learner version minus policy version at take.", _AGES, "versions"),
    _gauge("buffer_policy_age_last", "Largest policy age of the last take.", unit="versions"),
    _histogram("buffer_reward_age", "Discriminator version minus reward version at take.", _AGES, "versions"),
    _gauge("buffer_reward_age_last", "Largest reward age of the last take.", unit="versions"),
)
_LEARNER = (
    _gauge("learner_loss", "Loss of the objective, mean over the last cycle.", "objective"),
    _gauge("learner_gradient_norm", "Largest gradient norm of the cycle before the clip.", "objective"),
    _gauge("learner_rate_factor", "Share of the objective's learning rate that its last updates had.", "objective"),
    _gauge("learner_gan_ratio", "Norm of the direct GAN term by that of the DMD gradient, both at x0."),
    _counter("learner_updates", "Optimizer updates.", "objective", unit="updates"),
    _counter("learner_skipped_updates", "Updates skipped for a non-finite gradient.", "objective", unit="updates"),
    _gauge("learner_discriminator_auc", "Held-out AUC of the discriminator, real against fake.", "level"),
    _gauge("learner_rl_gate_open", "1 where RL may use the level's reward, else 0.", "level"),
    _gauge(
        "learner_text_agreement",
        "Share of states that score higher with their own text than with a wrong one, smoothed; 0.5 is chance.",
        "level",
        "side",
    ),
    _gauge("learner_text_agreement_error", "Standard error of the text agreement at chance.", "level", "side"),
    _counter("learner_gated_turns", "RL turns that were due while no level was open to RL.", unit="turns"),
    _counter(
        "learner_silent_turns",
        "RL turns due while every advantage was 0, or that reached no update.",
        unit="turns",
    ),
    _gauge("learner_ratio_deviation", "Largest |importance ratio - 1| at equal weights."),
    _gauge("learner_rl_masked_fraction", "Share of RL terms the trust region dropped."),
    _gauge("learner_kl_nats", "Divergence of a whole latent from its behaviour policy.", unit="nats"),
    _gauge("learner_advantage_spread", "Standard deviation of the advantages before scaling."),
    _counter("learner_rl_terms_dropped", "Actions left out of RL: too far from the policy that acted.", unit="actions"),
    _gauge("learner_rl_actions", "Actions that one RL update learned from, last turn.", unit="actions"),
    _counter("learner_trajectories_trained", "Trajectories consumed by a cycle.", unit="trajectories"),
    _counter("learner_checkpoints_refused", "Checkpoints that the disk refused; tried again."),
    _gauge("learner_restarts", "Gangs that were lost since the run's process began, and started again."),
    _gauge("learner_checkpoint_cycle", "Cycle of the newest checkpoint; less the run's: its age.", unit="cycles"),
    _gauge("learner_checkpoint_timestamp_seconds", "Unix time of the newest checkpoint of this start.", unit="s"),
    _counter("learner_part_seconds", "Time of the parts of learner cycles, rank 0's.", "part", unit="s"),
    _histogram("learner_cycle_seconds", "Time of one learner cycle, without the wait for groups.", _WORK_SECONDS, "s"),
)
_WEIGHTS = (
    _counter("weights_published", "Snapshots published.", "stream", unit="snapshots"),
    _counter("weights_loaded", "Snapshots loaded by workers.", "stream", unit="loads"),
    _counter("weights_verified", "Loads whose digest matched the manifest.", "stream", unit="loads"),
    _counter("weights_mismatched", "Loads whose digest differed; the run stops at the first.", "stream", unit="loads"),
    _gauge("weights_published_version", "Newest published version.", "stream", unit="version"),
    _gauge("weights_worker_version", "Version a worker last reported.", "stream", "worker", unit="version"),
    _gauge("weights_snapshot_bytes", "Size of the newest snapshot.", "stream", unit="bytes"),
)
_RUN = (
    _gauge("run_cycle", "Learner cycles completed.", unit="cycles"),
    _gauge("run_cycles_planned", "Learner cycles the run will make (run.cycles).", unit="cycles"),
    _gauge("run_start_seconds", "Time from the start of the run to the end of its first cycle.", "stage", unit="s"),
    _gauge("run_elapsed_seconds", "Time since training began.", unit="s"),
    _gauge("run_remaining_seconds", "Estimated time to the last cycle.", unit="s"),
    _gauge("run_phase", "Cadence phase: 0 warm, 1 ramp, 2 full."),
    _gauge("run_phase_active", "1 for the phase the cadence is in, 0 for the others.", "phase"),
    _counter(
        "run_role_seconds",
        "Worker time busy, waiting for work, blocked, or down.",
        "role",
        "state",
        unit="s",
    ),
    _gauge("run_resident_memory_bytes", "Resident memory, summed over the workers of a role.", "role", unit="bytes"),
    _gauge("run_gpu_memory_bytes", "GPU memory that torch holds; learner: rank 0's.", "role", unit="bytes"),
    _gauge("run_gpu_utilisation", "Share of time the workers' GPUs compute, seen as work ends.", "role"),
    _gauge("run_object_store_bytes", "Ray's object store in use, all nodes.", unit="bytes"),
    _gauge("run_object_store_capacity_bytes", "Ray's object store, all nodes.", unit="bytes"),
    _gauge("run_judge", "The judge's figures of the student's moving average, by figure.", "figure"),
    _gauge("run_validation_score", "Mean score of the validation prompts' images, by scorer.", "scorer"),
    _gauge("run_reward_hack_alarm", "1 while a reward rises and the judge's headline or a scorer falls, else 0."),
    _gauge("run_series_out", "Losses, gradient norms and spreads outside the range of their past.", unit="series"),
    _gauge("run_workers", "Workers alive.", "role", unit="workers"),
    _counter("run_workers_lost", "Workers that died or became unreachable.", "role", unit="workers"),
    _gauge("run_finished", "1 once the run has ended like this; served until it was scraped.", "outcome"),
)

CATALOGUE: dict[str, Series] = {
    series.name: series for series in (*_ROLLOUT, *_REWARD, *_BUFFER, *_LEARNER, *_WEIGHTS, *_RUN)
}


def phase_samples(phase: str) -> list[Sample]:
    """The samples that say which phase the cadence is in, as a number and as one label set.

    Raises:
        ValueError: if `phase` is not one of warm, ramp and full.
    """
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, got {phase!r}")
    active = [Sample.of("advdmd_run_phase_active", name == phase, phase=name) for name in PHASES]
    return [Sample.of("advdmd_run_phase", PHASES.index(phase)), *active]


def finished_sample(outcome: str) -> Sample:
    """The sample that says how a run ended, with one of `OUTCOMES`."""
    return Sample.of("advdmd_run_finished", 1, outcome=outcome)


def closed_label_sets(series: Series) -> Iterable[tuple[str, ...]]:
    """All label values of a series whose labels are closed sets; nothing if one of its labels is open.

    A counter made at 0 for each of them lets an alert see its first increment.
    """
    rows: list[tuple[str, ...]] = [()]
    for label in series.labels:
        values = series.values_of(label)
        if values is None:
            return []
        rows = [(*row, text) for row in rows for text in values]
    return rows
