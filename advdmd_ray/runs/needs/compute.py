"""The compute of a cycle in forward-equivalents: the one currency in which different methods are compared.

A forward-equivalent is one forward of the teacher's transformer for one image. Features that are read after block b of
L cost (b + 1) / L of a forward.

There are two counts. The **compute of the method** is what comparisons budget: what its formulas ask of whole networks
that learn, if all products were with weights (`Passes`). The **executed compute** is what a device really does, and
what time is told from. It knows attention's own products and adapters, if its `Network` does; and with
`learner.gradient_checkpointing` it has one forward more for each backward through a network that learns, as its
activations are made again. `micro_batch` adds to neither.

Not counted: the discriminator's heads, the optimizers, the text encoders, the image codec and the judge, which are
small beside the networks or the same for every method.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from advdmd_ray.config import Config
from advdmd_ray.learner.cadence import Cadence, CadenceState, CyclePlan, measures
from advdmd_ray.learner.health import Health
from advdmd_ray.models.families.flops import Flops
from advdmd_ray.models.folder import PipelineInfo

FORWARD, WITH_BACKWARD, WITH_INPUT_BACKWARD = 1, 3, 2
"""Of products with weights alone: a backward has two for each, one of them for the gradient of the weights (Kaplan et
al., arXiv 2001.08361, section 2.1)."""
COST_VERSION = 1
"""Counted up whenever the count changes, so that results counted differently are never put into one table."""


@dataclass(frozen=True, slots=True)
class Passes:
    """What goes through a transformer, in forwards of the teacher's.

    Attributes:
        forward: Of a network that learns, adapters included.
        learnt: That, and a backward to all that learns.
        to_input: That, and a backward to the noisy image alone.
        teacher_to_input: The same of the frozen teacher.
    """

    forward: float = FORWARD
    learnt: float = WITH_BACKWARD
    to_input: float = WITH_INPUT_BACKWARD
    teacher_to_input: float = WITH_INPUT_BACKWARD

    @classmethod
    def of(cls, flops: Flops) -> Self:
        """Those of one forward's operations. Where adapters learn, no weight's gradient is made."""
        teacher = replace(flops, adapters=0)
        passes = flops.forward, flops.learnt, flops.to_input, teacher.to_input
        return cls(*(each / teacher.forward for each in passes))


@dataclass(frozen=True, slots=True)
class Network:
    """What the count must know of the transformer.

    Attributes:
        layers: Its blocks.
        embedded_guidance: Whether the guidance scale is one of its inputs, so that a guided velocity is one forward.
        passes: What goes through it costs so much.
    """

    layers: int
    embedded_guidance: bool = False
    passes: Passes = Passes()

    @classmethod
    def of(cls, info: PipelineInfo, flops: Flops | None = None) -> Self:
        """That of a pipeline folder; a family that takes the scale as an input never runs the empty prompt.

        Args:
            info: The folder's headers.
            flops: Of one forward, for the executed compute.
        """
        return cls(info.layers, info.family.guidance_key is not None, Passes() if flops is None else Passes.of(flops))


@dataclass(frozen=True, slots=True)
class Cost:
    """Forward-equivalents, part by part.

    Attributes:
        fake_score: Updates of the fake score.
        discriminator: Features under the discriminator's updates.
        auc: Measurement of the held-out AUC, and of the text agreement, of a discriminator that is trained.
        dmd: The student's DMD updates with all that they ask the other networks, the direct GAN term included.
        rl: The student's RL updates.
        ratio_check: The check of ratio 1 in a cycle without an RL turn.
        rival: All that the updates of a rival trainer run.
        rollout: The actors' trajectories.
        reward: The discriminator's scores in the reward workers; an oracle runs no network.
    """

    fake_score: float = 0.0
    discriminator: float = 0.0
    auc: float = 0.0
    dmd: float = 0.0
    rl: float = 0.0
    ratio_check: float = 0.0
    rival: float = 0.0
    rollout: float = 0.0
    reward: float = 0.0

    @property
    def learner(self) -> float:
        """What the learner spends: the budget of a comparison."""
        updates = self.fake_score + self.discriminator + self.dmd + self.rl + self.rival
        return updates + self.auc + self.ratio_check

    @property
    def actors(self) -> float:
        """What rollout actors and reward workers spend beside it."""
        return self.rollout + self.reward

    def __add__(self, other: Self) -> Self:
        """Part by part."""
        names = [field.name for field in dataclasses.fields(self)]
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return type(self)(**{name: mine[name] + theirs[name] for name in names})


def guided_forward(guidance: float, network: Network) -> int:
    """Forwards of the teacher for one velocity: classifier-free guidance runs the prompt and the empty prompt."""
    return FORWARD if guidance == 1 or network.embedded_guidance else 2 * FORWARD


def feature_share(config: Config, network: Network) -> float:
    """Share of a forward that the discriminator's features cost, by the blocks that it reads."""
    return (max(config.discriminator.blocks) + 1) / network.layers


def stochastic_actions(config: Config) -> int:
    """Actions of one trajectory that a policy gradient can train: all steps but the last, none of `ode`."""
    return 0 if config.diffusion.kernel == "ode" else config.steps - 1


def learnt_actions(config: Config) -> int:
    """Those of them that RL learns from."""
    last = config.policy_gradient.last_actions
    return stochastic_actions(config) if last is None else min(last, stochastic_actions(config))


def cycle_cost(
    config: Config,
    plan: CyclePlan,
    network: Network,
    *,
    group_size: int,
    measured: bool = True,
    ratio_check: bool = False,
    executed: bool = False,
) -> Cost:
    """Counts one cycle.

    Args:
        config: Batch sizes, steps, guidance and terms.
        plan: Updates of the cycle.
        network: The transformer.
        group_size: Trajectories of each of its groups.
        measured: Whether the discriminator was measured, if it is at all.
        ratio_check: Whether ratio 1 was checked although there was no RL turn.
        executed: Whether activations that are made again count.
    """
    passes = network.passes
    again = passes.forward if executed and config.learner.gradient_checkpointing else 0
    learnt = passes.learnt + again
    features, own = feature_share(config, network), config.discriminator.backbone == "own"
    watches = FORWARD if config.discriminator.backbone == "teacher" else passes.forward
    acts = FORWARD if config.merges_adapters else passes.forward
    trajectories = config.rollout.groups_per_cycle * group_size
    actions = trajectories * stochastic_actions(config)
    chosen = config.rollout.groups_per_cycle * config.rl_rows * learnt_actions(config)
    judged = config.steps - 1 + len(config.reward.final_levels)
    rows = min(config.discriminator.auc_rows, group_size)
    looks = measured * (2 * config.measures_auc + 2 * config.measures_text)
    scored = config.rewarded_by == "discriminator"
    return Cost(
        fake_score=plan.fake_score * config.fake_score.batch_size * learnt,
        discriminator=plan.discriminator * _discriminator_rows(config) * features * (learnt if own else watches),
        auc=config.rollout.groups_per_cycle * looks * rows * judged * features * watches,
        dmd=plan.dmd * config.dmd.batch_size * (learnt + _looked_on(config, network, again, gan=plan.gan)),
        rl=plan.policy_gradient * chosen * learnt,
        ratio_check=ratio_check * actions * passes.forward,
        rollout=trajectories * config.steps * acts,
        reward=scored * trajectories * judged * features * min(acts, watches),
    )


def _discriminator_rows(config: Config) -> int:
    """Images whose features one update reads, each with a backward pass where the backbone learns.

    Real and fake ones, the real ones again with another prompt's text, and the first two perturbed for the penalty.
    """
    section = config.discriminator
    halves = 2 + (section.mismatched_text > 0) + 2 * (section.gradient_penalty > 0)
    return halves * section.batch_size


def _looked_on(config: Config, network: Network, again: float, *, gan: bool) -> float:
    """What a row of a DMD update asks of networks that do not learn from it.

    Fake score and teacher make a velocity each; the GAN term goes back to the image through the features. The
    relativistic form of that term reads the features of a real image besides. The frozen teacher keeps all activations
    of its features.
    """
    passes = network.passes
    velocities = passes.forward + guided_forward(config.model.guidance, network)
    if not gan or config.dmd.gan_weight == 0:
        return velocities
    of_teacher = config.discriminator.backbone == "teacher"
    there_and_back = passes.teacher_to_input if of_teacher else passes.to_input + again
    compared = config.discriminator.pairing == "relativistic"
    judged = there_and_back + compared * (FORWARD if of_teacher else passes.forward)
    return velocities + judged * feature_share(config, network)


def full_cycle_cost(config: Config, network: Network, *, executed: bool = False) -> Cost:
    """Cost of a cycle of the phase `full`, in which every network learns: where a long run spends most of its time."""
    updates, cadence = config.cadence.dmd_updates, config.cadence
    plan = CyclePlan(
        phase="full",
        fake_score=cadence.fake_score_updates * updates,
        discriminator=cadence.discriminator_updates * updates,
        dmd=updates,
        policy_gradient=int(config.policy_gradient.enabled),
    )
    cost = cycle_cost(config, plan, network, group_size=config.last_group_size, executed=executed)
    return replace(cost, auc=cost.auc / config.cadence.measure_cycles)


def expected_plans(config: Config, after: CadenceState | None = None) -> Iterator[tuple[CyclePlan, CadenceState]]:
    """What one cycle after the other does, and the cadence's state then, where every level is healthy.

    Args:
        config: The run's configuration.
        after: Where the cadence was left by other settings; None: at its beginning.
    """
    cadence = Cadence(config.cadence, policy_gradient=config.policy_gradient.enabled)
    if after is not None:
        cadence.restore(dataclasses.asdict(after))
    healthy = Health(auc=(0.5,) * config.steps, high=1.0)
    while True:
        yield cadence.plan(healthy), cadence.state


def expected_costs(config: Config, network: Network, after: CadenceState | None = None) -> Iterator[Cost]:
    """Cost of one cycle after the other, without end, of a run whose discriminator is healthy at every level.

    A gated RL turn costs nothing, so a real run spends at most this in as many cycles, but for turns that it makes
    again because no action of them was fresh enough.

    Args:
        config: The run's configuration.
        network: The transformer.
        after: See `expected_plans`.
    """
    began = 0 if after is None else after.dmd_updates // config.cadence.dmd_updates
    for cycle, (plan, _) in enumerate(expected_plans(config, after), start=began):
        check = cycle == 0 and not plan.policy_gradient and stochastic_actions(config) > 0
        size, measured = config.group_size_at(cycle), measures(config, cycle)
        yield cycle_cost(config, plan, network, group_size=size, measured=measured, ratio_check=check)


def cycles_within(config: Config, budget: float, network: Network, after: CadenceState | None = None) -> int:
    """Cycles that a healthy run makes until the learner has spent the budget; the last one reaches it.

    Args:
        config: The run's configuration.
        budget: Learner forward-equivalents, above 0.
        network: The transformer.
        after: See `expected_plans`; what was spent and made before is not counted.
    """
    spent = itertools.accumulate(cost.learner for cost in expected_costs(config, network, after))
    return next(cycles for cycles, total in enumerate(spent, start=1) if total >= budget)
