"""The whole configuration and the laws between its sections."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from advdmd_ray.config.adapters import check_adapters
from advdmd_ray.config.base import Resume, Section
from advdmd_ray.config.faults import GuardSection, QuarantineSection
from advdmd_ray.config.inputs import DataSection, LoraSection, ModelSection
from advdmd_ray.config.metrics import MetricsSection
from advdmd_ray.config.objectives import (
    CadenceSection,
    DiscriminatorSection,
    DistributionMatchingSection,
    FakeScoreSection,
    PolicyGradientSection,
)
from advdmd_ray.config.rewards import check_rewards, unheard
from advdmd_ray.config.scaling import AutoscaleSection
from advdmd_ray.config.scorers import ScorersSection, ValidationSection
from advdmd_ray.config.sections import (
    BufferSection,
    DiffusionSection,
    EvaluationSection,
    LearnerSection,
    RaySection,
    Resources,
    RewardSection,
    RolloutSection,
    RunSection,
)


class Config(Section):
    """The whole configuration, one section a station."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    lora: LoraSection = LoraSection()
    data: DataSection = DataSection()
    diffusion: DiffusionSection = DiffusionSection()
    rollout: RolloutSection = RolloutSection()
    reward: RewardSection = RewardSection()
    buffer: BufferSection = BufferSection()
    learner: LearnerSection = LearnerSection()
    dmd: DistributionMatchingSection = DistributionMatchingSection()
    fake_score: FakeScoreSection = FakeScoreSection()
    discriminator: DiscriminatorSection = DiscriminatorSection()
    policy_gradient: PolicyGradientSection = PolicyGradientSection()
    cadence: CadenceSection = CadenceSection()
    metrics: MetricsSection = MetricsSection()
    evaluation: EvaluationSection = EvaluationSection()
    scorers: ScorersSection = ScorersSection()
    validation: ValidationSection = ValidationSection()
    guard: GuardSection = GuardSection()
    quarantine: QuarantineSection = QuarantineSection()
    autoscale: AutoscaleSection = AutoscaleSection()
    ray: RaySection = RaySection()

    @classmethod
    def settings(cls, *kinds: Resume) -> tuple[tuple[str, str], ...]:
        """Section and name of every setting that says one of `kinds` in its type, in order."""
        return tuple(
            (section, name)
            for section, part in cls()
            for name, field in type(part).model_fields.items()
            if any(said in kinds for said in field.metadata)
        )

    @property
    def roles(self) -> Mapping[str, Resources]:
        """The section of each role that computes with networks, by its name."""
        return {"rollout": self.rollout, "reward": self.reward, "learner": self.learner}

    @property
    def at_start(self) -> "Config":
        """The same with as many workers as a run may start with."""
        rollout = {"actors": self.rollout.actors_min or self.rollout.actors}
        reward = {"workers": self.reward.workers_min or self.reward.workers}
        sections = {"rollout": self.rollout.model_copy(update=rollout), "reward": self.reward.model_copy(update=reward)}
        return self.model_copy(update=sections)

    @property
    def steps(self) -> int:
        """Student steps K."""
        return len(self.diffusion.sigmas)

    @property
    def rl_rows(self) -> int:
        """Rows of each group and step that RL learns from."""
        chosen = self.policy_gradient.group_rows
        return self.rollout.group_size if chosen is None else chosen

    def group_size_at(self, cycle: int) -> int:
        """Trajectories of each group that a cycle, counted from 0, consumes."""
        warm = self.rollout.warm_group_size
        if warm is None:
            return self.rollout.group_size
        # A discriminator that stays gated only puts RL off.
        rl_can_begin = cycle >= self.cadence.warm_cycles
        return self.rollout.group_size if self.policy_gradient.enabled and rl_can_begin else warm

    @property
    def last_group_size(self) -> int:
        """Trajectories of each group of a long run's last cycles; no earlier group is larger."""
        return self.group_size_at(self.cadence.warm_cycles)

    def group_size_of(self, ordinal: int) -> int:
        """Trajectories of the group at a position of the prompt stream; cycles consume it in order."""
        return self.group_size_at(ordinal // self.rollout.groups_per_cycle)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.run.output) / self.run.name

    @property
    def latents(self) -> Path:
        """Folder of the latents of real images."""
        return Path(self.run.output) / "latents" if self.data.cache is None else Path(self.data.cache)

    @property
    def sizes(self) -> tuple[tuple[int, int] | None, ...]:
        """Height and width of each size that images of this run have, in pixels; None: the model's own."""
        return self.data.buckets or (self.model.pixels,)

    @property
    def main_size(self) -> tuple[int, int] | None:
        """The size of images where nobody chooses one; None: the model's own."""
        return self.model.pixels or self.sizes[0]

    @property
    def judged_guidance(self) -> float:
        """CFG scale at which the teacher is judged."""
        given = self.evaluation.teacher_guidance
        return self.model.guidance if given is None else given

    @property
    def merges_adapters(self) -> bool:
        """Whether rollout actors and reward workers run with adapters merged into the weights."""
        merge = self.model.precision == "float32" if self.lora.merge is None else self.lora.merge
        return merge and self.lora.rank > 0

    @property
    def rewarded_by(self) -> Literal["discriminator", "oracle", "nobody"]:
        """Who scores the trajectories; nobody where the only candidate is a discriminator that is not trained."""
        if self.reward.kind == "discriminator" and not self.cadence.discriminator_updates:
            return "nobody"
        return self.reward.kind

    @property
    def gan_share(self) -> float:
        """Share of the discriminator's rows that are judged as the direct GAN term judges, at levels of its own.

        None where its levels are those of the rewards, all where no RL reads a score of the discriminator, else half.
        """
        if self.dmd.gan_weight == 0 or self.dmd.gan_levels == "final":
            return 0.0
        read = self.policy_gradient.enabled and self.rewarded_by == "discriminator" and self.unheard is None
        return 0.5 if read else 1.0

    @property
    def unheard(self) -> str | None:
        """Why no score of a discriminator that gives rewards ever reaches RL; None if one may.

        Such a run is refused, unless it learns from a reward of the user's own.
        """
        if self.rewarded_by != "discriminator":
            return None
        why = unheard(
            discriminator=self.discriminator,
            gradient=self.policy_gradient,
            groups=self.rollout.groups_per_cycle,
            steps=self.steps,
        )
        return None if why is None else why[0]

    @property
    def asks_oracle(self) -> bool:
        """Whether a checker of single images is wanted, as the reward or to compare with."""
        return self.reward.kind == "oracle" or self.reward.oracle_agreement

    @property
    def validates_every(self) -> int:
        """Cycles between two validations; 0: there are none."""
        return 0 if self.validation.prompts is None else self.validation.cycles

    @property
    def alarm_hears_validation(self) -> bool:
        """Whether the alarm for reward hacking is fed by a scorer of the validation prompts, and not by the judge."""
        return self.scorers.alarm is not None and self.validation.prompts is not None

    @property
    def rewards_images(self) -> bool:
        """Whether reward workers decode images."""
        return self.asks_oracle or self.reward.extra is not None

    @property
    def measures_auc(self) -> bool:
        """Whether the learner measures the held-out AUC of a discriminator that it trains."""
        return self.cadence.discriminator_updates > 0 and self.discriminator.auc_rows > 0

    @property
    def measures_text(self) -> bool:
        """Whether the learner measures if the discriminator tells right from wrong texts, or else RL is silent."""
        rewards = self.policy_gradient.enabled and self.reward.kind == "discriminator"
        return self.measures_auc and rewards and self.discriminator.text_errors is not None

    @model_validator(mode="after")
    def _buckets_are_judged(self) -> Self:
        pixels, buckets = self.model.pixels, self.data.buckets
        if buckets and pixels is not None and pixels not in buckets:
            raise ValueError(
                f"model.height and model.width must be one of data.buckets, got {pixels[0]} x {pixels[1]}; leave them "
                "out, or add that size"
            )
        for name in ("samples", "judge_samples"):
            images, least = getattr(self.evaluation, name), 2 * len(buckets)
            if images < least:
                raise ValueError(
                    f"evaluation.{name} = {images} has no two images for each of {len(buckets)} data.buckets; raise it "
                    f"to {least}"
                )
        return self

    @model_validator(mode="after")
    def _rewards_agree(self) -> Self:
        check_rewards(
            cadence=self.cadence,
            discriminator=self.discriminator,
            dmd=self.dmd,
            gradient=self.policy_gradient,
            groups=self.rollout.groups_per_cycle,
            reward=self.reward,
            steps=self.steps,
        )
        return self

    @model_validator(mode="after")
    def _alarm_hears_its_scorer(self) -> Self:
        if self.scorers.alarm is not None and self.validation.prompts is None and not self.evaluation.judge_cycles:
            raise ValueError(
                f"scorers.alarm = {self.scorers.alarm!r} scores nothing while the student learns; set "
                "validation.prompts, or evaluation.judge_cycles above 0"
            )
        return self

    @model_validator(mode="after")
    def _rows_are_there(self) -> Self:
        chosen, group_size = self.policy_gradient.group_rows, self.rollout.group_size
        warm = self.rollout.warm_group_size
        if warm is not None and warm > group_size:
            raise ValueError(
                f"rollout.warm_group_size must not exceed rollout.group_size, got {warm} and {group_size}; change one "
                "of them"
            )
        if chosen is not None and chosen > group_size:
            raise ValueError(
                f"policy_gradient.group_rows must not exceed rollout.group_size, got {chosen} and {group_size}; change "
                "one of them"
            )
        last, actions = self.policy_gradient.last_actions, self.steps - 1
        if last is not None and last > actions:
            raise ValueError(
                f"policy_gradient.last_actions = {last}, and of {self.steps} steps {actions} draw noise; lower it, or "
                "leave it out for all of them"
            )
        if self.rl_rows % self.policy_gradient.minibatches:
            which = "rollout.group_size" if chosen is None else "policy_gradient.group_rows"
            raise ValueError(
                f"policy_gradient.minibatches must divide {which}, got {self.policy_gradient.minibatches} "
                f"and {self.rl_rows}; change one of them"
            )
        if chosen == self.policy_gradient.minibatches:
            raise ValueError(
                f"policy_gradient.minibatches = {chosen} leaves each with one of as many policy_gradient.group_rows, "
                "the best or the worst of its group alone; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _workers_are_within_bounds(self) -> Self:
        scale, first = self.autoscale, self.at_start
        for name, count, least in (
            ("rollout.actors", self.rollout.actors, first.rollout.actors),
            ("reward.workers", self.reward.workers, first.reward.workers),
        ):
            if least > count:
                raise ValueError(f"{name}_min must not exceed {name}, got {least} and {count}; change one of them")
        for name, count, least, most in (
            ("rollout.actors", self.rollout.actors, scale.rollout_min, scale.rollout_max),
            ("reward.workers", self.reward.workers, scale.reward_min, scale.reward_max),
        ):
            if scale.enabled and not least <= count <= most:
                role = name.partition(".")[0]
                raise ValueError(
                    f"{name} must lie between autoscale.{role}_min and autoscale.{role}_max, got {count}, {least} and "
                    f"{most}; change one of them"
                )
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.policy_gradient.enabled and self.steps < 2:  # noqa: PLR2004 - one step has no stochastic action
            raise ValueError(
                "policy_gradient.enabled needs at least 2 diffusion.sigmas: with one step no action is random; "
                "add a level or set policy_gradient.enabled=false"
            )
        falls_until_rl = self.policy_gradient.enabled and self.learner.rates_fall_until == "rl"
        if falls_until_rl and self.learner.final_rate < 1 and not self.cadence.warm_dmd_updates:
            raise ValueError(
                "learner.rates_fall_until=rl leaves no cycle to fall in: with cadence.warm_dmd_updates=0 RL may begin "
                "in the first; raise it, or set learner.rates_fall_until=end"
            )
        if self.policy_gradient.enabled and self.diffusion.kernel == "ode":
            raise ValueError(
                "policy_gradient.enabled needs a stochastic diffusion.kernel (renoise, cps or flow_sde), got ode; "
                "choose one or set policy_gradient.enabled=false"
            )
        weights = self.policy_gradient.intermediate_weight
        if isinstance(weights, tuple) and len(weights) != self.steps - 1:
            raise ValueError(
                f"policy_gradient.intermediate_weight needs one number, or one for each of the {self.steps - 1} "
                f"intermediate levels of {self.steps} diffusion.sigmas, got {list(weights)}"
            )
        if self.rollout.groups_per_cycle % self.learner.ranks:
            raise ValueError(
                f"learner.ranks must divide rollout.groups_per_cycle, got {self.learner.ranks} and "
                f"{self.rollout.groups_per_cycle}; change one of them"
            )
        for name in ("dmd", "fake_score", "discriminator"):
            batch_size = getattr(self, name).batch_size
            if batch_size % self.rollout.groups_per_cycle:
                raise ValueError(
                    f"rollout.groups_per_cycle must divide {name}.batch_size, got {self.rollout.groups_per_cycle} and "
                    f"{batch_size}; change one of them"
                )
        if self.learner.engine == "torch" and self.learner.ranks > 1:
            raise ValueError("learner.engine=torch runs one rank; set learner.ranks=1 or learner.engine=deepspeed")
        return self

    @model_validator(mode="after")
    def _adapters_have_their_base(self) -> Self:
        check_adapters(self.model, self.lora, self.learner, merges=self.merges_adapters)
        return self
