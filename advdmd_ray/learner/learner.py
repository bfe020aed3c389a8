"""One rank of the learner: it owns the networks' optimizer state, the cadence and the versions.

A cycle takes this rank's groups and, in this order: measures, on held-out images, a discriminator that is trained (what
is known of it opens or shuts levels to RL), trains the fake score and the discriminator, makes the RL turn if the
cadence has one, then the DMD updates. Before the first update of each RL turn, and once in a cycle without one, groups
of age 0 must have importance ratio 1. RL comes before DMD so that it meets the student that the newest groups were made
with. Afterwards the version is one higher and the weights are ready to publish.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.resolution import Resolution
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.errors import RatioError
from advdmd_ray.learner.actions import Actions, minibatch_slices, strongest
from advdmd_ray.learner.averages import Averages
from advdmd_ray.learner.batch import LearnerBatch, clean_predictions, collate
from advdmd_ray.learner.cadence import Cadence, CyclePlan, measures
from advdmd_ray.learner.checkpoint import Checkpoint, check_origin
from advdmd_ray.learner.engine import Engine, build_engine
from advdmd_ray.learner.gang import Gang
from advdmd_ray.learner.health import Health, initial_health, smoothed_health
from advdmd_ray.learner.heldout import HeldOut
from advdmd_ray.learner.laps import Laps
from advdmd_ray.learner.networks import Networks, carried_weights
from advdmd_ray.learner.objectives import discriminator_parts, dmd_parts, fake_score_parts
from advdmd_ray.learner.outcome import CycleReport, PolicyCycleReport, mean_agreement
from advdmd_ray.learner.policy import PolicyReport, TurnReports, policy_means, policy_parts, ratio_deviation
from advdmd_ray.learner.setting import settings_of
from advdmd_ray.learner.signal import RewardSignal, own_moments
from advdmd_ray.learner.tensor_file import TensorStream, cpu_copy
from advdmd_ray.learner.updates import Updates, rate_of
from advdmd_ray.losses.advantage import GroupSummary, merge, within_std
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import GroupInfo, ScoredGroup
from advdmd_ray.stations.weights.snapshot import Snapshot, pack

# At equal weights two runs of one kernel may differ by round-off only, which depends on the rows of a call.
RATIO_TOLERANCE = {"float32": 1e-6, "bfloat16": 1e-3}


class Learner:
    """One rank of the gang; every rank calls every method in the same order."""

    def __init__(
        self,
        config: Config,
        gang: Gang,
        networks: Networks,
        table: PromptTable,
        real: RealImages,
        *,
        kernel: Kernel,
        resolutions: Sequence[Resolution],
    ) -> None:
        self._config = config
        self._gang = gang
        self._kernel, self._resolutions = kernel, tuple(resolutions)
        self._settings = settings_of(config, networks, table, real, kernel, resolutions)
        self.device = networks.device
        # Rank 0 samples alone, so not with weights that are spread over the ranks; the teacher's have the same names.
        self._sampler = networks.teacher if config.learner.partitions_weights else networks.student
        self._carried = carried_weights(networks)
        self._origin = {"teacher": networks.base_digest, "data": real.digest(table.texts)}
        self._engines = self._build_engines(networks)
        decays = {"student": config.learner.ema_decay, "discriminator": config.reward.ema_decay}
        self._averages = Averages(gang, self._engines, decays, self.device)
        self._cadence = Cadence(config.cadence, policy_gradient=config.policy_gradient.enabled)
        self._health: Health = initial_health(config)
        self._heldout = tuple(HeldOut(setting) for setting in self._settings)
        self._signal = RewardSignal(config)
        self._gathered: dict[str, Tensor] | None = None
        self._ratio_checked, self.version = False, 0

    def _build_engines(self, networks: Networks) -> dict[str, Engine]:
        config = self._config
        rates = {
            "student": {"dmd": config.dmd.learning_rate, "rl": config.policy_gradient.learning_rate},
            "fake_score": {"fake_score": config.fake_score.learning_rate},
            "discriminator": {"discriminator": config.discriminator.learning_rate},
        }
        modules: dict[str, nn.Module] = {
            "student": networks.student,
            "fake_score": networks.fake_score,
            "discriminator": networks.discriminator,
        }
        return {
            name: build_engine(
                module,
                kind=config.learner.engine,
                objectives=rates[name],
                betas=config.learner.betas,
                weight_decay=config.learner.weight_decay,
                max_grad_norm=config.learner.max_grad_norm,
                zero_stage=config.learner.zero_stage,
                offload_optimizer=config.learner.offload_optimizer,
                offload_activations=config.learner.offload_activations,
                gang=self._gang,
                device=self.device,
            )
            for name, module in modules.items()
        }

    def cycle(self, groups: Sequence[ScoredGroup], infos: Sequence[GroupInfo]) -> CycleReport:
        """Learns from one cycle's groups.

        Args:
            groups: This rank's share.
            infos: Metadata of the groups of all ranks; their reward moments give every rank the same scales.

        Raises:
            RatioError: if a fresh group's importance ratio is not 1 within 1e-6 before the student's first
                update of the cycle.
        """
        began, laps = time.monotonic(), Laps()
        batch = collate(groups, self.version)
        setting = self._settings[self._size_of(batch)]
        summaries = [GroupSummary(info.samples, info.reward_mean, info.reward_m2) for info in infos]
        moments, spread = merge(summaries), within_std(summaries)
        measured = self._measure(batch) if measures(self._config, self.version) else None
        unknown, open_levels = (math.nan,) * self._config.steps, self._health.open_levels
        own = self._signal.follow(spread, open_levels, own_moments(infos))
        advantages, advantage_spread = self._signal.advantages(batch, spread, open_levels, own)
        heard, now = self._heard(advantages), measured is not None
        plan = self._cadence.plan(self._health, self._signal.used_levels, heard=heard, own=bool(own), measured=now)
        student, fake_score, discriminator = self._engines.values()
        laps.ended("measure")
        clean = clean_predictions(batch, setting.kernel)
        fake_score_updates = self._updates("fake_score", "fake_score", plan.fake_score)
        fake_score_updates.all(lambda path: fake_score_parts(fake_score, setting, batch, clean, path), laps)
        discriminator_updates = self._updates("discriminator", "discriminator", plan.discriminator)
        discriminator_updates.all(lambda path: discriminator_parts(discriminator, setting, batch, clean, path), laps)
        turns, policy, deviation = [], None, math.nan
        if plan.policy_gradient:
            plan, turns, policy, deviation = self._policy_turn(plan, batch, advantages, advantage_spread)
        elif not self._ratio_checked:
            deviation = self._check_ratio(batch)
        laps.ended("rl")
        dmd_updates = self._updates("student", "dmd", plan.dmd)
        critics, ratios, gan = (fake_score.module, discriminator.module), list[Tensor](), plan.gan
        dmd_updates.all(lambda path: dmd_parts(student, *critics, setting, batch, path, ratios.append, gan=gan), laps)
        self._gathered = self._averages.update(keep="student")
        laps.ended("average")
        self.version += 1
        made = (fake_score_updates, discriminator_updates, *turns, dmd_updates)
        return CycleReport(
            version=self.version,
            plan=plan,
            updates={each.objective: each.report(self._gang) for each in made},
            auc=unknown if measured is None else measured,
            smoothed_auc=self._health.auc if self._config.measures_auc else unknown,
            open_levels=open_levels,
            texts=self._health.texts,
            reward_mean=moments.mean,
            reward_spread=tuple(spread.tolist()),
            policy=policy,
            fresh_deviation=deviation,
            trajectories=moments.count,
            seconds=time.monotonic() - began,
            parts=laps.seconds,
            agreement=mean_agreement(infos),
            own=own,
            gan_ratio=float(self._gang.mean(torch.cat(ratios).mean())) if ratios else math.nan,
        )

    def _size_of(self, batch: LearnerBatch) -> int:
        """Number of the size of a cycle's images."""
        shapes: list[tuple[int, ...]] = [resolution.latent_shape for resolution in self._resolutions]
        return shapes.index(batch.latent_shape)

    def _updates(self, network: str, objective: str, count: int) -> Updates:
        rate = rate_of(objective, self._config, self.version, self._cadence.state.rl_began)
        return Updates(self._engines[network], objective, count, version=self.version, rate=rate)

    def _measure(self, batch: LearnerBatch) -> tuple[float, ...]:
        """Measures the weights that judge on all groups of all ranks, for their health; returns the AUC per level."""
        with self._engines["discriminator"].wearing(self._averages.everywhere("discriminator")) as judge:
            local = self._heldout[self._size_of(batch)].measure(judge, batch, ("auc", self.version))
        measured = tuple(self._gang.mean(local.auc).tolist())
        texts = (self._gang.mean(local.texts) * self._gang.size).tolist() if len(local.texts) else []
        self._health = smoothed_health(self._health, measured, texts, self._config.discriminator.auc_decay)
        return measured

    def _check_ratio(self, batch: LearnerBatch) -> float:
        """Asserts ratio 1 on fresh groups in a cycle without an RL turn; once a run is enough there."""
        if not self._kernel.is_stochastic or not batch.stds.numel():
            return float("nan")
        everything, setting = Actions.of(batch), self._settings[self._size_of(batch)]
        with torch.no_grad():
            means = policy_means(self._engines["student"].module, setting, batch, everything)
        return self._assert_ratio(ratio_deviation(means, batch, everything))

    def _assert_ratio(self, deviation: float | None) -> float:
        if deviation is None:
            return float("nan")
        allowed = RATIO_TOLERANCE[self._config.model.precision]
        if not deviation <= allowed:  # not a number is no ratio either
            raise RatioError(
                f"learner rank {self._gang.rank}: importance ratio differs from 1 by {deviation:.2e} at equal weights "
                f"(version {self.version}, allowed {allowed:.0e}); rollout and learner do not run the same step"
            )
        self._ratio_checked = True
        return deviation

    def _heard(self, advantages: Tensor) -> bool:
        """Whether any on any rank differs from 0. Without, the gradient is 0 and Adam would go on by its momentum."""
        return float(self._gang.mean(advantages.abs().max())) > 0

    def _policy_turn(
        self, plan: CyclePlan, batch: LearnerBatch, advantages: Tensor, spread: float
    ) -> tuple[CyclePlan, list[Updates], PolicyCycleReport, float]:
        """One RL turn, an update for each share of the chosen rows; the plan is withdrawn if no action reached one."""
        config, setting = self._config.policy_gradient, self._settings[self._size_of(batch)]
        actions = Actions.of(batch, advantages)
        if config.group_rows is not None:
            actions = actions.chosen(strongest(advantages, config.group_rows))
        reports, deviations = TurnReports(self._gang), list[float]()

        def told(report: PolicyReport) -> None:
            if turn.made == 0:  # the weights are those that acted
                deviations.append(self._assert_ratio(report.fresh_deviation))
            reports.told(report)

        everything = minibatch_slices(actions.advantages.shape[1], config.minibatches)
        shares = [share for share in everything if self._heard(actions.advantages[:, share])]
        turn = self._updates("student", "rl", len(shares))
        for _, share in zip(turn, shares, strict=True):
            parts = policy_parts(self._engines["student"], setting, batch, actions.share(share), told)
            turn.step(parts, reports.any_learnt)
        each = actions.advantages.numel() // config.minibatches
        policy = reports.whole(updates=len(shares), actions=each, spread=spread)
        deviation = max((each for each in deviations if not math.isnan(each)), default=math.nan)
        return self._cadence.withdraw(plan) if turn.idle else plan, [turn], policy, deviation

    def published(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights of student and discriminator that rollout actors and reward workers run. Collective.

        Rank 0's: the others help to gather and get nothing. The discriminator has the average of what it trains,
        `reward.ema_decay`. With it go the weights of a backbone that learns: workers judge by the very network that
        the next cycle's AUC is measured of.
        """
        student = self._student()
        backbone = self._engines["fake_score"].weights() if self._carried else TensorStream.of({})
        if self._gang.rank != 0:
            backbone.drain()
            return {}, {}
        # Copies: a snapshot is read while the averages go on.
        judge = {name: cpu_copy(weight) for name, weight in self._averages.of("discriminator").items()}
        carried = {theirs: name for name, theirs in self._carried.items()}
        judge |= {carried[theirs]: cpu_copy(weight) for theirs, weight in backbone if theirs in carried}
        return student, judge

    def _student(self) -> dict[str, Tensor]:
        """The student's weights, on rank 0: as a cycle gathered them for the average, or gathered now. Collective."""
        gathered, self._gathered = self._gathered, None
        if gathered is None:
            weights = self._engines["student"].weights()
            gathered = weights.copied() if self._gang.rank == 0 else {}
            weights.drain()
        return gathered

    def packed(self, student: Mapping[str, Tensor], discriminator: Mapping[str, Tensor]) -> tuple[Snapshot, Snapshot]:
        """Snapshots of what `published` gave rank 0 at this version."""
        return (
            pack("student", self.version, student, self._origin["teacher"]),
            pack("discriminator", self.version, discriminator, self._origin["teacher"]),
        )

    def snapshots(self) -> tuple[Snapshot, Snapshot]:
        """Student and discriminator of this version, packed, in a gang of one."""
        return self.packed(*self.published())

    def ema(self) -> dict[str, Tensor]:
        """A copy of the student's EMA by name, float32 on the CPU; rank 0's."""
        return TensorStream.of(self._averages.of("student")).copied()

    @torch.no_grad()
    def sample_ema(self, conditioning: Conditioning, seeds: Sequence[int], size: int = 0) -> Float[Tensor, "b c h w"]:
        """Final latents of the student's EMA, with the kernel and levels it is trained with. Rank 0 does it alone.

        Args:
            conditioning: One row for each latent.
            seeds: One for each latent.
            size: Number of the size that all of them have.
        """
        average = {name: weight.to(self.device) for name, weight in self._averages.of("student").items()}

        def averaged(
            x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
        ) -> Float[Tensor, "b c h w"]:
            return torch.func.functional_call(self._sampler, average, (x, t, conditioning))

        resolution = self._resolutions[size]
        x = group_noise(resolution.latent_shape, seeds, "initial")
        return sample(averaged, conditioning, self._kernel, resolution.sigmas, x, seeds=seeds)

    def tensors(self) -> dict[str, TensorStream]:
        """Everything a checkpoint stores as tensors, by file stem. Collective: all ranks go through all."""
        stored = self._averages.streams()
        for name, engine in self._engines.items():
            stored[name] = engine.weights()
            stored[f"{name}_optimizer"] = engine.optimizer_tensors()
        return stored | {"reward_statistics": self._signal.tensors()}

    def facts(self) -> dict[str, Any]:
        """Everything a checkpoint stores as JSON: version, cadence, discriminator health and the teacher's digest."""
        return {
            "version": self.version,
            "cadence": self._cadence.to_facts(),
            **self._origin,
            **self._health.to_facts(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continues from a checkpoint. Collective.

        Raises:
            CheckpointError: as `check_origin`.
        """
        facts = checkpoint.facts["learner"]
        check_origin(checkpoint, self._origin)
        for name, engine in self._engines.items():
            engine.load_state_dict(checkpoint.load(name))
            engine.load_optimizer_state(checkpoint.load(f"{name}_optimizer"))
        self._averages.load(checkpoint, facts["version"])  # each cycle moves them once
        self._gathered = None
        if "reward_statistics" in checkpoint.stems:
            self._signal.restore(checkpoint.load("reward_statistics"))
        self._cadence.restore(facts["cadence"])
        if self._config.measures_auc:  # or the discriminator might rest for ever on what was measured once
            self._health = self._health.restored(facts)
        self.version = facts["version"]
