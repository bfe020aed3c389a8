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


def measured(metrics: Path, after: int | None = None) -> dict[str, float]:
    """Mean seconds that each role's work took in the later part of a run, which is what a forecast is of.

    Before RL begins a cycle has less to do, and groups may be smaller. Loads and publishing are in the seconds. They
    hold for workers, ranks and settings like that run's.

    Args:
        metrics: The run's metrics.jsonl.
        after: The last cycle that does not count; None: half of the cycles do not.

    Returns:
        Seconds by the names of `Costs`.

    Raises:
        UserError: if it cannot be read, or says nothing of a role.
    """
    if not metrics.is_file():
        raise UserError(f"{metrics}: no such file; --from takes the folder of a run that has trained")
    entries = [*entries_of(metrics, told=False)]
    first = max((entry["cycle"] for entry in entries), default=0) // 2 if after is None else after
    entries = [entry for entry in entries if entry["cycle"] > first]
    return {cost: _mean(entries, series, metrics) for cost, series in MEASURED.items()}


def _mean(entries: Sequence[Entry], series: str, metrics: Path) -> float:
    seconds = [value for entry in entries for value in entry["values"].get(series, ())]
    if not seconds:
        raise UserError(f"{metrics}: has no {series}; --from takes the folder of a run that has trained")
    return fmean(seconds)
