"""`advdmd run`: trains a student on Ray."""

import argparse
import os
import sys

from advdmd_ray.cli.arguments import DONE, Command, add_config
from advdmd_ray.config import Config, dump_config, read_config
from advdmd_ray.runs import preflight
from advdmd_ray.runs.folder import claim


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd run`."""
    add_config(command)
    command.add_argument(
        "--dry-run", action="store_true", help="show configuration, placement and memory; start nothing"
    )
    command.add_argument(
        "--resume", metavar="auto|PATH", help="go on from the run's last checkpoint, or from one at PATH"
    )
    command.add_argument("--fresh", action="store_true", help="move an earlier run of this name aside, to NAME.1")


def run_command(args: argparse.Namespace) -> int:
    """Checks everything that can be checked, holds the run folder, and runs to the end."""
    from advdmd_ray.runs.needs.memory import plan_text, ray_address

    config = read_config(args.config, args.overrides)
    start = preflight.check(config, args.resume, fresh=args.fresh)
    if args.dry_run:
        sys.stdout.write(dump_config(config) + "\n" + plan_text(config) + "\n" + start.note + "\n")
        return DONE
    sys.stderr.write(start.note + "\n")
    with claim(start):
        _encode_files(config)
        if ray_address(config) is not None:
            # Clusters that Ray 2.60 starts ask for a token; Ray reads this when it is imported.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from advdmd_ray.runtime.launch import run_on_ray

        return run_on_ray(config, resume=start.checkpoint)


def _encode_files(config: Config) -> None:
    """Encodes the images of data.source=files that are not encoded yet, where everybody can see how far it is."""
    if config.data.source != "files":
        return
    from rich.console import Console

    from advdmd_ray.data.files.dataset import files_data
    from advdmd_ray.evaluation.judges.thumbnails import check_count

    with Console(stderr=True).status("looking for images") as status:
        latents = files_data(config, lambda done, of: status.update(f"encoding images: {done} of {of} shards"))
    check_count(len(latents))
    sys.stderr.write(f"{len(latents)} real images with {len(set(latents.captions))} captions\n")


COMMAND = Command(
    "run", "Train a student: start a local Ray or join a cluster, and run the main job.", add_arguments, run_command
)
