"""What a storm has left in its folder and on its machine, as the verdict wants it."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advdmd_ray.learner.checkpoint import latest_checkpoint
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.storm.driver import SETTLED
from benchmarks.endurance.storm.lives import End

LOSS, AGE = "advdmd_learner_loss", "advdmd_buffer_policy_age"
TRAINED = "advdmd_learner_trajectories_trained_total"


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the verdict looks at.

    Attributes:
        cycles: That the last driver was to reach.
        per_cycle: Groups of a cycle.
        group_size: Trajectories of a group.
        age_cap: Of the run.
        settled: Lines of the driver's record, in their order.
        frontier: Facts of the last checkpoint.
        trained: Trajectories, as counted.
        ages: Policy ages of all groups of the history that stands.
        losses: By objective, for each line that has it, cycle and value.
        loads: By series and stream, the totals of snapshots that workers loaded, verified and found to differ.
        ends: Of all drivers.
        stuck: Processes that a fault hit and that had not ended when the storm was over.
        left: What is left of the run, by kind.
    """

    cycles: int
    per_cycle: int
    group_size: int
    age_cap: int
    settled: Sequence[Mapping[str, Any]]
    frontier: Mapping[str, Any]
    trained: float
    ages: Sequence[float]
    losses: Mapping[str, Sequence[tuple[int, float | None]]]
    loads: Mapping[str, float]
    ends: Sequence[End]
    stuck: Sequence[str]
    left: Mapping[str, Any]


def gathered(
    folder: Path, config: Mapping[str, Any], ends: Sequence[End], stuck: Sequence[str], left: Mapping[str, Any]
) -> Evidence:
    """Reads what the last driver of a storm has left.

    Args:
        folder: Of the storm.
        config: Settings of the run.
        ends: Of its drivers.
        stuck: See `Evidence`.
        left: See `Evidence`.
    """
    files = RunFolder(folder / "run")
    entries = list(entries_of(files.metrics))
    losses: dict[str, list[tuple[int, float | None]]] = defaultdict(list)
    ages: list[float] = []
    for entry in entries:
        ages += entry["values"].get(AGE, [])
        for key, value in entry["values"].items():
            name, _, labels = key.partition("{")
            if name == LOSS:
                finite = value is not None and math.isfinite(value)
                losses[labels.removeprefix("objective=").rstrip("}")].append(
                    (entry["cycle"], value if finite else None)
                )
    last = last_values(entries)
    checkpoint = latest_checkpoint(files.checkpoints)
    return Evidence(
        cycles=config["run"]["cycles"],
        per_cycle=config["rollout"]["groups_per_cycle"],
        group_size=config["rollout"]["group_size"],
        age_cap=config["rollout"]["max_policy_age"],
        settled=[json.loads(line) for line in (folder / SETTLED).read_text().splitlines()],
        frontier=checkpoint.facts["controller"]["frontier"] | {"step": checkpoint.step},
        trained=last.get(TRAINED, 0.0),
        ages=ages,
        losses=losses,
        loads={key: value for key, value in last.items() if key.startswith("advdmd_weights_") and "_total" in key},
        ends=ends,
        stuck=stuck,
        left=left,
    )
