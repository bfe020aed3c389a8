"""How GPUs are split over the roles, and which workers meet on one card where they have shares of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest
from typing import TypeVar

from pydantic import ValidationError

from advdmd_ray.config import Config

ROUNDING = 1e-9

Name = TypeVar("Name")


def by_turns(actors: Sequence[Name], workers: Sequence[Name]) -> list[Name]:
    """The order in which they are hired: an actor, a reward worker, an actor, and so on.

    Ray gives a share to the fullest card that has room for it (Ray 2.60). So actors meet reward workers, and two of
    one role, which work at the same time and idle at the same time, do not meet.
    """
    return [name for name in chain.from_iterable(zip_longest(actors, workers)) if name is not None]


@dataclass(frozen=True, slots=True)
class Shared:
    """Cards that workers have shares of.

    Attributes:
        roles: Whose workers: rollout, reward or both.
        cards: How many cards hold them.
    """

    roles: tuple[str, ...]
    cards: int


@dataclass(frozen=True, slots=True)
class Split:
    """Workers of each role.

    Attributes:
        actors: Rollout actors.
        workers: Reward workers.
        ranks: Learner ranks.
        actor_gpus: GPUs of one actor.
        worker_gpus: GPUs of one reward worker.
        rank_gpus: GPUs of one rank.
    """

    actors: int
    workers: int
    ranks: int
    actor_gpus: float
    worker_gpus: float
    rank_gpus: float

    @classmethod
    def of(cls, config: Config) -> "Split":
        """That of a configuration."""
        rollout, reward, learner = config.rollout, config.reward, config.learner
        return cls(rollout.actors, reward.workers, learner.ranks, rollout.num_gpus, reward.num_gpus, learner.num_gpus)

    @property
    def shares(self) -> tuple[float, float, float]:
        """GPUs of one worker of each role."""
        return self.actor_gpus, self.worker_gpus, self.rank_gpus

    @property
    def gpus(self) -> int:
        """Whole cards that hold it; shares of all roles may meet on one."""
        roles = zip((self.actors, self.workers, self.ranks), self.shares, strict=True)
        whole = sum(workers * gpus for workers, gpus in roles if not _is_share(gpus))
        return math.ceil(whole) + _cards_taken(self)

    @property
    def shared(self) -> Shared | None:
        """The cards that actors and reward workers have shares of; None if none has."""
        roles = [role for role, gpus in (("rollout", self.actor_gpus), ("reward", self.worker_gpus)) if _is_share(gpus)]
        return Shared(tuple(roles), _cards_shared(self)) if roles else None

    def cards(self, actors: Sequence[Name], workers: Sequence[Name]) -> dict[Name, int]:
        """The card of every actor and reward worker that has a share of one, as Ray places them on one node.

        The learner is placed before them, so a rank with a share has card 0.

        Args:
            actors: Names of all rollout actors.
            workers: Names of all reward workers.
        """
        shares = dict.fromkeys(actors, self.actor_gpus) | dict.fromkeys(workers, self.worker_gpus)
        free = [1.0 - self.rank_gpus] if _is_share(self.rank_gpus) else []
        cards: dict[Name, int] = {}
        for name in by_turns(actors, workers):
            share = shares[name]
            if not _is_share(share):
                continue
            fitting = [card for card, left in enumerate(free) if left >= share - ROUNDING]
            if not fitting:
                free.append(1.0)
                fitting = [len(free) - 1]
            cards[name] = min(fitting, key=lambda card: free[card])
            free[cards[name]] -= share
        return cards

    @property
    def overrides(self) -> tuple[str, ...]:
        """It as settings."""
        shares = (("rollout", self.actor_gpus), ("reward", self.worker_gpus))
        return (
            f"rollout.actors={self.actors}",
            f"reward.workers={self.workers}",
            f"learner.ranks={self.ranks}",
            *(f"{section}.num_gpus={gpus:g}" for section, gpus in shares),
        )

    def applied(self, config: Config) -> Config | None:
        """The configuration with this split; None if the two do not go together."""
        values = config.model_dump()
        values["rollout"] |= {"actors": self.actors, "num_gpus": self.actor_gpus}
        values["reward"] |= {"workers": self.workers, "num_gpus": self.worker_gpus}
        values["learner"] |= {"ranks": self.ranks}
        try:
            return Config.model_validate(values)
        except ValidationError:
            return None


def _is_share(gpus: float) -> bool:
    return 0 < gpus < 1


@lru_cache(maxsize=4096)
def _placed(split: Split) -> frozenset[int]:
    """The cards of all actors and reward workers with shares."""
    return frozenset(split.cards(range(split.actors), range(-split.workers, 0)).values())


def _cards_shared(split: Split) -> int:
    return len(_placed(split))


def _cards_taken(split: Split) -> int:
    """Cards of which somebody has a share, the learner included."""
    return len(_placed(split) | ({0} if _is_share(split.rank_gpus) else frozenset()))
