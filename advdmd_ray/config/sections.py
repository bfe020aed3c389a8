"""Sections of the run, the stations and what is around them; the learner's objectives are in `objectives`.

Every default is ours; docs/ALGORITHM.md has the formulas and their sources.
This module imports neither torch nor ray, so that `--help` and bad input answer at once.
"""

import itertools
from typing import Literal, Self

from pydantic import Field, model_validator

from advdmd_ray.config.base import Count, Decay, Fixed, Free, OfStudent, Place, Positive, Rate, Seconds, Section
from advdmd_ray.config.texts import Address, PathText

NEAREST = 1e-3
"""Least distance of two noise levels: a thousandth, as networks are told levels in thousandths."""


class RunSection(Section):
    """Where a run lives and what makes it repeatable."""

    name: Free[str] = Field(
        default="run", max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Folder name of the run."
    )
    output: Place[PathText] = Field(default="runs", min_length=1, description="Folder that holds the run folders.")
    seed: Fixed[int] = Field(default=0, ge=0, lt=2**31, description="Every draw of the run derives from this seed.")
    cycles: Free[Positive] = Field(
        default=100, description="Learner cycles; each consumes rollout.groups_per_cycle groups."
    )
    time_limit_s: Free[float | None] = Field(
        default=None, gt=0, description="Stop training after this many seconds, if set."
    )
    drain_s: Free[float] = Field(
        default=120.0,
        ge=0,
        le=86400,
        description="Time that a run has, from SIGTERM or Ctrl-C on, to end its cycle and save it. After it, or at "
        "a second signal, it stops at once, and can go on from its last checkpoint. 0: always at once.",
    )


class DiffusionSection(Section):
    """The one transition kernel and the student's noise levels (ALGORITHM.md, section 1)."""

    kernel: OfStudent[Literal["renoise", "cps", "ode", "flow_sde"]] = Field(
        default="renoise", description="Transition kernel."
    )
    eta: OfStudent[float] = Field(default=0.9, gt=0, lt=1, description="Stochasticity of cps.")
    flow_sde_noise: OfStudent[float] = Field(
        default=0.7, gt=0, le=5, description="a in g = a sqrt(t / (1 - t)) of flow_sde."
    )
    sigmas: OfStudent[tuple[float, ...]] = Field(
        default=(1.0, 0.75, 0.5, 0.25), description="K noise levels before the shift."
    )

    @model_validator(mode="after")
    def _levels_descend(self) -> Self:
        sigmas = self.sigmas
        apart = all(a - b >= NEAREST for a, b in itertools.pairwise((*sigmas, 0.0)))
        if not sigmas or sigmas[0] != 1.0 or not apart:
            raise ValueError(
                f"sigmas must start at 1.0 and descend towards 0 by at least {NEAREST:g} each, got {list(sigmas)}"
            )
        return self


class Resources(Section):
    """Ray resources of one worker of a role."""

    num_cpus: Free[float] = Field(default=0.25, ge=0, description="Logical CPUs reserved by one worker.")
    num_gpus: Free[float] = Field(default=0.0, ge=0, description="GPUs of one worker; above 0 its networks are there.")
    threads: Free[Positive] = Field(default=1, description="CPU threads of one worker's tensor operations.")
    micro_batch: Free[Positive | Literal["auto"] | None] = Field(
        default=None,
        description="Most rows in one call of a network; the learner goes forward and back with so many at a time, and "
        "adds up their gradients. auto: as many as fit the GPU, estimated and then tried at the start; all on a CPU. "
        "Default: all rows at once.",
    )

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(f"num_gpus above 1 must be a whole number, got {self.num_gpus:g}; Ray splits one GPU only")
        return self

    @property
    def most_rows(self) -> int | None:
        """`micro_batch` once it is a number; None: all.

        Raises:
            ValueError: while it is auto, which only the GPU can settle.
        """
        if self.micro_batch == "auto":
            raise ValueError("micro_batch=auto is not settled here")
        return self.micro_batch


MOST_LEASES = 4


class RolloutSection(Resources):
    """Actors that generate SDE trajectories with the student."""

    actors: Free[Positive] = Field(default=2, description="Rollout actors.")
    actors_min: Free[Positive | None] = Field(
        default=None, description="A run starts once so many are up; the others join as they come. Default: actors."
    )
    leases: Free[int] = Field(
        default=2,
        ge=1,
        le=MOST_LEASES,
        description="Most groups that an actor has at hand: one that its network generates, and others that it hands "
        "over meanwhile. 1: its network waits until a group is handed over.",
    )
    group_size: Fixed[int] = Field(default=16, ge=2, description="Trajectories of one prompt in one group.")
    warm_group_size: Fixed[int | None] = Field(
        default=None,
        ge=2,
        description="The same in cycles before cadence.warm_dmd_updates, and in all where RL is off: it alone needs "
        "many of one prompt. Default: group_size.",
    )
    groups_per_cycle: Fixed[Positive] = Field(default=8, description="Groups that one learner cycle consumes.")
    max_policy_age: Free[Count] = Field(default=2, description="Largest learner version minus group version at take.")
    compile: Free[bool] = Field(
        default=False,
        description="Compile the transformer with torch.compile, for the shapes of a group. It rounds in its own way, "
        "within what importance ratios allow or the run stops. An actor's first group takes minutes longer: raise "
        "lease_s.",
    )
    lease_s: Free[Seconds] = Field(
        default=120.0, description="A group not committed this long after its lease is issued again."
    )


class RewardSection(Resources):
    """Workers that score every reached state with the discriminator, or the final image with an oracle."""

    kind: Fixed[Literal["discriminator", "oracle"]] = Field(
        default="discriminator",
        description="Who gives the rewards. oracle: the exact checker of data.source=shapes looks at the final image; "
        "a diagnostic and an upper bound, not AdvDMD.",
    )
    oracle_agreement: Free[bool] = Field(
        default=False,
        description="Measures how often the discriminator orders a group's trajectories as the oracle of "
        "data.source=shapes does.",
    )
    ema_decay: Free[float] = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Per cycle, of the average of the discriminator's trained weights that gives the rewards, after "
        "the same warm-up as learner.ema_decay; 0: as they are.",
    )
    extra: Fixed[str | None] = Field(
        default=None,
        min_length=1,
        description="A reward of one's own beside it, package.module:function or a scorer that ships, of final images "
        "and their prompts (docs/guides/rewards.md). It is no part of AdvDMD.",
    )
    extra_weight: Free[float] = Field(
        default=1.0, gt=0, le=100, description="What a standard deviation of it within a group adds to the advantage."
    )
    workers: Free[Positive] = Field(default=1, description="Reward workers.")
    workers_min: Free[Positive | None] = Field(
        default=None, description="A run starts once so many are up; the others join as they come. Default: workers."
    )
    final_levels: Free[tuple[float, ...]] = Field(
        default=(0.05, 0.15, 0.3), min_length=1, description="Noise levels at which the final latent is judged."
    )

    @model_validator(mode="after")
    def _levels_in_range(self) -> Self:
        if not all(0 <= level < 1 for level in self.final_levels):
            raise ValueError(f"final_levels must lie in [0, 1), got {list(self.final_levels)}")
        return self

    @property
    def needs_open_level(self) -> bool:
        """Whether RL has no reward before a level of the discriminator is open."""
        return self.kind == "discriminator" and self.extra is None


class BufferSection(Section):
    """The Arrow trajectory buffer."""

    max_bytes: Free[int] = Field(
        default=256 * 2**20, ge=2**16, description="Serialised bytes held before actors are paced."
    )
    take_timeout_s: Free[Seconds] = Field(
        default=300.0, description="The learner gives up waiting for groups after this."
    )


class LearnerSection(Resources):
    """The DeepSpeed gang that owns and trains the networks."""

    num_cpus: Free[float] = Field(default=0.5, ge=0, description="Logical CPUs reserved by one rank.")
    ranks: Free[Positive] = Field(default=1, description="Ranks of the gang; divides rollout.groups_per_cycle.")
    engine: Free[Literal["deepspeed", "torch"]] = Field(
        default="deepspeed", description="torch: one rank, for debugging."
    )
    zero_stage: Free[Literal[0, 1, 2, 3]] = Field(
        default=1,
        description="DeepSpeed ZeRO stage. What is split over the ranks: 1 moments and update copies, 2 gradients too, "
        "3 weights too, gathered layer by layer, but not with adapters. With 3, gradient_checkpointing lets gathered "
        "layers go at once.",
    )
    offload_optimizer: Free[bool] = Field(
        default=False, description="Moments and update copies live in host memory; needs ZeRO 1, 2 or 3."
    )
    offload_activations: Free[bool] = Field(
        default=False,
        description="What gradient_checkpointing keeps for the backward pass, the inputs of blocks, lives in host "
        "memory.",
    )
    weight_decay: Free[float] = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay of every network.")
    betas: Free[tuple[Decay, Decay]] = Field(default=(0.9, 0.99), description="Adam moment decay rates.")
    max_grad_norm: Free[float] = Field(default=1.0, gt=0, description="Gradient clip of every update.")
    gradient_checkpointing: Free[bool] = Field(
        default=False,
        description="Keep the inputs of blocks only, and make activations again in the backward pass.",
    )
    late_steps: Free[float] = Field(
        default=2.0,
        ge=1,
        le=8,
        description="Emphasis e of every draw of steps: P(step < k) = (k / K)^e in fake score, discriminator and DMD; "
        "1 is uniform.",
    )
    final_rate: Free[Rate] = Field(
        default=1.0,
        description="Share of every learning rate but RL's left in cycle run.cycles; linear from the first. A run that "
        "time_limit_s ends stops earlier on the line.",
    )
    rates_fall_until: Free[Literal["end", "rl"]] = Field(
        default="end",
        description="Where that line ends: in cycle run.cycles, or, with RL, in the first in which it may begin; from "
        "there on distribution matching only holds the student to the teacher, while RL moves it.",
    )
    ema_decay: Free[float] = Field(
        default=0.98,
        ge=0,
        lt=1,
        description="Per cycle, however many updates it makes, of the student's EMA; of a rival trainer, per update. "
        "Warm-up: the n-th of them, from 0, has at most (1 + n) / (10 + n), and the teacher is soon forgotten.",
    )
    checkpoint_cycles: Free[Positive] = Field(default=50, description="Cycles between checkpoints.")
    keep_checkpoints: Free[Positive] = Field(default=2, description="Checkpoints kept.")
    cycle_timeout_s: Free[Seconds] = Field(
        default=600.0, description="A gang whose cycle takes longer hangs: it is lost, as one is whose rank died."
    )
    hang_s: Free[Seconds] = Field(
        default=60.0,
        description="A gang one of whose ranks says nothing for so long, not even when it is asked, is lost too. "
        "Longer than ray.hang_s: what a rank loads keeps Python longer from answering.",
    )
    restarts: Free[int] = Field(
        default=3,
        ge=0,
        le=1000,
        description="A gang that is lost is started again from the newest checkpoint: at most so often before it has "
        "saved a newer one.",
    )

    @property
    def partitions_optimizer(self) -> bool:
        """Whether ranks hold shares of moments and update copies; plain torch and ZeRO 0 hold them whole."""
        return self.engine == "deepspeed" and self.zero_stage > 0

    @property
    def partitions_weights(self) -> bool:
        """Whether ranks hold shares of the weights that learn."""
        return self.engine == "deepspeed" and self.zero_stage == 3  # noqa: PLR2004 - DeepSpeed's number

    @model_validator(mode="after")
    def _ranks_share_no_gpu(self) -> Self:
        if self.ranks > 1 and 0 < self.num_gpus < 1:
            raise ValueError(
                f"{self.ranks} ranks need a GPU each, as NCCL refuses two on one, got num_gpus={self.num_gpus:g}; set "
                "num_gpus=1, or ranks=1"
            )
        return self

    @model_validator(mode="after")
    def _offload_is_done(self) -> Self:
        if self.offload_optimizer and not self.partitions_optimizer:
            raise ValueError(
                f"offload_optimizer needs engine=deepspeed and zero_stage 1, 2 or 3, got {self.engine} and "
                f"{self.zero_stage}; set offload_optimizer=false or change them"
            )
        if self.offload_activations and not self.gradient_checkpointing:
            raise ValueError(
                "offload_activations moves what gradient_checkpointing keeps; set gradient_checkpointing=true or "
                "offload_activations=false"
            )
        return self


class EvaluationSection(Section):
    """The judge, the grids and the report."""

    samples: Free[int] = Field(default=1000, ge=20, le=10**6, description="Images per judged sampler.")
    teacher_guidance: Free[float | None] = Field(
        default=None,
        ge=1,
        le=20,
        description="CFG scale at which the teacher is judged; default: model.guidance, which the student matches.",
    )
    grid_cycles: Free[Count] = Field(default=50, description="Cycles between sample grids; 0: none.")
    keep_grids: Free[int] = Field(
        default=50, ge=2, description="Sample grids that are kept: the first, the newest and evenly spaced others."
    )
    judge_cycles: Free[Count] = Field(
        default=0, description="Cycles between judgements of the student's EMA while it learns; 0: only at the end."
    )
    judge_samples: Free[int] = Field(
        default=200, ge=20, le=10**6, description="Images of a judgement while the student learns."
    )
    alarm_window: Free[int] = Field(
        default=4, ge=4, le=100, description="Judgements that the alarm for reward hacking looks at."
    )


Placement = Literal["auto", "labelled", "anywhere"]


class RaySection(Section):
    """How the run meets a Ray cluster."""

    address: Free[Address | None] = Field(
        default=None,
        description="Cluster to join, HOST:PORT or auto; default: RAY_ADDRESS, else a local Ray.",
    )
    object_store_bytes: Free[int] = Field(
        default=512 * 2**20, ge=80 * 2**20, le=2**46, description="Object store of a local Ray."
    )
    start_timeout_s: Free[Seconds] = Field(default=300.0, description="All workers must be up within this time.")
    hang_s: Free[Seconds] = Field(
        default=10.0,
        description="A rollout actor, reward worker or metrics hub that says nothing for so long, not even when it is "
        "asked, hangs: it is replaced, and its work is done by others.",
    )
    placement: Free[Placement] = Field(
        default="auto",
        description="Which nodes take the workers of a role. labelled: those whose label advdmd-role names it. auto: "
        "the same where a living node's names it; else the nodes without that label. anywhere: labels do not count.",
    )
