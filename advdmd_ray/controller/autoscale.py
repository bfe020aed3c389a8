"""Autoscaling: how many rollout actors and reward workers a run should have, from how they spend their time.

The rule, for n workers of a role that are up, while the learner waits for groups for a share w of its time:

* **More**, if w is above `autoscale.learner_waits`. Where groups queue at the reward workers while the learner waits,
  at least half a group a worker, it is they who are too few, else the rollout actors. They make 1 - w of what the
  learner would take, so there are to be n / (1 - w), rounded up. No more actors come than there can be leases.
* **Fewer**, if w is at most half that share, and workers of the role are idle for more than `autoscale.workers_idle`
  of their time: actors held back by the age or byte cap, reward workers without groups. As many stay as are busy for
  `BUSY` of their time then, and make the learner wait for no more than `BUSY` of what it may: its wait for a piece of
  work grows at most as the work of each worker does, by n over those who stay.

So neither calls for the other: no more come than are needed, and who stays has some time to spare. One role changes at
a time, within its bounds, to no less than half and no more than twice as many.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

from advdmd_ray.config import Config
from advdmd_ray.config.scaling import AutoscaleSection

BUSY = 0.8
QUEUE = 0.5
"""Groups that wait for each reward worker while the learner waits, from which on it is they who are too few."""
STATES = ("busy", "waiting", "blocked")

Seconds = Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Role:
    """The workers of a role in a stretch of time.

    Attributes:
        workers: How many were up, the mean.
        busy: Share of their time, 0 to 1.
    """

    workers: float
    busy: float


@dataclass(frozen=True, slots=True)
class Load:
    """How a run spent a stretch of time.

    Attributes:
        waits: Share of its time for which the learner waited for groups, 0 to 1.
        rollout: Its actors.
        reward: Its reward workers.
        queued: Mean number of groups that waited for a reward worker while the learner waited.
    """

    waits: float
    rollout: Role
    reward: Role
    queued: float

    @classmethod
    def of(cls, seconds: Seconds, stretch_s: float, queued: float) -> Self:
        """That of the seconds by role and state of a stretch of time; those in which a worker was down do not count."""

        def role(name: str) -> Role:
            up = sum(seconds.get((name, state), 0.0) for state in STATES)
            return Role(up / stretch_s, seconds.get((name, "busy"), 0.0) / up if up else 0.0)

        waits = min(1.0, seconds.get(("learner", "waiting"), 0.0) / stretch_s)
        return cls(waits, role("rollout"), role("reward"), queued)


def more(workers: float, waits: float, most: int) -> int:
    """So many that the learner would not wait, if each of them adds as much as those that there are."""
    return min(most, _up(workers / max(1 - waits, 0.5)))


def fewer(role: Role, waits: float, allowed: float, least: int) -> int:
    """So many that are busy for `BUSY` of their time, while the learner waits for no more than `BUSY` of what it may.

    Args:
        role: Those that there are.
        waits: Share of its time for which the learner waits now, below 1.
        allowed: Share for which it may, between 0 and 1.
        least: As few as there may be.
    """
    by_work = role.workers * role.busy / BUSY
    by_wait = role.workers * _wait_of_work(waits) / (BUSY * _wait_of_work(allowed))
    return max(least, _up(max(by_work, by_wait, role.workers / 2)))


def _up(count: float) -> int:
    """The next whole number, but for round-off."""
    return math.ceil(count - 1e-9)


def _wait_of_work(share: float) -> float:
    """Seconds of waiting in a second of work."""
    return share / (1 - share)


def advised(config: Config, load: Load, roles: Collection[str]) -> tuple[str, int] | None:
    """The role that should change and its number of workers then; None: they are well as they are.

    Args:
        config: `autoscale`, and how many leases there can be.
        load: What was measured.
        roles: Those that may change.
    """
    if load.waits > config.autoscale.learner_waits:
        advice = _more_of_those_who_are_too_few(config, load)
    elif load.waits <= config.autoscale.learner_waits / 2:
        advice = _fewer_of_those_who_are_idle(config.autoscale, load, roles)
    else:
        advice = None
    return advice if advice is not None and advice[0] in roles else None


def _more_of_those_who_are_too_few(config: Config, load: Load) -> tuple[str, int] | None:
    settings, leases = config.autoscale, config.rollout.groups_per_cycle * (config.rollout.max_policy_age + 1)
    if load.queued >= QUEUE * load.reward.workers:
        name, role, most = "reward", load.reward, settings.reward_max
    else:
        name, role, most = "rollout", load.rollout, min(settings.rollout_max, max(settings.rollout_min, leases))
    count = more(role.workers, load.waits, most)
    return (name, count) if count >= role.workers + 1 else None


def _fewer_of_those_who_are_idle(
    settings: AutoscaleSection, load: Load, roles: Collection[str]
) -> tuple[str, int] | None:
    bounds = {"rollout": (load.rollout, settings.rollout_min), "reward": (load.reward, settings.reward_min)}
    for name, (role, least) in bounds.items():
        count = fewer(role, load.waits, settings.learner_waits, least)
        if name in roles and 1 - role.busy > settings.workers_idle and count <= role.workers - 1:
            return name, count
    return None
