"""What the learner learns by: the objective of each network, and when which learns."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advdmd_ray.config.base import Count, Decay, Fixed, Fraction, Free, Positive, Rate, Section, Weight


class DistributionMatchingSection(Section):
    """The student's DMD update (DMD2, arXiv 2405.14867)."""

    learning_rate: Free[Rate] = Field(default=1e-4, description="Student learning rate for DMD.")
    batch_size: Free[Positive] = Field(
        default=128, description="Stored states of a cycle used per update, over all ranks."
    )
    t_min: Free[float] = Field(default=0.02, ge=0, lt=1, description="Smallest noise level of the score comparison.")
    t_max: Free[float] = Field(default=0.98, gt=0, le=1, description="Largest noise level of the score comparison.")
    gan_weight: Free[float] = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Direct GAN term: its norm by that of the DMD gradient where the discriminator is undecided.",
    )
    gan_levels: Free[Literal["uniform", "final"]] = Field(
        default="uniform",
        description="Noise levels of the direct GAN term: drawn as DMD's, the discriminator trained there too, or "
        "reward.final_levels alone.",
    )

    @model_validator(mode="after")
    def _range_is_open(self) -> Self:
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min must be below t_max, got {self.t_min} and {self.t_max}")
        return self


class FakeScoreSection(Section):
    """The score of the student's own distribution, on the faster time scale."""

    learning_rate: Free[Rate] = Field(default=2e-4, description="Learning rate.")
    batch_size: Free[Positive] = Field(default=128, description="Generated x0 per update, over all ranks.")


class DiscriminatorSection(Section):
    """The adversarial discriminator, which is also the reward model."""

    learning_rate: Free[Rate] = Field(default=1e-3, description="Learning rate.")
    batch_size: Free[Positive] = Field(default=128, description="Fake states per update, over all ranks; as many real.")
    width: Fixed[Positive] = Field(default=64, description="Channels of each head.")
    backbone: Fixed[Literal["teacher", "fake_score", "own"]] = Field(
        default="teacher",
        description="Whose features the heads read: the frozen teacher's, those of the fake score as it is now, or "
        "those of an own copy of the teacher that learns with the heads.",
    )
    blocks: Fixed[tuple[Count, ...]] = Field(
        default=(1, 3), min_length=1, description="Backbone blocks whose features are read."
    )
    text_errors: Free[float | None] = Field(
        default=3.0,
        ge=0,
        le=100,
        description="A level gives an RL signal only while held-out real images, and the student's states, score "
        "higher with their own text than with a wrong one more often than chance by so many standard errors; null asks "
        "for no such evidence.",
    )
    auc_high: Free[Fraction] = Field(
        gt=0.5,
        default=0.98,
        description="Above this smoothed AUC a level gives no RL signal; D rests while all levels are above.",
    )
    auc_decay: Free[Decay] = Field(
        default=0.9,
        description="Smoothing of the held-out AUC, and of the comparison of texts, over cycles with both.",
    )
    heldout_fraction: Fixed[float] = Field(
        default=0.2, gt=0, lt=1, description="Share of the real images used only to measure the discriminator."
    )
    auc_rows: Free[Count] = Field(
        default=4,
        description="Trajectories of each group, and reals, judged for the AUC of a cycle, and with RL once more with "
        "a wrong text; 0 measures none, so that the discriminator never rests, which RL on its rewards does not allow.",
    )
    gradient_penalty: Free[float] = Field(
        default=0.0, ge=0, description="Weight of the R1-style term on noised samples."
    )
    pairing: Free[Literal["independent", "relativistic"]] = Field(
        default="independent",
        description="Whether each logit is compared with 0, or with that of its partner of the same prompt and level.",
    )
    mismatched_text: Free[float] = Field(
        default=0.0,
        ge=0,
        description="Weight of real images with another prompt's text, which count as generated; 0 leaves them out.",
    )

    @model_validator(mode="after")
    def _blocks_differ(self) -> Self:
        if len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"blocks must differ, as each is read by a head of its own, got {list(self.blocks)}")
        return self


class PolicyGradientSection(Section):
    """GRPO on the discriminator's rewards (ALGORITHM.md, sections 4 and 5)."""

    enabled: Free[bool] = Field(default=True, description="False: no RL update; DMD alone.")
    learning_rate: Free[Rate] = Field(
        default=1e-4, description="Student learning rate for RL, with its own Adam moments."
    )
    final_rate: Free[Rate] = Field(
        default=1.0,
        description="Share of RL's learning rate left in cycle run.cycles; linear from RL's first turn, which has all "
        "of it.",
    )
    advantage: Free[Literal["reward_to_go", "own_step", "final_only", "potential"]] = Field(
        default="reward_to_go", description="How level scores become step advantages."
    )
    gamma: Free[Fraction] = Field(default=1.0, description="Discount over steps.")
    final_weight: Free[float] = Field(default=1.0, ge=0, description="Weight of the final level's score.")
    intermediate_weight: Free[Weight | tuple[Weight, ...]] = Field(
        default=1.0, description="Weight of the intermediate levels' scores: one for all, or one for each of the K - 1."
    )
    std_decay: Free[Decay] = Field(
        default=0.95, description="Smoothing of a level's running reward std from cycle to cycle."
    )
    std_floor: Free[float] = Field(
        default=0.5, ge=0, description="Floor of a level's std, as a share of its running std."
    )
    clip: Free[float] = Field(default=5.0, gt=0, description="Bound on the absolute advantage, in standard deviations.")
    direction: Free[Literal["noise", "end"]] = Field(
        default="noise",
        description="Which way an action is rewarded. noise: along the noise that it drew, the policy gradient; end: "
        "towards the final image of its trajectory, which knows what came of the noise. end needs flow_dppo, "
        "leaves step_weight_power unread, and harms students of two steps, whose one action decides all.",
    )
    trust_region: Free[Literal["flow_dppo", "ppo_clip", "grpo_guard"]] = Field(
        default="flow_dppo", description="Trust region."
    )
    kl_nats: Free[float] = Field(
        default=1.0, gt=0, description="flow_dppo: divergence of a whole latent above which to mask."
    )
    clip_nats: Free[float] = Field(
        default=1.0, gt=0, description="ppo_clip, grpo_guard: clip of a whole latent's log-ratio."
    )
    stale_nats: Free[float] = Field(
        default=50.0, gt=0, description="Actions whose policy is farther than this from the learner's are dropped."
    )
    step_weight_power: Free[Literal[0, 1, 2]] = Field(
        default=2, description="p of the step weight std_k^p, std_k the step's standard deviation."
    )
    minibatches: Free[Positive] = Field(
        default=1,
        description="Policy updates per RL turn, each on its share of the rows: of rollout.groups_per_cycle x rows x "
        "(K - 1) / minibatches actions. 1: one large update, on-policy where the groups are; its memory is that of "
        "learner.micro_batch rows.",
    )
    group_rows: Free[Annotated[int, Field(ge=2, multiple_of=2)] | None] = Field(
        default=None,
        description="Rows of each group and step that RL learns from, those with the largest and smallest advantages; "
        "default: all. The learner pays for these alone, whatever rollout.group_size is.",
    )
    last_actions: Free[Positive | None] = Field(
        default=None,
        description="Actions of a trajectory that RL learns from, counted from its end; default: all. What an early "
        "one did is hidden by the noise of those that follow. The learner pays for these alone.",
    )
    shuffle_rewards: Free[bool] = Field(
        default=False,
        description="Gives each trajectory the rewards of another one of its group: a control that must not help.",
    )

    @model_validator(mode="after")
    def _region_fits_direction(self) -> Self:
        if self.direction == "end" and self.trust_region != "flow_dppo":
            raise ValueError(
                f"direction: end is not a log-ratio, which trust_region={self.trust_region} would clip; set "
                "trust_region=flow_dppo or direction=noise"
            )
        return self


class CadenceSection(Section):
    """When which network learns: warm (no RL), ramp (RL every m-th DMD), full (RL in every cycle)."""

    fake_score_updates: Free[Positive] = Field(default=4, description="Fake-score updates per DMD update.")
    discriminator_updates: Free[Count] = Field(
        default=2,
        description="Discriminator updates per DMD update; 0: it is not used at all, and rewards that it would give "
        "are 0.",
    )
    dmd_updates: Fixed[Positive] = Field(default=1, description="DMD updates per cycle.")
    warm_dmd_updates: Free[Count] = Field(default=60, description="DMD updates before RL may begin.")
    warm_gan_updates: Free[Count] = Field(
        default=0,
        description="DMD updates before the direct GAN term begins. A discriminator that has learnt little costs the "
        "student more than it brings.",
    )
    ramp_interval: Fixed[Positive] = Field(
        default=8, description="DMD updates per RL turn when the ramp begins; halves to 1."
    )
    ramp_rl_turns: Free[Positive] = Field(default=4, description="RL turns at each interval of the ramp.")

    measure_cycles: Free[Positive] = Field(
        default=1,
        description="Cycles between two measurements of the discriminator, which open and shut levels for RL until the "
        "next one.",
    )

    @property
    def warm_cycles(self) -> int:
        """Cycles before the first in which RL may begin."""
        return self.cycles_before(self.warm_dmd_updates)

    def cycles_before(self, updates: int) -> int:
        """Cycles before the first that so many DMD updates precede."""
        return -(-updates // self.dmd_updates)
