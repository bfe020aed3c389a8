"""`advdmd export`: writes the student of a run."""

import argparse
import sys
from pathlib import Path

from advdmd_ray.cli.arguments import DONE, PATH, Command, add_config
from advdmd_ray.config import read_config
from advdmd_ray.errors import CheckpointError, UserError
from advdmd_ray.files import disk_told
from advdmd_ray.runs import preflight
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.outputs import check_free, check_writable

_WHICH = "say by run.output and run.name which run it is"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd export`."""
    add_config(command)
    command.add_argument("--adapter", action="store_true", help="its adapters alone, for load_lora_weights")
    command.add_argument("--out", required=True, type=PATH, metavar="FOLDER", help="where it goes; must not exist")


def run_command(args: argparse.Namespace) -> int:
    """Writes the folder and prints its path."""
    config, out = read_config(args.config, args.overrides), Path(args.out)
    preflight.check_model(config)
    check_writable(out.parent, "give another --out")
    check_free(out)
    if not RunFolder(config.folder).checkpoints.is_dir():
        raise UserError(f"{config.folder}: no run with a checkpoint; {_WHICH}")
    from advdmd_ray.runs.export import export, export_adapter

    try:
        with disk_told(str(out), "nothing of it is left; make room, or give another --out"):
            written = export_adapter(config, out) if args.adapter else export(config, out)
    except CheckpointError as error:
        raise UserError(f"{error}; {_WHICH}") from None
    sys.stdout.write(f"{written}\n")
    return DONE


COMMAND = Command(
    "export", "Write the student of a run's newest checkpoint as a diffusers folder.", add_arguments, run_command
)
