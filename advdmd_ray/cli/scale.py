"""`advdmd scale`: changes the numbers of workers of a run while it trains."""

import argparse
import sys
from pathlib import Path

from advdmd_ray.cli.arguments import COUNT, DONE, PATH, Command, number
from advdmd_ray.config.texts import shown
from advdmd_ray.controller.staff import ELASTIC, Staff
from advdmd_ray.errors import UserError
from advdmd_ray.runs.scaling import AUTO, Asked, ask, texts_of

WAIT_S = 60.0
MOST_WAIT_S = 86_400.0


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd scale`."""
    command.add_argument("--run", required=True, type=PATH, metavar="DIR", help="the run folder")
    command.add_argument(
        "counts",
        nargs="+",
        type=_asked,
        metavar="ROLE=COUNT",
        help="rollout=8: so many rollout actors; reward=auto: as the run decides",
    )
    command.add_argument(
        "--wait",
        type=number(0, MOST_WAIT_S),
        default=WAIT_S,
        metavar="SECONDS",
        help=f"for the run to take it up ({WAIT_S:g}); workers come and leave later",
    )


def _asked(text: str) -> tuple[str, Asked]:
    """A role and a count or auto; any other raises ArgumentTypeError."""
    role, found, count = text.partition("=")
    if not found or role not in ELASTIC:
        raise argparse.ArgumentTypeError(f"expected rollout=COUNT or reward=COUNT, got {shown(text)}")
    return role, AUTO if count == AUTO else COUNT(count)


def run_command(args: argparse.Namespace) -> int:
    """Says on stderr what it asks for, and prints what runs once the run has taken it up."""
    counts = dict(args.counts)
    if len(counts) < len(args.counts):
        raise UserError(
            f"a role has two counts: {' '.join(f'{role}={count}' for role, count in args.counts)}; give one"
        )
    answer = ask(Path(args.run), counts, args.wait)
    sys.stdout.write(f"asked for {texts_of(counts)}; there are:\n")
    for role in ELASTIC:
        sys.stdout.write(f"{role:8}{text_of(answer.staff[role])}\n")
    return DONE


def text_of(staff: Staff) -> str:
    """The workers of a role in words."""
    more = [f"{count} {what}" for count, what in ((staff.coming, "coming"), (staff.leaving, "leaving")) if count]
    return ", ".join([f"{staff.up} up of {staff.asked}", *more])


COMMAND = Command("scale", "Change the numbers of workers of a run while it trains.", add_arguments, run_command)
