"""What one learner cycle did, and the same as samples of the metrics catalogue."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.health import SIDES, TextEvidence
from advdmd_ray.metrics.catalogue import phase_samples
from advdmd_ray.metrics.series import Sample
from advdmd_ray.stations.records import GpuUse, GroupInfo
from advdmd_ray.stations.weights.snapshot import Manifest

OWN = ("mean", "spread")
"""What is told of the user's own reward, in the order of `CycleReport.own`."""


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """The updates of one objective in one cycle, averaged over them and over the ranks.

    Attributes:
        updates: Optimizer updates made; not those that no term reached.
        skipped: Updates skipped for a gradient that was not finite.
        loss: Mean loss.
        gradient_norm: Largest norm of a gradient before the clip, infinite if one was not finite.
        rate: Factor of the objective's learning rate, in [0, 1].
    """

    updates: int
    skipped: int
    loss: float
    gradient_norm: float
    rate: float


@dataclass(frozen=True, slots=True)
class PolicyCycleReport:
    """The RL turn of one cycle, averaged over the gang.

    Attributes:
        masked_fraction: Share of terms that the trust region dropped.
        kl_nats: Mean divergence of a whole latent from its behaviour policy, nats.
        advantage_spread: Standard deviation of the advantages before scaling.
        stale_terms: Terms dropped because their policy was too far away.
        actions: That one update learned from, over all ranks.
    """

    masked_fraction: float
    kl_nats: float
    advantage_spread: float
    stale_terms: int
    actions: int


@dataclass(frozen=True, slots=True)
class CheckpointOutcome:
    """What came of a checkpoint: rank 0's word, which alone writes it.

    Attributes:
        path: Its folder, as text; empty where none was written.
        refused: Why the disk did not take it, one line; empty if it did.
    """

    path: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class CycleReport:
    """One learner cycle.

    Attributes:
        version: Version after the cycle; equals the number of completed cycles.
        plan: What the cadence asked for.
        updates: Report of each objective that had updates.
        auc: Held-out AUC per level 1..K, measured before the updates; nan where none is measured.
        smoothed_auc: The same, smoothed.
        open_levels: Levels whose rewards RL may use.
        reward_mean: Mean logit per level over the cycle's trajectories.
        reward_spread: Within-group standard deviation of the logit per level.
        policy: The RL turn, if there was one.
        fresh_deviation: Largest |ratio - 1| at equal weights; nan if no group of age 0 was checked.
        trajectories: Trajectories consumed over all ranks.
        seconds: Wall time of the cycle on rank 0, without waiting for groups.
        agreement: How often a level's reward orders two trajectories of a group as the oracle does, in [0, 1]; nan if
            the oracle tells none apart, empty if it is not asked.
        gan_ratio: Norm of the weighted direct GAN term by that of the DMD gradient, mean over groups and updates; nan
            if there is no such term.
        parts: Wall time of the cycle's parts on rank 0, seconds, by `catalogue.PARTS`; without what is between them.
        texts: How well the discriminator tells right from wrong texts on each of `health.SIDES`; empty if no level
            has to show it.
        own: Mean of the user's own reward, and its standard deviation inside groups; None where there is none.
    """

    version: int
    plan: CyclePlan
    updates: Mapping[str, UpdateReport]
    auc: tuple[float, ...]
    smoothed_auc: tuple[float, ...]
    open_levels: tuple[bool, ...]
    reward_mean: tuple[float, ...]
    reward_spread: tuple[float, ...]
    policy: PolicyCycleReport | None
    fresh_deviation: float
    trajectories: int
    seconds: float
    agreement: tuple[float, ...] = ()
    gan_ratio: float = math.nan
    texts: tuple[TextEvidence, ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    own: tuple[float, float] | None = None

    def samples(self) -> list[Sample]:
        """The report as samples for the metrics hub."""
        samples = [
            Sample.of("advdmd_learner_trajectories_trained_total", self.trajectories),
            Sample.of("advdmd_learner_cycle_seconds", self.seconds),
            Sample.of("advdmd_learner_gated_turns_total", self.plan.gated),
            Sample.of("advdmd_learner_silent_turns_total", self.plan.silent),
            *phase_samples(self.plan.phase),
            *(Sample.of("advdmd_learner_part_seconds_total", spent, part=part) for part, spent in self.parts.items()),
            *(
                Sample.of(f"advdmd_reward_extra_{name}", value)
                for name, value in zip(OWN, self.own or (), strict=False)
            ),
        ]
        for objective, report in self.updates.items():
            samples.append(Sample.of("advdmd_learner_updates_total", report.updates, objective=objective))
            samples.append(Sample.of("advdmd_learner_skipped_updates_total", report.skipped, objective=objective))
            if report.updates:
                samples.append(Sample.of("advdmd_learner_loss", report.loss, objective=objective))
                samples.append(Sample.of("advdmd_learner_gradient_norm", report.gradient_norm, objective=objective))
                samples.append(Sample.of("advdmd_learner_rate_factor", report.rate, objective=objective))
        for level, (mean, spread, area, is_open) in enumerate(
            zip(self.reward_mean, self.reward_spread, self.smoothed_auc, self.open_levels, strict=True), start=1
        ):
            samples.append(Sample.of("advdmd_reward_mean", mean, level=level))
            samples.append(Sample.of("advdmd_reward_spread", spread, level=level))
            if not math.isnan(area):
                samples.append(Sample.of("advdmd_learner_discriminator_auc", area, level=level))
            samples.append(Sample.of("advdmd_learner_rl_gate_open", is_open, level=level))
        samples += self._text_samples()
        for level, share in enumerate(self.agreement, start=1):
            if not math.isnan(share):
                samples.append(Sample.of("advdmd_reward_agreement", share, level=level))
        if not math.isnan(self.gan_ratio):
            samples.append(Sample.of("advdmd_learner_gan_ratio", self.gan_ratio))
        if not math.isnan(self.fresh_deviation):
            samples.append(Sample.of("advdmd_learner_ratio_deviation", self.fresh_deviation))
        if self.policy is not None:
            samples.append(Sample.of("advdmd_learner_rl_masked_fraction", self.policy.masked_fraction))
            samples.append(Sample.of("advdmd_learner_kl_nats", self.policy.kl_nats))
            samples.append(Sample.of("advdmd_learner_advantage_spread", self.policy.advantage_spread))
            samples.append(Sample.of("advdmd_learner_rl_terms_dropped_total", self.policy.stale_terms))
            samples.append(Sample.of("advdmd_learner_rl_actions", self.policy.actions))
        return samples

    def _text_samples(self) -> list[Sample]:
        """What is known of the texts, of levels where anything is."""
        samples = []
        for side, evidence in zip(SIDES, self.texts, strict=False):
            for level, (share, error) in enumerate(zip(evidence.agreement, evidence.error, strict=True), start=1):
                if not math.isnan(share):
                    place = {"level": level, "side": side}
                    samples.append(Sample.of("advdmd_learner_text_agreement", share, **place))
                    samples.append(Sample.of("advdmd_learner_text_agreement_error", error, **place))
        return samples


@dataclass(frozen=True, slots=True)
class CycleOutcome:
    """What the gang returns after a cycle.

    Attributes:
        report: What the cycle did.
        student: Manifest of the new student snapshot.
        discriminator: Manifest of the new discriminator snapshot.
        resident_bytes: Resident memory of rank 0's process.
        gpu: What it has of its GPU; None: it has none.
    """

    report: CycleReport
    student: Manifest
    discriminator: Manifest
    resident_bytes: int
    gpu: GpuUse | None = None


def mean_agreement(infos: Sequence[GroupInfo]) -> tuple[float, ...]:
    """Mean over the groups in which the oracle tells two trajectories apart, per level; nan if there is none."""
    means = []
    for column in zip(*(info.agreement for info in infos), strict=True):
        known = [share for share in column if not math.isnan(share)]
        means.append(sum(known) / len(known) if known else math.nan)
    return tuple(means)
