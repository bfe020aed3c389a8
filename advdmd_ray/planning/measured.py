"""What the work of each role cost in an earlier run; torch is not imported."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from advdmd_ray.errors import UserError
from advdmd_ray.metrics.history import Entry, entries_of

MEASURED = {
    "generate": "advdmd_rollout_seconds",
    "hand_over": "advdmd_rollout_hand_over_seconds",
    "score": "advdmd_reward_seconds",
    "cycle": "advdmd_learner_cycle_seconds",
}
"""The series whose mean is a cost."""


def measured(metrics: Path) -> dict[str, float]:
    """Mean seconds that each role's work took in a run.

    Loads and publishing are in them. They hold for workers, ranks and settings like that run's.

    Args:
        metrics: The run's metrics.jsonl.

    Returns:
        Seconds by the names of `Costs`.

    Raises:
        UserError: if it cannot be read, or says nothing of a role.
    """
    if not metrics.is_file():
        raise UserError(f"{metrics}: no such file; --from takes the folder of a run that has trained")
    entries = [*entries_of(metrics)]
    return {cost: _mean(entries, series, metrics) for cost, series in MEASURED.items()}


def _mean(entries: Sequence[Entry], series: str, metrics: Path) -> float:
    seconds = [value for entry in entries for value in entry["values"].get(series, ())]
    if not seconds:
        raise UserError(f"{metrics}: has no {series}; --from takes the folder of a run that has trained")
    return fmean(seconds)
