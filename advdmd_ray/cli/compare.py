"""`advdmd compare`: trains rivals at equal learner compute."""

import argparse
import sys

from advdmd_ray.cli.arguments import COUNT, DONE, FAILED, PATH, Command, end
from advdmd_ray.errors import Interrupted


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd compare`."""
    command.add_argument("file", type=PATH, metavar="FILE|NAME", help="YAML file, or one that ships, such as shapes")
    command.add_argument("--quick", action="store_true", help="rehearse with the file's quick values, in minutes")
    command.add_argument("--jobs", type=COUNT, metavar="N", help="jobs at a time (default: one a core)")
    command.add_argument("--only", action="append", default=[], metavar="RIVAL", help="give it again for more rivals")
    command.add_argument("--name", metavar="NAME", help="folder in runs/compare in place of the file's name")


def run_command(args: argparse.Namespace) -> int:
    """Runs what is missing and prints the table."""
    from advdmd_ray.comparison import compare

    prepared = compare.prepare(args.file, quick=args.quick, name=args.name, only=args.only)
    name = [] if args.name is None else ["--name", args.name]
    command = ["advdmd", "compare", args.file, *(["--quick"] if args.quick else []), *name]
    try:
        failed = compare.run_comparison(prepared, at_once=args.jobs, command=command)
    except Interrupted as stopped:
        raise Interrupted(stopped.number, f"{stopped}; {prepared.kept()}") from None
    if failed:
        return end(f"failed: {failed} of {len(prepared.wanted)} jobs; the same command tries them again", FAILED)
    sys.stdout.write((prepared.folder / compare.TABLE).read_text(encoding="utf-8") + f"{prepared.folder}\n")
    return DONE


COMMAND = Command(
    "compare",
    "Train rivals at equal learner compute, and write their table and figure.",
    add_arguments,
    run_command,
    long=True,
)
