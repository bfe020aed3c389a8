"""The command: how many schedules, drawn of which seed, and what they did to the runs."""

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.errors import UserError
from advdmd_ray.provenance import made_here
from advdmd_ray.runtime.heap import frozen_heap
from schedules.drawn import Schedule, schedules
from schedules.lives import lived

DONE, FAILED, BAD_INPUT = 0, 1, 2
DESCRIPTION = (
    "Runs the controller under random schedules of faults, in virtual time, and looks at its laws in each turn."
)


class Tally:
    """What the schedules did to the runs.

    Attributes:
        runs: How many there were.
        lives: Of their drivers.
        courses: From a checkpoint, or the teacher, on.
        groups: That were trained on.
        longest_s: Virtual seconds of the longest.
        times: How often each kind of fault happened.
        share_of: How many runs met it.
    """

    def __init__(self) -> None:
        self.runs = self.lives = self.courses = self.groups = 0
        self.longest_s = 0.0
        self.times: Counter[str] = Counter()
        self.share_of: Counter[str] = Counter()

    def run(self, schedule: Schedule) -> None:
        """One more.

        Raises:
            AssertionError: if a law does not hold.
        """
        met: Counter[str] = Counter()
        world = lived(schedule, met)
        self.runs += 1
        self.lives += world.lives
        self.courses += world.courses
        self.groups += len(world.trained)
        self.longest_s = max(self.longest_s, world.clock.now)
        self.times.update(met)
        self.share_of.update(list(+met))

    def table(self) -> str:
        """One line for each kind, the most frequent first, and their sum."""
        lines = [f"{'':36}{'times':>8}{'runs':>8}"]
        for name, times in self.times.most_common():
            lines.append(f"{name:36}{times:8d}{self.share_of[name] / self.runs:8.1%}")
        lines.append(f"{'all':36}{self.times.total():8d}")
        return "\n".join(lines) + "\n"


def look_through(count: int, seed: int, run: Callable[[Schedule], None], *, shrink: bool = True) -> None:
    """Draws so many schedules and runs each.

    Args:
        count: Of them.
        seed: Of the draws.
        run: What is done with each.
        shrink: Whether one that fails is made as small as it gets first.
    """

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        database=None,
        derandomize=False,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        report_multiple_bugs=False,
    )
    @given(schedules)
    def look(schedule: Schedule) -> None:
        run(schedule)

    look()


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, run and count.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0; 1 if a law did not hold, with the smallest schedule that shows it; 2 for bad input.
    """
    try:
        args = _arguments(argv)
    except UserError as error:
        sys.stderr.write(f"schedules: {error}\n")
        return BAD_INPUT
    logging.disable(logging.CRITICAL)  # a controller to which all of this happens has much to say
    tally, began = Tally(), time.monotonic()
    try:
        with frozen_heap():
            look_through(args.schedules, args.seed, tally.run)
    except AssertionError as error:
        traceback.print_exception(error)
        return FAILED
    finally:
        logging.disable(logging.NOTSET)
    took = time.monotonic() - began
    sys.stdout.write(
        f"commit {made_here()['commit']}, seed {args.seed}: {tally.runs} schedules in {took:.0f} s, "
        f"{tally.lives} lives of the driver, {tally.courses} courses, {tally.groups} groups, "
        f"the longest run {tally.longest_s:.0f} virtual s\n{tally.table()}"
    )
    return DONE


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Raises UserError for numbers that make no sense."""
    parser = Parser(prog="python -m schedules", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--schedules", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--seed", type=int, default=7, help="of the draws (7)")
    args = parser.parse_args(argv)
    if args.schedules < 1:
        raise UserError(f"--schedules must be at least 1, got {args.schedules}")
    return args
