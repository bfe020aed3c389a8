"""How so many GPUs are best split over rollout actors, reward workers and learner ranks.

The pace of a split is bounded by its slowest role; that sorts the candidates. The first of them go through the
forecast, which knows what the bound does not: caps, turns of whole groups, loads.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

from advdmd_ray.config import Config
from advdmd_ray.planning.forecast import Forecast
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.runs.needs.sharing import Split

LOOKED_AT = 10
"""Candidates that are put through the forecast."""
FEW = 16
"""With as many cards as hold more actors than this, no fewer actors than fit are looked at."""
AS_FAST = 0.02
"""A split with fewer GPUs is preferred unless it is slower by more than this share."""
SHARES = (1.0, 0.5)
"""Of a GPU, for one actor or reward worker. Two of them on a card slow each other while both work."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A split and what comes of it."""

    split: Split
    forecast: Forecast


def best(
    config: Config,
    gpus: int,
    *,
    costs: Callable[[Config], Costs],
    fits: Callable[[Config], bool],
    predicted: Callable[[Config, Costs], Forecast],
    thrifty: bool = False,
) -> Planned | None:
    """The fastest split, or one with fewer GPUs that is hardly slower; the same for the same input.

    Args:
        config: What is to run; its roles have GPUs, or none of them has and its split is all that is tried.
        gpus: Cards that there are.
        costs: Of a configuration.
        fits: Whether every role has the memory that it needs.
        predicted: The forecast.
        thrifty: Whether GPU seconds a cycle count, not seconds.

    Returns:
        None if no split fits.
    """

    def price(split: Split, cycle_s: float) -> float:
        return cycle_s * (split.gpus if thrifty else 1)

    own = Split.of(config)
    bounded = []
    for shape, splits in candidates(config, gpus):
        changed = shape.applied(config)
        if changed is None or not fits(changed):
            continue
        seconds = costs(changed)
        for split in splits:
            least = math.log(price(split, bound(config, split, seconds)))
            bounded.append((round(least, 2), _thrift(split, own), split))
    bounded.sort(key=itemgetter(0, 1))
    planned = []
    for *_, split in bounded[:LOOKED_AT]:
        changed = split.applied(config)
        if changed is not None:
            planned.append(Planned(split, predicted(changed, costs(changed))))
    if not planned:
        return None
    prices = [price(plan.split, plan.forecast.cycle_s) for plan in planned]
    near = [plan for plan, asked in zip(planned, prices, strict=True) if asked <= min(prices) * (1 + AS_FAST)]
    return min(near, key=lambda plan: (_thrift(plan.split, own), plan.forecast.cycle_s))


def _thrift(split: Split, own: Split) -> tuple[float, ...]:
    """What is less is better: cards, then what differs from the configuration, then workers."""
    return (split.gpus, split != own, split.actors + split.workers, split.actors, split.actor_gpus)


def candidates(config: Config, gpus: int) -> Iterator[tuple[Split, Iterator[Split]]]:
    """Splits worth a look, by ranks and shares of a GPU: one with a worker of each role, and all of them."""
    rank_gpus = config.learner.num_gpus
    for ranks in _divisors(config.rollout.groups_per_cycle):
        for actor_gpus in _shares(config.rollout.num_gpus):
            for worker_gpus in _shares(config.reward.num_gpus):
                shape = Split(1, 1, ranks, actor_gpus, worker_gpus, rank_gpus)
                yield shape, _shared_out(config, ranks, gpus, actor_gpus, worker_gpus)


def _shared_out(config: Config, ranks: int, gpus: int, actor_gpus: float, worker_gpus: float) -> Iterator[Split]:
    # More actors than the age cap lets have a group, or than groups of a cycle to score, stand idle.
    most = (config.rollout.max_policy_age + 1) * config.rollout.groups_per_cycle
    rank_gpus = config.learner.num_gpus
    left = gpus - ranks * rank_gpus
    for workers in range(1, min(most, int((left - actor_gpus) / worker_gpus)) + 1):
        actors = range(1, min(most, int((left - workers * worker_gpus) / actor_gpus)) + 1)
        splits = (Split(count, workers, ranks, actor_gpus, worker_gpus, rank_gpus) for count in reversed(actors))
        # What is left of several cards holds no worker.
        fitting = (split for split in splits if split.gpus <= gpus)
        yield from fitting if len(actors) <= FEW else islice(fitting, 1)


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def _shares(own: float) -> tuple[float, ...]:
    """The configuration's own share first."""
    return (own, *(share for share in SHARES if share != own and own <= 1))


def bound(config: Config, split: Split, costs: Costs) -> float:
    """Fewest seconds that a cycle can take: those of the slowest role or of shared cards, or of all one by one."""
    groups, leases = config.rollout.groups_per_cycle, config.rollout.leases
    by_an_actor = max(costs.generate, (costs.generate + costs.hand_over) / leases)
    sides = [
        groups * by_an_actor / split.actors + costs.load,
        groups * costs.score / split.workers + costs.load,
        costs.cycle + costs.fetch,
    ]
    if not config.rollout.max_policy_age:
        return sum(sides)
    if costs.alone:
        sides.append(groups * on_shared_cards(split, costs))
    return max(sides)


def on_shared_cards(split: Split, costs: Costs) -> float:
    """Seconds that a group takes the cards that workers share, which work on as many groups at once; 0 without any."""
    shared = split.shared
    if shared is None:
        return 0.0
    seconds = {"rollout": costs.generate, "reward": costs.score}
    return sum(seconds[role] for role in shared.roles) / shared.cards
