"""`advdmd replay`: runs a lease of the quarantine again."""

import argparse
import sys
from functools import partial
from pathlib import Path

from advdmd_ray.cli.arguments import DONE, FAILED, PATH, Command, add_config
from advdmd_ray.config import read_config
from advdmd_ray.errors import UserError
from advdmd_ray.runs import preflight


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd replay`."""
    command.add_argument("file", type=PATH, metavar="FILE", help="a file of a run's quarantine/")
    add_config(command, required=False)


def run_command(args: argparse.Namespace) -> int:
    """Prints what became of it; 1 if it is not finite here either, or ends its process."""
    from advdmd_ray.runs.alone import in_its_own_process
    from advdmd_ray.runs.replay import config_beside, replay
    from advdmd_ray.stations.buffer.quarantined import read_quarantined

    file = Path(args.file)
    kept, source = read_quarantined(file), args.config
    if source is None:
        beside = config_beside(file)
        if not beside.is_file():
            raise UserError(f"{file}: no config.yaml of a run is beside its folder; give the run's by --config")
        source = str(beside)
    config = read_config(source, args.overrides)
    preflight.check_model(config)
    replayed = in_its_own_process(partial(replay, config, kept))
    sys.stdout.write(replayed.text + "\n")
    return DONE if replayed.finite else FAILED


COMMAND = Command(
    "replay",
    "Run a lease of a run's quarantine again here, and say where its values stop being finite.",
    add_arguments,
    run_command,
)
