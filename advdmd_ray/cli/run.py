"""`advdmd run`: trains a student, on Ray or in this process."""

import argparse
import sys
import time

import psutil

from advdmd_ray.cli.arguments import DONE, PATH, Command, add_config
from advdmd_ray.config import dump_config, read_config
from advdmd_ray.runs import preflight
from advdmd_ray.runtime.run import run


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd run`."""
    add_config(command)
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="show configuration, placement and memory, and what this machine lacks; start nothing",
    )
    command.add_argument(
        "--resume", type=PATH, metavar="auto|PATH", help="go on from the run's last checkpoint, or from one at PATH"
    )
    command.add_argument("--local", action="store_true", help="without Ray, in this process: for small runs")
    command.add_argument("--fresh", action="store_true", help="move an earlier run of this name aside, to NAME.1")


def run_command(args: argparse.Namespace) -> int:
    """Runs to the end, or shows what would be run."""
    config = read_config(args.config, args.overrides)
    if args.dry_run:
        from advdmd_ray.runs import doctor
        from advdmd_ray.runs.needs.course import course_text
        from advdmd_ray.runs.needs.plan import plan_text

        start = preflight.check(config, args.resume, fresh=args.fresh, local=args.local, here=False)
        room = doctor.room_text(doctor.examine_room(config, local=args.local))
        plan = plan_text(config, local=args.local)
        parts = (dump_config(config), plan, course_text(config), start.note, "", room)
        sys.stdout.write("\n".join(parts) + "\n")
    else:
        run(config, resume=args.resume, fresh=args.fresh, local=args.local, age_s=_age_s())
    return DONE


def _age_s() -> float:
    """Seconds since this process was started."""
    started = psutil.Process().create_time()
    if sys.platform == "linux":
        # The kernel counts from the boot, whose own time is known to a second.
        return time.clock_gettime(time.CLOCK_BOOTTIME) - (started - psutil.boot_time())
    return time.time() - started


COMMAND = Command(
    "run",
    "Train a student: on a local Ray, on a cluster, or in this process.",
    add_arguments,
    run_command,
    long=True,
)
