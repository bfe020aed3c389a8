"""What earlier runs say of the cost of each role's work."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from advdmd_ray.errors import UserError
from advdmd_ray.planning.measured import MEASURED, measured


def written(folder: Path, *entries: tuple[int, Mapping[str, float]]) -> Path:
    """A metrics.jsonl with these costs, each in a line of its own, at these cycles."""
    path = folder / "metrics.jsonl"
    lines = (
        {"time": 0.0, "cycle": cycle, "values": {MEASURED[cost]: [seconds]}}
        for cycle, costs in entries
        for cost, seconds in costs.items()
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def costs(seconds: float) -> Mapping[str, float]:
    return {"generate": seconds, "hand_over": 2 * seconds, "score": 3 * seconds, "cycle": 4 * seconds}


def test_costs_are_the_means_over_the_later_half_of_the_cycles(tmp_path: Path) -> None:
    run = written(tmp_path, (0, costs(9.0)), *((cycle, costs(float(cycle))) for cycle in range(1, 7)))
    assert measured(run) == pytest.approx(costs(5.0))  # of cycles 4, 5 and 6
    assert measured(run, after=5) == pytest.approx(costs(6.0))
    assert measured(run, after=-1) == pytest.approx(costs((9 + 21) / 7))


def test_of_a_run_of_one_cycle_it_counts(tmp_path: Path) -> None:
    assert measured(written(tmp_path, (0, costs(9.0)), (1, costs(2.0)))) == pytest.approx(costs(2.0))


def test_a_run_that_says_nothing_of_a_role_then_is_refused(tmp_path: Path) -> None:
    run = written(tmp_path, (0, costs(1.0)), (1, costs(1.0)), (3, {"generate": 1.0}))
    with pytest.raises(UserError, match="advdmd_rollout_hand_over_seconds"):
        measured(run)
