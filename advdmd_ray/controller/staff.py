"""How many workers a run is asked to have, and how many it has: what its owner and the controller say to each other.

This file imports nothing: a command that only asks needs no network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

ELASTIC = ("rollout", "reward")
"""The roles whose workers come and go while a run trains."""


def worker_name(role: str, number: int) -> str:
    """What the worker of a role is called; numbers are given again, so that a run has few names."""
    return f"{role}-{number}"


def worker_names(role: str, count: int) -> tuple[str, ...]:
    """The first so many."""
    return tuple(worker_name(role, number) for number in range(count))


def role_of(worker: str) -> str:
    """The role that a name was made for."""
    return worker.rpartition("-")[0]


def number_of(worker: str) -> int:
    """The number that a name was made of."""
    return int(worker.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class Staff:
    """The workers of a role.

    Attributes:
        asked: How many there are to be.
        up: Those of them that are there.
        coming: Those of them that are not: they start, wait for room, or rest after too many losses.
        leaving: Others, which finish what they have at hand.
    """

    asked: int
    up: int
    coming: int
    leaving: int


class Wishes(Protocol):
    """What the owner of a run asks for while it trains."""

    def wanted(self) -> Mapping[str, int]:
        """The counts that hold now, each 1 or more, of the roles that the owner asked about."""
        ...

    def tell(self, staff: Mapping[str, Staff]) -> None:
        """What there is now, by role; said over and over."""
        ...


class NoWishes:
    """`Wishes` of an owner who says nothing."""

    def wanted(self) -> Mapping[str, int]:
        """See `Wishes`."""
        return {}

    def tell(self, staff: Mapping[str, Staff]) -> None:
        """See `Wishes`."""
