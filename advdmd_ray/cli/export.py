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
from advdmd_ray.runs.publishing import Upload, check_repo, push, told

_WHICH = "say by run.output and run.name which run it is"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd export`."""
    add_config(command)
    command.add_argument("--adapter", action="store_true", help="its adapters alone, for load_lora_weights")
    command.add_argument(
        "--keys",
        choices=["diffusers", "comfyui", "kohya"],
        help="of --adapter: whose keys they have (default diffusers)",
    )
    command.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of the whole student (default: that of its base)"
    )
    command.add_argument("--out", required=True, type=PATH, metavar="FOLDER", help="where it goes; must not exist")
    command.add_argument(
        "--push-to-hub", metavar="OWNER/NAME", help="upload it to the Hugging Face hub too, as a private model"
    )
    command.add_argument("--public", action="store_true", help="of --push-to-hub: a public model")
    command.add_argument(
        "--dry-run", action="store_true", help="of --push-to-hub: say what would be uploaded, without a network"
    )


def run_command(args: argparse.Namespace) -> int:
    """Writes the folder and prints its path, and that of its upload."""
    _check_options(args)
    config, out = read_config(args.config, args.overrides), Path(args.out)
    preflight.check_model(config)
    check_writable(out.parent, "give another --out")
    check_free(out)
    if not RunFolder(config.folder).checkpoints.is_dir():
        raise UserError(f"{config.folder}: no run with a checkpoint; {_WHICH}")
    import torch

    from advdmd_ray.runs.export import export, export_adapter

    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    try:
        with disk_told(str(out), "nothing of it is left; make room, or give another --out"):
            if args.adapter:
                written = export_adapter(config, out, args.keys or "diffusers")
            else:
                written = export(config, out, dtype=dtype)
    except CheckpointError as error:
        raise UserError(f"{error}; {_WHICH}") from None
    sys.stdout.write(f"{written}\n")
    if args.push_to_hub is not None:
        upload = Upload(args.push_to_hub, written, private=not args.public)
        lines = told(upload) if args.dry_run else [push(upload)]
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return DONE


def _check_options(args: argparse.Namespace) -> None:
    """Make sure that options are given with those that they belong to.

    Raises:
        UserError: if not, or if the repository has no name that the hub takes.
    """
    if args.keys is not None and not args.adapter:
        raise UserError(f"--keys {args.keys}: is of adapters alone; add --adapter")
    if args.dtype is not None and args.adapter:
        raise UserError(f"--dtype {args.dtype}: is of the whole student; adapters stay float32, leave it out")
    if args.push_to_hub is None:
        for option in ("public", "dry_run"):
            if getattr(args, option):
                name = option.replace("_", "-")
                raise UserError(f"--{name}: is of an upload; add --push-to-hub OWNER/NAME")
    else:
        check_repo(args.push_to_hub)


COMMAND = Command(
    "export", "Write the student of a run's newest checkpoint as a diffusers folder.", add_arguments, run_command
)
