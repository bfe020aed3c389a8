"""The `advdmd` command: reads the arguments and calls one command.

Whatever is slow to import is imported by the command that needs it, so `--help` and bad input answer at once, without
torch or ray.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import cast

from advdmd_ray import __version__, errors
from advdmd_ray.cli import (
    compare,
    configs,
    dashboard,
    doctor,
    evaluate,
    export,
    plan,
    pretrain,
    replay,
    run,
    sample,
    scale,
)
from advdmd_ray.cli.arguments import BAD_INPUT, FAILED, INTERRUPTED, SIGNALLED, Parser, end
from advdmd_ray.console import logging_to_stderr
from advdmd_ray.files import disk_told
from advdmd_ray.runtime.stopping import interrupting

COMMANDS = (
    run.COMMAND,
    pretrain.COMMAND,
    sample.COMMAND,
    evaluate.COMMAND,
    export.COMMAND,
    compare.COMMAND,
    configs.COMMAND,
    dashboard.COMMAND,
    doctor.COMMAND,
    plan.COMMAND,
    replay.COMMAND,
    scale.COMMAND,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        The exit code.
    """
    try:
        args = parse_arguments(sys.argv[1:] if argv is None else argv)
    except errors.UserError as error:
        return end(f"error: {error}", BAD_INPUT)
    with logging_to_stderr(form=args.log_format, quiet=args.quiet, verbose=args.verbose):
        return _code_of(args)


def _code_of(args: argparse.Namespace) -> int:
    """Runs the command; whatever ends it is one line."""
    try:
        # What a command knows better how to tell, it tells itself.
        with interrupting(), disk_told(f"what `advdmd {args.command}` makes", "make room, and start it again"):
            code = cast("Callable[[argparse.Namespace], int]", args.function)(args)
            sys.stdout.flush()
            return code
    except errors.UserError as error:
        return end(f"error: {error}", BAD_INPUT)
    except errors.FAILURES as error:
        logging.getLogger(__name__).debug("the failure in full", exc_info=True)
        return end(f"failed: {error}", FAILED)
    except errors.Interrupted as stop:
        return end(str(stop), SIGNALLED + stop.number)
    except KeyboardInterrupt:
        return end("stopped by Ctrl-C", INTERRUPTED)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; `section.key=value` overrides may stand before, between and after the options.

    Raises:
        UserError: for an unknown command or option, or a missing or malformed value.
    """
    args, extras = _build_parser().parse_known_args(argv)
    if args.command is None:
        names = ", ".join(command.name for command in COMMANDS)
        raise errors.UserError(f"no command given: one of {names}; see advdmd --help")
    for extra in extras:
        if extra.startswith("-") and "=" in extra and "." in extra:
            raise errors.UserError(f"unknown option {extra}; overrides have no dashes: {extra.lstrip('-')}")
        if extra.startswith("-") or "overrides" not in args:
            raise errors.UserError(f"unexpected argument {extra}; see advdmd {args.command} --help")
        args.overrides.append(extra)
    return args


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="advdmd",
        description="Distils a diffusion model into a few-step student with AdvDMD, on Ray and DeepSpeed.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"advdmd {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.text, description=command.text, allow_abbrev=False)
        own.set_defaults(function=command.run)
        own.set_defaults(quiet=False, log_format="text")
        much = own.add_mutually_exclusive_group()
        much.add_argument("-v", "--verbose", action="store_true", help="log details, and the whole of a failure")
        if command.long:
            much.add_argument("--quiet", action="store_true", help="only warnings, errors and the last summary")
            own.add_argument(
                "--log-format", choices=["text", "json"], help="text (default), or one JSON object a line on stderr"
            )
        command.add_arguments(own)
    return parser
