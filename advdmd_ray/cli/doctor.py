"""`advdmd doctor`: looks at this machine and says what to change."""

import argparse
import sys

from advdmd_ray.cli.arguments import DONE, FAILED, Command, add_config
from advdmd_ray.config import Config, read_config
from advdmd_ray.errors import UserError


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd doctor`."""
    add_config(command, required=False)
    command.add_argument(
        "--kubernetes",
        action="store_true",
        help="look at no machine; print the pods that the configuration needs, as YAML for a RayJob",
    )


def run_command(args: argparse.Namespace) -> int:
    """Prints the findings, and returns 1 if something must change; or the pods."""
    if args.overrides and args.config is None:
        raise UserError(f"{args.overrides[0]} overrides a file; give one by --config")
    config = Config() if args.config is None else read_config(args.config, args.overrides)
    if args.kubernetes:
        from advdmd_ray.runs.doctor.kubernetes import cluster_text
        from advdmd_ray.runs.needs.memory import sizes_of

        sys.stdout.write(cluster_text(config, sizes_of(config)))
        return DONE
    from advdmd_ray.runs import doctor

    findings = doctor.examine(config)
    sys.stdout.write(doctor.verdict_text(findings) + "\n")
    return FAILED if any(finding.state == "change" for finding in findings) else DONE


COMMAND = Command(
    "doctor", "Check this machine, its packages and its Ray, and say what to change.", add_arguments, run_command
)
