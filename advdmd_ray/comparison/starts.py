"""What a job asks of the one from whose end it goes on."""

import itertools
from collections.abc import Iterable
from typing import Final

from advdmd_ray.comparison.job import Job
from advdmd_ray.config import Config, Resume
from advdmd_ray.errors import UserError
from advdmd_ray.learner.cadence import CadenceState
from advdmd_ray.runs.folder import RunFolder, newest_checkpoint
from advdmd_ray.runs.needs.compute import Network, cycles_within, expected_costs, expected_plans
from advdmd_ray.runs.same_run import changed

_MAY_CHANGE: Final = ("rollout.group_size", "rollout.warm_group_size", "reward.kind", "reward.extra")
"""Settings that a resumed run may not change, and a job that starts from another may: no state hangs on them."""


def check_start(config: Config, start: Job | None) -> None:
    """Makes sure that a job can go on from the state of another.

    Args:
        config: The job's.
        start: The other; None: it begins with the teacher.

    Raises:
        UserError: naming the first setting on which that state hangs and that differs.
    """
    if start is None:
        return
    for section, name in changed(start.config, config, Resume.FIXED, Resume.STUDENT):
        before, after = (getattr(getattr(each, section), name) for each in (start.config, config))
        if f"{section}.{name}" not in _MAY_CHANGE:
            raise UserError(
                f"{section}.{name} is {after!r}, and {start.rival}, from which it starts, has {before!r}; that state "
                "hangs on it: give both the same"
            )


def cycles_of(config: Config, budget: float, network: Network, start: Job | None) -> int:
    """Cycles in which a healthy run spends its budget, with those of its start.

    Args:
        config: The job's.
        budget: Learner forward-equivalents, with what its start spent.
        network: The transformer.
        start: The job that it starts from.
    """
    if start is None:
        return cycles_within(config, budget, network)
    spent, state = _expected_end(start)
    return start.config.run.cycles + cycles_within(config, max(budget - spent, 1.0), network, state)


def _expected_end(job: Job) -> tuple[float, CadenceState]:
    """What a job has spent at its end, and where it leaves the cadence, if its discriminator is healthy."""
    spent, state, began = 0.0, None, 0
    if job.start is not None:
        (spent, state), began = _expected_end(job.start), job.start.config.run.cycles
    cycles = job.config.run.cycles - began
    costs = itertools.islice(expected_costs(job.config, job.network, state), cycles)
    *_, (_, last) = itertools.islice(expected_plans(job.config, state), cycles)
    return spent + sum(cost.learner for cost in costs), last


def check_checkpoints(jobs: Iterable[Job]) -> None:
    """Makes sure that each job to do has something to go on from, or that it will be made.

    Raises:
        UserError: if the job that one starts from is done and left no checkpoint.
    """
    for job in jobs:
        start = job.start
        if job.done or start is None or not start.done:
            continue
        if all(newest_checkpoint(RunFolder(each.folder).checkpoints) is None for each in (job, start)):
            raise UserError(told_gone(job, start))


def told_gone(job: Job, start: Job) -> str:
    """What to say, and to do, where a job's start is done and its checkpoint is not there."""
    return (
        f"{start.folder}: the checkpoint from which {job.name} starts is gone; remove that folder to train "
        f"{start.name} again"
    )
