"""`python -m benchmarks.plan_check`: what `advdmd plan --from` says of runs of the digits, against the runs themselves.

The mean seconds that a run measured of each role go into the plan, whose seconds a cycle are compared with the run's
own in its steady state.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advdmd_ray.planning.forecast import forecast
from advdmd_ray.planning.measured import measured
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.inputs import geometry
from benchmarks.host.rows.loop import WARM, Loop, ours

CASES: Mapping[str, Sequence[str]] = {
    "1 actor": ("rollout.actors=1",),
    "2 actors": ("rollout.actors=2",),
    "4 actors": ("rollout.actors=4",),
    "1 actor, and a learner of few updates": (
        "rollout.actors=1",
        "cadence.fake_score_updates=1",
        "cadence.discriminator_updates=1",
        "policy_gradient.minibatches=1",
    ),
}


def compared(overrides: Sequence[str], cycles: int) -> dict[str, float]:
    """Seconds a cycle of a run of the digits and of its plan, and how busy the plan has actors and learner."""
    with tempfile.TemporaryDirectory() as folder:
        config = Loop("digits", cycles, tuple(overrides)).config(Path(folder))
        ends = ours(config, Path(folder))
        means = measured(RunFolder(config.folder).metrics)
        costs = Costs(means["generate"], means["score"], means["cycle"], means["hand_over"])
        planned = forecast(config, costs, group_bytes=geometry(config).group_bytes)
    run = (ends[WARM + cycles - 1].at - ends[WARM - 1].at) / cycles
    busy = {f"{role}_busy": shares["busy"] for role, shares in planned.shares.items()}
    return {"run_s": run, "plan_s": planned.cycle_s, "plan_over_run": planned.cycle_s / run, **busy}


def main() -> None:
    """Runs all cases and prints them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan_check", description=__doc__)
    parser.add_argument("--cycles", type=int, default=20, help="cycles of each run that are compared (20)")
    args = parser.parse_args()
    document: dict[str, Any] = {**made_here(), "cycles": args.cycles}
    for name, overrides in CASES.items():
        sys.stderr.write(f"running {name}\n")
        seen = compared(overrides, args.cycles)
        document[name] = {key: round(value, 3) for key, value in seen.items()}
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
