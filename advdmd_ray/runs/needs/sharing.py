"""Which workers meet on one card, where rollout actors and reward workers have shares of a GPU."""

from collections.abc import Sequence
from itertools import chain, zip_longest

from advdmd_ray.config import Config

ROUNDING = 1e-9


def by_turns(actors: Sequence[str], workers: Sequence[str]) -> list[str]:
    """The order in which they are hired: an actor, a reward worker, an actor, and so on.

    Ray gives a share to the fullest card that has room for it (Ray 2.60). So actors meet reward workers, and two of
    one role, which work at the same time and idle at the same time, do not meet.
    """
    return [name for name in chain.from_iterable(zip_longest(actors, workers)) if name is not None]


def shared_cards(config: Config, actors: Sequence[str], workers: Sequence[str]) -> dict[str, int]:
    """The card of every worker that has a share of one, as Ray places them on one node.

    Args:
        config: The shares.
        actors: Names of all rollout actors.
        workers: Names of all reward workers.
    """
    shares = dict.fromkeys(actors, config.rollout.num_gpus) | dict.fromkeys(workers, config.reward.num_gpus)
    free: list[float] = []
    cards: dict[str, int] = {}
    for name in by_turns(actors, workers):
        share = shares[name]
        if not 0 < share < 1:
            continue
        fitting = [card for card, left in enumerate(free) if left >= share - ROUNDING]
        if not fitting:
            free.append(1.0)
            fitting = [len(free) - 1]
        cards[name] = min(fitting, key=lambda card: free[card])
        free[cards[name]] -= share
    return cards
