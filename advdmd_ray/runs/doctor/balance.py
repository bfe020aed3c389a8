"""Whether actors, reward workers and learner need about the same time for a cycle, told from the count of compute."""

import math
from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.config.sections import Resources
from advdmd_ray.runs.doctor.finding import Finding, some
from advdmd_ray.runs.needs.compute import Network, full_cycle_cost
from advdmd_ray.runs.needs.sharing import Split

WORKERS = {"rollout": "actors", "reward": "reward workers"}
LEAST, MOST = 0.5, 1.2
"""Share of the learner's time in which the actors should have made a cycle's groups: they wait little, it less."""


@dataclass(frozen=True, slots=True)
class Side:
    """The workers of one role in a full cycle.

    Attributes:
        who: They, for a reader.
        setting: The setting that counts them.
        workers: How many there are.
        work: Forward-equivalents of all together.
        speed: Of one worker, in GPUs or threads that compute.
    """

    who: str
    setting: str
    workers: int
    work: float
    speed: float

    @property
    def time(self) -> float:
        """Forward-equivalents one after the other on one GPU or thread."""
        return self.work / (self.workers * self.speed)

    def needed(self, time: float) -> int:
        """Workers that need no more than this time."""
        return max(1, math.ceil(self.work / (self.speed * time)))


def examine_balance(config: Config, network: Network) -> Finding:
    """Compare the roles' times for a cycle in which every network learns.

    Executed forward-equivalents, divided by workers and by GPUs or threads of each. A thread of one role is taken for
    as fast as that of another, and a large batch for as fast an image as a small one; transfers and encoders are left
    out.
    """
    cost = full_cycle_cost(config, network, executed=True)
    on_gpu = {role.num_gpus > 0 for role in (config.rollout, config.learner)}
    if len(on_gpu) > 1:
        return Finding(
            "balance",
            "note",
            "actors and learner compute on different kinds of devices, whose speeds are not known here; a run's "
            "advdmd_run_role_seconds_total says who waits",
        )
    learner = Side("the learner", "learner.ranks", config.learner.ranks, cost.learner, _speed(config.learner))
    actors = Side("the actors", "rollout.actors", config.rollout.actors, cost.rollout, _speed(config.rollout))
    judges = Side("the reward workers", "reward.workers", config.reward.workers, cost.reward, _speed(config.reward))
    shares = actors.time / learner.time, judges.time / learner.time
    text = (
        f"a full cycle is {cost.rollout:,.0f} forwards for the actors, {cost.reward:,.0f} for the reward workers, "
        f"{cost.learner:,.0f} for the learner; actors need {shares[0]:.2f} and reward workers {shares[1]:.2f} of the "
        "learner's time"
    )
    sides, shared = {"rollout": actors, "reward": judges}, Split.of(config).shared
    sharing = {role: sides.pop(role) for role in (shared.roles if shared else ())}
    changes = [change for side in sides.values() if (change := _late(side, learner) or _idle(side, learner))]
    if shared is not None:
        who = " and ".join(WORKERS[role] for role in sharing)
        work = sum(side.work for side in sharing.values())
        cards = Side(f"the cards that {who} share", "cards", shared.cards, work, 1.0)
        text += f", and {who} one after the other on the {some(cards.workers, 'card')} that they share "
        text += f"{cards.time / learner.time:.2f}"
        # Who has little work of its own may be on a card that is full: only of the cards is it said that they wait.
        late = [change for side in sharing.values() if (change := _late(side, learner))]
        changes += late or [change for change in (_late(cards, learner) or _idle(cards, learner),) if change]
    if not config.rollout.max_policy_age:
        return Finding("balance", "note", f"{text}, one after the other: rollout.max_policy_age=1 would overlap them")
    return Finding("balance", "note" if changes else "ok", "; ".join([text, *changes]))


def _speed(role: Resources) -> float:
    """A worker computes on one GPU, however many it has; a share of one is as fast as it while no other works there."""
    return 1.0 if role.num_gpus else float(role.threads)


def _late(side: Side, learner: Side) -> str | None:
    """What would let the learner wait less, or None."""
    if side.time / learner.time <= MOST:
        return None
    needed = side.needed(learner.time)
    return f"the learner waits for {side.who}: {side.setting}={needed} would balance, not {side.workers}"


def _idle(side: Side, learner: Side) -> str | None:
    """How many would do, or None. Reward workers that wait are no loss: their work is small."""
    needed = side.needed(learner.time)
    if side.time / learner.time >= LEAST or needed >= side.workers:
        return None
    return f"{side.who} wait: {side.setting}={needed} would do, not {side.workers}"
