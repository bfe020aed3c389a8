"""`python -m benchmarks.plan_check`: what `advdmd plan` says of runs, against the runs themselves.

Of runs of the digits the plan is told the mean seconds that the run measured of each role, as `--from` does. Of runs
whose workers sleep, many in one process, over a real Ray, it is told what the work takes, and nothing of the run. The
plan's seconds a cycle are compared with the run's own in its steady state.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from advdmd_ray.config import Config
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.planning.forecast import forecast
from advdmd_ray.planning.measured import measured
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.figures import Figures
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.inputs import geometry
from benchmarks.host.rows.loop import LAST, WARM, Loop, cycle_ends, ours
from benchmarks.host.rows.no_chores import without_chores
from benchmarks.host.rows.virtual_workers import VirtualWorkersShell, trained
from benchmarks.local_ray import local_ray

QUICK_LEARNER = (
    "cadence.fake_score_updates=1",
    "cadence.discriminator_updates=1",
    "policy_gradient.minibatches=1",
)
# RL learns from 8 rows of a group, however many the actors make and the reward workers score at one level of noise.
LARGE_GROUPS = (
    *QUICK_LEARNER,
    "rollout.group_size=64",
    "policy_gradient.group_rows=8",
    "reward.final_levels=[0.05]",
    "discriminator.blocks=[0]",
)
DIGITS: Mapping[str, Sequence[str]] = {
    "1 actor": ("rollout.actors=1",),
    "2 actors": ("rollout.actors=2",),
    "4 actors": ("rollout.actors=4",),
    "1 actor, and a learner of few updates": ("rollout.actors=1", *QUICK_LEARNER),
    "1 actor of large groups, and a learner of few updates": ("rollout.actors=1", *LARGE_GROUPS),
    "2 actors of large groups, and a learner of few updates": ("rollout.actors=2", *LARGE_GROUPS),
    "4 actors of large groups, and a learner of few updates": ("rollout.actors=4", *LARGE_GROUPS),
}


@dataclass(frozen=True, slots=True)
class Sleepers:
    """A run whose workers sleep, with an age cap of 1.

    Attributes:
        actors: Rollout actors; a tenth as many workers score.
        generate: Seconds of a group.
        cycle: Seconds of the learner.
        groups: Groups a cycle.
    """

    actors: int
    generate: float
    cycle: float
    groups: int = 8

    @property
    def costs(self) -> Costs:
        """What the work takes; scores take a twentieth of a rollout."""
        return Costs(generate=self.generate, score=self.generate / 20, cycle=self.cycle, spread=0.3)

    def config(self, cycles: int, folder: Path) -> Config:
        """Of a run in this folder."""
        return without_chores(self.actors, self.groups, WARM + cycles + LAST, age=1, output=folder)


SLEEPERS: Mapping[str, Sleepers] = {
    "1 sleeping actor": Sleepers(1, generate=0.4, cycle=0.6),
    "2 sleeping actors": Sleepers(2, generate=0.4, cycle=0.6),
    "4 sleeping actors": Sleepers(4, generate=0.4, cycle=0.6),
    "8 sleeping actors, held back by the age cap": Sleepers(8, generate=1.0, cycle=0.6),
    "1,000 sleeping actors": Sleepers(1000, generate=4.0, cycle=1.6, groups=2048),
}


def digits(overrides: Sequence[str], cycles: int) -> dict[str, float]:
    """A run of the digits and its plan, as `compared`."""
    with tempfile.TemporaryDirectory() as folder:
        config = Loop("digits", cycles, tuple(overrides)).config(Path(folder))
        ours(config, Path(folder))
        means = measured(RunFolder(config.folder).metrics, after=WARM)
        costs = Costs(means["generate"], means["score"], means["cycle"], means["hand_over"])
        return compared(config, costs, cycles)


def sleepers(size: Sleepers, cycles: int) -> dict[str, float]:
    """A run of sleeping workers and its plan, as `compared`."""
    with tempfile.TemporaryDirectory() as folder:
        config = size.config(cycles, Path(folder))
        with local_ray():
            trained(config, VirtualWorkersShell(config, size.costs))
        return compared(config, size.costs, cycles)


def compared(config: Config, costs: Costs, cycles: int) -> dict[str, float]:
    """Seconds a cycle of a run and of its plan, and the shares of its time that each role was busy in both.

    Args:
        config: The run's.
        costs: Seconds of its work.
        cycles: Cycles that are compared, after the first ones.
    """
    metrics = RunFolder(config.folder).metrics
    ends, busy = cycle_ends(metrics), busy_shares(metrics, WARM, WARM + cycles)
    run = (ends[WARM + cycles - 1] - ends[WARM - 1]) / cycles
    planned = forecast(config, costs, group_bytes=geometry(config).group_bytes)
    seen = {"run_s": run, "plan_s": planned.cycle_s, "plan_over_run": planned.cycle_s / run}
    for role, shares in planned.shares.items():
        seen |= {f"{role}_busy_run": busy[role], f"{role}_busy_plan": shares["busy"]}
    return seen


def busy_shares(metrics: Path, first: int, last: int) -> dict[str, float]:
    """By role, the share of its workers' time in the cycles after the first and up to the last that was work."""
    states: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for cycle, sign in ((first, -1), (last, 1)):
        until = last_values(entry for entry in entries_of(metrics) if entry["cycle"] <= cycle)
        for labels, seconds in Figures(until).rows("advdmd_run_role_seconds_total"):
            states[labels["role"]][labels["state"]] += sign * seconds
    return {role: each["busy"] / sum(each.values()) for role, each in states.items()}


CASES = {
    **{name: partial(digits, overrides) for name, overrides in DIGITS.items()},
    **{name: partial(sleepers, size) for name, size in SLEEPERS.items()},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cases that are asked for and prints them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan_check", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {'; '.join(CASES)} (all)")
    parser.add_argument("--cycles", type=int, default=20, help="cycles of each run that are compared (20)")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.cases if name not in CASES]:
        parser.error(f"there is no case {unknown[0]!r}; cases are {'; '.join(CASES)}")
    document: dict[str, Any] = {**made_here(), "cycles": args.cycles}
    for name in args.cases or CASES:
        sys.stderr.write(f"running {name}\n")
        document[name] = {key: round(value, 3) for key, value in CASES[name](cycles=args.cycles).items()}
        sys.stderr.write(f"{json.dumps(document[name])}\n")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
